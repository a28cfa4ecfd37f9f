"""What a fresh install must do: build, save, load, optimize, compile and run a small graph."""

import tempfile
from pathlib import Path

import numpy as np

import taut

b = taut.ir.Builder()
x = b.input("x", "f32", ("batch", 3, 8, 8))
w = np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32)
graph = b.outputs(y=b.relu(b.conv(x, w, pads=(1, 1, 1, 1))))
with tempfile.TemporaryDirectory() as folder:
    taut.save(graph, Path(folder) / "small.taut")
    graph = taut.load(Path(folder) / "small.taut")
image = np.random.default_rng(1).normal(size=(2, 3, 8, 8)).astype(np.float32)
want = taut.reference(graph, image)["y"]
got = taut.compile(taut.optimize(graph, "O1"), threads=1)(image)["y"]
np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
print(f"wheel: {Path(taut.__file__).parent} runs")
