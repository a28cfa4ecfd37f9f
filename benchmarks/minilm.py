"""MiniLM, a sentence encoder of six BERT layers, as one ONNX file for every runtime.

Written out as exporters write it: MatMul and Add for linear layers, erf for GELU, reshapes and
transposes around attention. The one input holds token ids; padding (id 0) is masked.
"""

from __future__ import annotations

import json

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file

from taut import samples


def proto(sequence: int) -> onnx.ModelProto:
    """ids i64[1, sequence] -> sentence embedding f32[1, 384]; the batch may be written over."""
    config = json.loads(samples.fetch("minilm-config").read_text())
    writer = _Writer(load_file(samples.fetch("minilm")), config, sequence)
    return writer.model()


class _Writer:
    """Adds nodes one by one; a method returns the name of what it made."""

    def __init__(self, weights: dict[str, np.ndarray], config: dict, sequence: int):
        self.weights, self.config = weights, config
        self.sequence = sequence
        self.heads, self.width = config["num_attention_heads"], config["hidden_size"]
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}

    def model(self) -> onnx.ModelProto:
        ids = helper.make_tensor_value_info("ids", TensorProto.INT64, [1, self.sequence])
        result = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, [1, self.width])
        keep = self.node("Not", self.node("Equal", "ids", self.put(0)))
        mask, keep = self.node("Cast", keep, to=1), self.node("Unsqueeze", keep, self.put([1, 2]))
        x = self.embed()
        for k in range(self.config["num_hidden_layers"]):
            x = self.layer(x, keep, f"encoder.layer.{k}")
        self.pool(x, mask)
        graph = helper.make_graph(
            self.nodes, "minilm", [ids], [result],
            [numpy_helper.from_array(v, k) for k, v in self.constants.items()],
        )  # fmt: skip
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.checker.check_model(model)
        return model

    # ---- parts ---------------------------------------------------------------------------------

    def embed(self) -> str:
        words = self.node("Gather", self.weight("embeddings.word_embeddings.weight"), "ids")
        places = self.weights["embeddings.position_embeddings.weight"][: self.sequence]
        kinds = self.weights["embeddings.token_type_embeddings.weight"][0]
        return self.norm(self.node("Add", words, self.put(places + kinds)), "embeddings.LayerNorm")

    def layer(self, x: str, keep: str, at: str) -> str:
        inside = f"{at}.attention.self"
        q, k, v = (self.split(self.linear(x, f"{inside}.{n}")) for n in ("query", "key", "value"))
        q = self.node("Div", q, self.put(np.float32((self.width / self.heads) ** 0.5)))
        turned = self.node("Transpose", k, perm=[0, 1, 3, 2])
        # A choice rather than a sum with -1e9: quantizers would give that sum a scale.
        scores = self.node("MatMul", q, turned)
        scores = self.node("Where", keep, scores, self.put(np.float32(-1e9)))
        seen = self.node("MatMul", self.node("Softmax", scores, axis=-1), v)
        seen = self.node("Transpose", seen, perm=[0, 2, 1, 3])
        seen = self.node("Reshape", seen, self.put([-1, self.sequence, self.width]))
        y = self.node("Add", self.linear(seen, f"{at}.attention.output.dense"), x)
        x = self.norm(y, f"{at}.attention.output.LayerNorm")
        y = self.gelu(self.linear(x, f"{at}.intermediate.dense"))
        y = self.node("Add", self.linear(y, f"{at}.output.dense"), x)
        return self.norm(y, f"{at}.output.LayerNorm")

    def linear(self, x: str, at: str) -> str:
        weight = np.ascontiguousarray(self.weights[f"{at}.weight"].T)
        return self.node("Add", self.node("MatMul", x, self.put(weight, f"{at}.weight")),
                         self.weight(f"{at}.bias"))  # fmt: skip

    def split(self, x: str) -> str:
        shape = [-1, self.sequence, self.heads, self.width // self.heads]
        return self.node("Transpose", self.node("Reshape", x, self.put(shape)), perm=[0, 2, 1, 3])

    def gelu(self, x: str) -> str:
        root = self.node("Erf", self.node("Div", x, self.put(np.float32(2**0.5))))
        half = self.node("Mul", x, self.node("Add", root, self.put(np.float32(1))))
        return self.node("Mul", half, self.put(np.float32(0.5)))

    def norm(self, x: str, at: str) -> str:
        scale, bias = (self.weight(f"{at}.{k}") for k in ("weight", "bias"))
        epsilon = self.config["layer_norm_eps"]
        return self.node("LayerNormalization", x, scale, bias, epsilon=epsilon)

    def pool(self, x: str, mask: str) -> None:
        column = self.node("Unsqueeze", mask, self.put([2]))
        total = self.node("ReduceSum", self.node("Mul", x, column), self.put([1]), keepdims=0)
        mean = self.node("Div", total, self.node("ReduceSum", column, self.put([1]), keepdims=0))
        size = self.node("ReduceL2", mean, axes=[1], keepdims=1)
        self.nodes.append(helper.make_node("Div", [mean, size], ["embedding"], name="embedding"))

    # ---- writing -------------------------------------------------------------------------------

    def node(self, kind: str, *inputs: str, **attributes: object) -> str:
        name = f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name

    def put(self, value: object, name: str = "") -> str:
        array = np.asarray(value)
        name = name or f"constant_{len(self.constants)}"
        self.constants[name] = array
        return name

    def weight(self, name: str) -> str:
        return self.put(self.weights[name], name)
