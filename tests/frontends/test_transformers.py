"""BERT-like encoders: against torch, and out of files that lie."""

from __future__ import annotations

import dataclasses
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from taut.frontends.transformers import BertConfig, load_bert
from taut.ir import FeedError, LimitError, Limits, ModelError, StorageError, UnsupportedError

import taut

Array = np.ndarray[Any, Any]
SMALL = BertConfig(
    vocab_size=50, hidden_size=24, num_hidden_layers=2, num_attention_heads=3,
    intermediate_size=40, max_position_embeddings=12,
)  # fmt: skip


def shapes(c: BertConfig) -> dict[str, tuple[int, ...]]:
    h, e = c.hidden_size, "embeddings"
    found: dict[str, tuple[int, ...]] = {
        f"{e}.word_embeddings.weight": (c.vocab_size, h),
        f"{e}.position_embeddings.weight": (c.max_position_embeddings, h),
        f"{e}.token_type_embeddings.weight": (c.type_vocab_size, h),
        f"{e}.LayerNorm.weight": (h,),
        f"{e}.LayerNorm.bias": (h,),
    }
    for i in range(c.num_hidden_layers):
        layer = f"encoder.layer.{i}"
        sizes = {
            "attention.self.query": (h, h), "attention.self.key": (h, h),
            "attention.self.value": (h, h), "attention.output.dense": (h, h),
            "intermediate.dense": (c.intermediate_size, h),
            "output.dense": (h, c.intermediate_size),
        }  # fmt: skip
        for name, size in sizes.items():
            found[f"{layer}.{name}.weight"] = size
            found[f"{layer}.{name}.bias"] = size[:1]
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            found[f"{layer}.{name}.weight"] = found[f"{layer}.{name}.bias"] = (h,)
    return found


def draw(c: BertConfig) -> dict[str, Array]:
    random = np.random.default_rng(3)
    return {
        k: np.asarray(random.normal(0, 0.3, s) + (k.endswith("Norm.weight")), np.float32)
        for k, s in shapes(c).items()
    }


def write(folder: Path, c: BertConfig = SMALL, tensors: dict[str, Array] | None = None) -> Path:
    config = dataclasses.asdict(c) | {"model_type": "bert"}
    (folder / "config.json").write_text(json.dumps(config))
    save_file(draw(c) if tensors is None else tensors, folder / "model.safetensors")
    return folder


