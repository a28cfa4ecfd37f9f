"""Large 8-bit matrix products beside the peers, and float32 ones, as a share of the machine's roof.

    python benchmarks/products.py                      # 1024 and 4096 cubed, 1 and 2 threads
    python benchmarks/products.py --sizes 512 --threads 1

Runners take turns. `taut-int8` and `ort-int8` run MatMulInteger (u8 by known s8, zero points, int32
results); `ort-qdq` QLinearMatMul (u8 results); `ov-int8` a float product between FakeQuantize
nodes, how OpenVINO is told to compute in 8 bits (float32 results). Needs the `bench` extra.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import bars
import numpy as np
import onnx
import onnxruntime as ort
import results
import roof
from onnx import TensorProto, helper, numpy_helper
from taut.backends.cpu import compile
from taut.ir import Builder
from vs_peers import settle

IN_A_ROW = 3
Row = dict[str, Any]


class Case(ABC):
    """One runtime's product of n x n matrices with a known right operand."""

    name: str
    roof = "int8"

    def __init__(self, n: int, threads: int) -> None:
        rng = np.random.default_rng(0)
        self.n, self.threads = n, threads
        self.x = rng.integers(0, 256, (n, n), dtype=np.uint8)
        self.w = rng.integers(-127, 128, (n, n), dtype=np.int8)
        self.prepare()

    @abstractmethod
    def prepare(self) -> None:
        """Compile."""

    @abstractmethod
    def run(self) -> None:
        """One product."""


class TautInt8(Case):
    name = "taut-int8"

    def prepare(self) -> None:
        b = Builder()
        x = b.input("x", "u8", self.x.shape)
        graph = b.outputs(y=b.mat_mul_integer(x, self.w, np.uint8(128)))
        self.program = compile(graph, threads=self.threads)

    def run(self) -> None:
        self.program(self.x)


class TautFloat(Case):
    name, roof = "taut-f32", "f32"

    def prepare(self) -> None:
        b = Builder()
        x = b.input("x", "f32", self.x.shape)
        graph = b.outputs(y=b.mat_mul(x, self.w.astype(np.float32)))
        self.program, self.real = compile(graph, threads=self.threads), self.x.astype(np.float32)

    def run(self) -> None:
        self.program(self.real)


