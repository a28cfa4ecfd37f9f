"""Taut's intermediate representation: graphs of typed ops over one networkx store."""

from . import ops as ops
from .build import Builder
from .container import load_container, load_text, save_container, save_text
from .differentiate import differentiate
from .equality import assert_equal, difference, equal
from .errors import (
    CompileError,
    FeedError,
    LimitError,
    ModelError,
    NotDifferentiableError,
    ParseError,
    PassError,
    RankUnknown,
    StorageError,
    TautError,
    TrainingError,
    UnsupportedError,
    VerifyError,
)
from .graph import Graph
from .interpret import interpret
from .node import NamedOperands, Node, Use, Value
from .op import (
    Abstract,
    Array,
    Cost,
    Op,
    all_ops,
    op_class,
    op_for_onnx,
    ops_where,
    ops_with,
    register,
)
from .parser import parse
from .printer import print_graph
from .traits import Trait
from .types import DEFAULT_LIMITS, Dim, DType, Limits, Shape, TensorType
from .verify import verify

__all__ = [
    "DEFAULT_LIMITS", "Abstract", "Array", "Builder", "CompileError", "Cost", "DType", "Dim",
    "FeedError", "Graph", "LimitError", "Limits", "ModelError", "NamedOperands", "Node",
    "NotDifferentiableError", "Op", "ParseError", "PassError", "RankUnknown", "Shape",
    "StorageError", "TautError", "TensorType", "TrainingError", "Trait", "UnsupportedError", "Use",
    "Value", "VerifyError", "all_ops", "assert_equal", "difference", "differentiate", "equal",
    "interpret", "load_container", "load_text", "op_class", "op_for_onnx", "ops_where", "ops_with",
    "parse", "print_graph", "register", "save_container", "save_text", "verify",
]  # fmt: skip
