"""A program's entry, from its text to LLVM IR, without Numba: entries only call.

The text is the part of Python that calls need; anything else is a ValueError.

    entry      def entry(tid, nt, base): statement...
    statement  name = number
             | kernel(number, number, number)
             | store_i64(number, number)                 address, value
             | for name in range(number): statement...
    number     17 | name | number + number | number * number | load_i64(number)

All numbers are int64s. A name is given its value once.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping

import llvmlite.ir as ir

from .emit import I64, Emit, Value, declare
from .isa import TABLES

_SIGNATURE = ir.FunctionType(ir.VoidType(), [I64] * 3)
_ARGUMENTS = ["tid", "nt", "base"]


def llvm_ir(source: str, kernels: Mapping[str, str], symbol: str) -> str:
    """LLVM IR of `void symbol(i64 tid, i64 nt, i64 base)`, which calls `kernels` (the text's names
    to linked symbols). ValueError, with the line, for what is not in the language."""
    module = ir.Module("entry")
    function = ir.Function(module, _SIGNATURE, symbol)
    builder = ir.IRBuilder(function.append_basic_block())
    match ast.parse(source).body:
        case [ast.FunctionDef(name="entry", body=body) as found]:
            if [a.arg for a in found.args.args] != _ARGUMENTS:
                raise _refused(found)
        case _:
            raise ValueError("an entry is one function, `entry(tid, nt, base)`")
    scope = dict(zip(_ARGUMENTS, function.args))
    _Writer(builder, kernels, scope).statements(body)
    builder.ret_void()
    return str(module)


class _Writer:
    """Emits statements; `scope` has the values of names."""

    def __init__(
        self, builder: ir.IRBuilder, kernels: Mapping[str, str], scope: dict[str, Value]
    ) -> None:
        self.e, self.kernels, self.scope = Emit(builder, TABLES["portable"]), kernels, scope

    def statements(self, body: Iterable[ast.stmt]) -> None:
        for statement in body:
            self.statement(statement)

    def statement(self, statement: ast.stmt) -> None:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                self.name(statement, name, self.number(value))
            case ast.Expr(value=ast.Call(func=ast.Name(id=name), args=args, keywords=[])):
                self.call(statement, name, [self.number(a) for a in args])
            case ast.For(
                target=ast.Name(id=name), body=body, orelse=[],
                iter=ast.Call(func=ast.Name(id="range"), args=[times], keywords=[]),
            ):  # fmt: skip
                self.repeat(statement, name, self.number(times), body)
            case _:
                raise _refused(statement)

    def name(self, statement: ast.stmt, name: str, value: Value) -> None:
        if name in self.scope:
            raise _refused(statement)
        self.scope[name] = value

    def call(self, statement: ast.stmt, name: str, args: list[Value]) -> None:
        if name == "store_i64" and len(args) == 2:
            self.e.store(args[1], args[0])
        elif name in self.kernels and len(args) == 3:
            self.e.b.call(declare(self.e.b.module, _SIGNATURE, self.kernels[name]), args)
        else:
            raise _refused(statement)

    def repeat(
        self, statement: ast.stmt, name: str, times: Value, body: Iterable[ast.stmt]
    ) -> None:
        outside = dict(self.scope)

        def once(i: Value, _: list[Value]) -> list[Value]:
            self.name(statement, name, i)
            self.statements(body)
            return []

        with self.e.b.if_then(self.e.b.icmp_signed("<", self.e.i64(0), times)):
            self.e.loop(self.e.i64(0), times, 1, [], once)
        self.scope = outside  # a name of the body has no value when it never ran

    def number(self, value: ast.expr) -> Value:
        match value:
            case ast.Constant(value=int(number)) if not isinstance(number, bool):
                return self.e.i64(number)
            case ast.Name(id=name) if name in self.scope:
                return self.scope[name]
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                return self.e.add(self.number(left), self.number(right))
            case ast.BinOp(left=left, op=ast.Mult(), right=right):
                return self.e.mul(self.number(left), self.number(right))
            case ast.Call(func=ast.Name(id="load_i64"), args=[address], keywords=[]):
                return self.e.load(self.number(address))
        raise _refused(value)


def _refused(node: ast.stmt | ast.expr) -> ValueError:
    return ValueError(f"line {node.lineno} of an entry is not in its language: {ast.unparse(node)}")