class OnnxRuntime(Case):
    """A session over one node."""

    def model(self) -> tuple[onnx.NodeProto, list[onnx.TensorProto], int]:
        """(the node, its constants, the result's element type)."""
        constants = [
            numpy_helper.from_array(self.w, "w"),
            numpy_helper.from_array(np.array(128, np.uint8), "x_zero"),
            numpy_helper.from_array(np.array(0, np.int8), "w_zero"),
        ]
        node = helper.make_node("MatMulInteger", ["x", "w", "x_zero", "w_zero"], ["y"])
        return node, constants, TensorProto.INT32

    name = "ort-int8"
    kind, feed = TensorProto.UINT8, "x"

    def prepare(self) -> None:
        node, constants, out = self.model()
        shape = [self.n, self.n]
        graph = helper.make_graph(
            [node], "product", [helper.make_tensor_value_info("x", self.kind, shape)],
            [helper.make_tensor_value_info("y", out, shape)], constants,
        )  # fmt: skip
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = self.threads, 1
        self.session = ort.InferenceSession(
            made.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def run(self) -> None:
        self.session.run(None, {"x": getattr(self, self.feed)})


class OnnxRuntimeQdq(OnnxRuntime):
    name = "ort-qdq"

    def model(self) -> tuple[onnx.NodeProto, list[onnx.TensorProto], int]:
        scale, zero = np.float32(0.01), np.uint8(128)
        values = [scale, zero, self.w, scale, np.int8(0), np.float32(2.0), zero]
        names = ["xs", "xz", "w", "ws", "wz", "ys", "yz"]
        constants = [numpy_helper.from_array(np.asarray(v), k) for k, v in zip(names, values)]
        node = helper.make_node("QLinearMatMul", ["x", *names], ["y"])
        return node, constants, TensorProto.UINT8


class OnnxRuntimeFloat(OnnxRuntime):
    name, roof = "ort-f32", "f32"
    kind, feed = TensorProto.FLOAT, "real"

    def model(self) -> tuple[onnx.NodeProto, list[onnx.TensorProto], int]:
        self.real = self.x.astype(np.float32)
        constants = [numpy_helper.from_array(self.w.astype(np.float32), "w")]
        return helper.make_node("MatMul", ["x", "w"], ["y"]), constants, TensorProto.FLOAT


class OpenVino(Case):
    name = "ov-int8"

    def prepare(self) -> None:
        import openvino as ov
        from openvino import opset13 as ops

        x = ops.parameter([self.n, self.n], np.float32, name="x")
        low, high = np.float32(-1.28), np.float32(1.27)
        seen = ops.fake_quantize(x, low, high, low, high, 256)
        weights = ops.constant(self.w.astype(np.float32) * np.float32(0.01))
        held = ops.fake_quantize(weights, -1.27, 1.27, -1.27, 1.27, 255)
        model: Any = ov.Model
        model = model([ops.matmul(seen, held, False, False)], [x], "product")
        hints = {"INFERENCE_NUM_THREADS": self.threads, "NUM_STREAMS": 1}
        self.request = ov.Core().compile_model(model, "CPU", hints).create_infer_request()
        self.real = (self.x.astype(np.float32) - 128) * np.float32(0.01)

    def run(self) -> None:
        self.request.infer([self.real], share_inputs=True, share_outputs=True)


CASES: tuple[type[Case], ...] = (
    TautInt8, OnnxRuntime, OnnxRuntimeQdq, OpenVino, TautFloat, OnnxRuntimeFloat,
)  # fmt: skip


def time_in_turn(cases: list[Case], seconds: float) -> dict[str, list[float]]:
    """Seconds of calls, a few in a row of each case in its turn, until the time is spent.

    Before a turn the threads of the last one's pool, which spin for a while, must have gone to
    sleep, and one call wakes those of this one.
    """
    taken: dict[str, list[float]] = {case.name: [] for case in cases}
    stop = time.perf_counter() + seconds
    while time.perf_counter() < stop or len(taken[cases[0].name]) < 2 * IN_A_ROW:
        for case in cases:
            settle()
            case.run()
            for _ in range(IN_A_ROW):
                start = time.perf_counter()
                case.run()
                taken[case.name].append(time.perf_counter() - start)
    return taken


def measure(n: int, threads: int, seconds: float) -> list[Row]:
    """The rows of one size and thread count; shares are of a roof measured beside them."""
    cases = [case(n, threads) for case in CASES]
    settle()
    roofs = {"int8": roof.measure_roof(threads), "f32": roof.measure_float_roof(threads)}
    taken = time_in_turn(cases, seconds)
    rows = []
    for case in cases:
        middle, best = float(np.median(taken[case.name])), min(taken[case.name])
        speed = 2e-9 * n**3
        rows.append({
            "model": f"product-{n}", "batch": 1, "threads": threads, "load": "idle",
            "runner": case.name, "median_ms": 1e3 * middle, "best_ms": 1e3 * best,
            "calls": len(taken[case.name]), "gops": speed / middle,
            "roof_gops": roofs[case.roof], "share": speed / middle / roofs[case.roof],
            "best_share": speed / best / roofs[case.roof],
        })  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description="Large matrix products beside the peers")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1024, 4096])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, os.cpu_count() or 1])
    parser.add_argument("--seconds", type=float, default=20.0, help="for each size and count")
    parser.add_argument("--out", type=Path, help="write the rows here, not among the results")
    options = parser.parse_args()
    rows = []
    for n in options.sizes:
        for threads in sorted(set(options.threads)):
            rows += measure(n, threads, options.seconds)
            for row in rows[-len(CASES) :]:
                print(
                    f"{row['model']:14} {threads} threads  {row['runner']:10} "
                    f"{row['median_ms']:9.2f} ms  best {row['best_ms']:9.2f}  "
                    f"{row['gops']:6.0f} GOPS  {100 * row['share']:5.1f}% of the roof",
                    flush=True,
                )
    ours = [r for r in rows if r["runner"] == "taut-int8"]
    worst = min(r["share"] for r in ours)
    print(f"taut-int8: at least {worst:.0%} of the roof "
          f"(must {bars.ROOF_MUST:.0%}, aim {bars.ROOF_AIM:.0%})")  # fmt: skip
    if options.out:
        options.out.write_text(json.dumps(rows))
    else:
        print(results.write("products", rows, seconds=options.seconds))


if __name__ == "__main__":
    main()