def by_torch(
    c: BertConfig, w: dict[str, Array], ids: Array, mask: Array, types: Array | None = None
) -> tuple[Array, Array]:
    """The encoder written out in PyTorch, as its trainers run it."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    F = torch.nn.functional
    t = {k: torch.from_numpy(np.array(v, np.float32)) for k, v in w.items() if v.dtype.kind == "f"}

    def norm(x: Any, at: str) -> Any:
        return F.layer_norm(x, x.shape[-1:], t[f"{at}.weight"], t[f"{at}.bias"], c.layer_norm_eps)

    def linear(x: Any, at: str) -> Any:
        return F.linear(x, t[f"{at}.weight"], t[f"{at}.bias"])

    def heads(x: Any) -> Any:
        return x.view(*x.shape[:2], c.num_attention_heads, -1).transpose(1, 2)

    where, keep = torch.from_numpy(ids), torch.from_numpy(mask)
    kinds = torch.zeros_like(where) if types is None else torch.from_numpy(types)
    x = t["embeddings.word_embeddings.weight"][where]
    x = x + t["embeddings.position_embeddings.weight"][: ids.shape[1]]
    x = norm(x + t["embeddings.token_type_embeddings.weight"][kinds], "embeddings.LayerNorm")
    for i in range(c.num_hidden_layers):
        at = f"encoder.layer.{i}"
        q, k, v = (heads(linear(x, f"{at}.attention.self.{n}")) for n in ("query", "key", "value"))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=keep[:, None, None, :] != 0)
        y = linear(y.transpose(1, 2).reshape(x.shape), f"{at}.attention.output.dense")
        x = norm(x + y, f"{at}.attention.output.LayerNorm")
        y = getattr(F, c.hidden_act)(linear(x, f"{at}.intermediate.dense"))
        x = norm(x + linear(y, f"{at}.output.dense"), f"{at}.output.LayerNorm")
    weight = keep[:, :, None].float()
    mean = (x * weight).sum(1) / weight.sum(1).clamp(min=1e-9)
    return x.numpy(), F.normalize(mean).numpy()


@pytest.mark.parametrize("act", ["gelu", "relu", "silu"])
def test_a_small_encoder_is_what_torch_computes(tmp_path: Path, act: str) -> None:
    c = dataclasses.replace(SMALL, hidden_act=act)
    graph = load_bert(write(tmp_path, c), token_types=True)
    random = np.random.default_rng(0)
    for batch, length in ((1, 1), (3, 12), (2, 7)):
        ids, types = (random.integers(0, n, (batch, length)) for n in (50, 2))
        mask = np.ones_like(ids)
        mask[-1, length // 2 + 1 :] = 0
        want = by_torch(c, draw(c), ids, mask, types)
        got = taut.reference(graph, ids, mask, types)
        for a, b in zip(want, got.values()):
            np.testing.assert_allclose(b, a, rtol=0, atol=1e-5)


def test_minilm_is_what_torch_computes() -> None:
    from taut.frontends.transformers.config import read_config
    from taut.frontends.transformers.weights import read_safetensors

    config, weights = (_sample(n) for n in ("minilm-config", "minilm"))
    graph = load_bert(config, weights)
    ids = np.random.default_rng(1).integers(1000, 30000, (2, 9))
    mask = np.ones_like(ids)
    mask[1, 6:] = 0
    want = by_torch(read_config(config), read_safetensors(weights), ids, mask)
    got = taut.reference(graph, ids, mask)
    for a, b in zip(want, got.values()):
        np.testing.assert_allclose(b, a, rtol=0, atol=1e-4)


def _sample(name: str) -> Path:
    try:
        return taut.samples.fetch(name)
    except taut.samples.SampleError as error:
        pytest.skip(f"sample {name} cannot be had: {error}")


def test_load_takes_the_folder_and_the_configuration(tmp_path: Path) -> None:
    write(tmp_path)
    for path in (tmp_path, tmp_path / "config.json"):
        graph = taut.load(path)
        assert list(graph.signature.inputs) == ["input_ids", "attention_mask"]
        hidden = graph.signature.outputs["last_hidden_state"]
        assert str(hidden) == "f32[batch,sequence,24]"


def test_more_tokens_than_positions_are_refused_by_name(tmp_path: Path) -> None:
    graph = load_bert(write(tmp_path))
    ids = np.zeros((1, 13), np.int64)
    for run in (taut.compile(graph, threads=1), lambda *a: taut.reference(graph, *a)):
        with pytest.raises(FeedError, match="sequence is 13, where the model takes 12 at most"):
            run(ids, np.ones_like(ids))


# ---- files that lie ------------------------------------------------------------------------------

BAD_CONFIGS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"hidden_size": 25}, ModelError, "does not divide into 3 heads"),
    ({"hidden_size": 0}, ModelError, "hidden_size is '0'"),
    ({"num_hidden_layers": -1}, ModelError, "num_hidden_layers is '-1'"),
    ({"num_hidden_layers": 10**9}, ModelError, "no integer of 1 to"),
    ({"vocab_size": "many"}, ModelError, "vocab_size is 'many'"),
    ({"vocab_size": 2.5}, ModelError, "vocab_size is '2.5'"),
    ({"vocab_size": True}, ModelError, "vocab_size is 'True'"),
    ({"layer_norm_eps": 0}, ModelError, "layer_norm_eps"),
    ({"layer_norm_eps": "nan"}, ModelError, "layer_norm_eps"),
    ({"hidden_act": "swishy"}, UnsupportedError, "activation 'swishy' is not known"),
    ({"hidden_act": ["gelu"]}, UnsupportedError, "is not known"),
    ({"model_type": "gpt2"}, UnsupportedError, 'type "gpt2"'),
    ({"position_embedding_type": "relative_key"}, UnsupportedError, "absolute"),
    ({"hidden_size": 27}, ModelError, "where the configuration wants"),
    ({"num_hidden_layers": 3}, ModelError, r"encoder\.layer\.2.* is missing"),
]


@pytest.mark.parametrize(("change", "kind", "words"), BAD_CONFIGS)
def test_bad_configurations_are_named(
    tmp_path: Path, change: dict[str, Any], kind: type[Exception], words: str
) -> None:
    write(tmp_path)
    where = tmp_path / "config.json"
    where.write_text(json.dumps(json.loads(where.read_text()) | change))
    with pytest.raises(kind, match=words):
        load_bert(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{", "{}", "[" * 100_000, '{"vocab_size": 5}'])
def test_what_is_no_configuration_is_refused(tmp_path: Path, text: str) -> None:
    write(tmp_path)
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ModelError, match=r"config\.json"):
        load_bert(tmp_path)


def test_missing_files_are_storage_errors(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"config\.json"):
        load_bert(tmp_path)
    write(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(StorageError, match=r"model\.safetensors"):
        load_bert(tmp_path)


def pack(header: Any, body: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def entry(dtype: str = "F32", shape: Any = (1,), span: Any = (0, 4)) -> dict[str, Any]:
    return {"x": {"dtype": dtype, "shape": list(shape), "data_offsets": list(span)}}


BAD_FILES: list[tuple[bytes, type[Exception], str]] = [
    (b"", ModelError, "no safetensors file"),
    (b"\xff" * 8, ModelError, "header does not fit"),
    (pack({}, length=1 << 40), ModelError, "header does not fit"),
    (pack(b"{nonsense"), ModelError, "no JSON"),
    (pack(b"\xff\xfe\xfd"), ModelError, "no JSON"),
    (pack(b"[" * 50_000), ModelError, "no JSON"),
    (pack([]), ModelError, "no JSON object"),
    (pack({"x": 3}), ModelError, '"x" is described by no JSON object'),
    (pack(entry(shape=[-1]), b"1234"), ModelError, "no sound shape"),
    (pack(entry(shape=["n"]), b"1234"), ModelError, "no sound shape"),
    (pack(entry(shape=[1 << 61, 1 << 61]), b"1234"), ModelError, "lies at 0..4 of 4"),
    (pack(entry(shape=[1] * 40), b"1234"), ModelError, "no sound shape"),
    (pack(entry(span=[0, 8]), b"1234"), ModelError, "lies at 0..8 of 4"),
    (pack(entry(span=[4, 0]), b"1234"), ModelError, "lies at 4..0 of 4"),
    (pack(entry(span=[0, 4, 8]), b"1234"), ModelError, "no sound shape"),
    (pack(entry(shape=[2]), b"1234"), ModelError, "of 8 bytes lies at 0..4"),
    (pack(entry("F8_E4M3"), b"1234"), UnsupportedError, "F8_E4M3"),
    (pack(entry(), b"1234"), ModelError, r"word_embeddings\.weight.* is missing"),
]


@pytest.mark.parametrize(("data", "kind", "words"), BAD_FILES)
def test_damaged_weights_are_named(
    tmp_path: Path, data: bytes, kind: type[Exception], words: str
) -> None:
    write(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(data)
    with pytest.raises(kind, match=words) as caught:
        load_bert(tmp_path)
    assert "model.safetensors" in str(caught.value)


CHANGES: list[tuple[str, Callable[[Array], Array | None], str]] = [
    ("encoder.layer.1.output.dense.weight", lambda x: x.T.copy(), r"\[40, 24\], .* \[24, 40\]"),
    ("encoder.layer.1.output.dense.bias", lambda x: None, "is missing"),
    ("embeddings.LayerNorm.bias", lambda x: x.astype(np.int32), "no float"),
]


@pytest.mark.parametrize(("name", "change", "words"), CHANGES)
def test_wrong_tensors_are_named(
    tmp_path: Path, name: str, change: Callable[[Array], Array | None], words: str
) -> None:
    tensors = draw(SMALL)
    made = change(tensors.pop(name))
    write(tmp_path, SMALL, tensors if made is None else tensors | {name: made})
    with pytest.raises(ModelError, match=words) as caught:
        load_bert(tmp_path)
    assert name in str(caught.value)


def test_half_precision_and_a_prefix_are_read(tmp_path: Path) -> None:
    half = {f"bert.{k}": v.astype(np.float16) for k, v in draw(SMALL).items()}
    graph = load_bert(write(tmp_path, SMALL, half))
    assert graph.signature.outputs["sentence_embedding"].dtype.value == "f32"


def test_a_file_beyond_the_limit_is_not_read(tmp_path: Path) -> None:
    with pytest.raises(LimitError):
        load_bert(write(tmp_path), limits=Limits(model_bytes=1000))
