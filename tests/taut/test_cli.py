"""The command line: what each command prints, and that bad input is one line and exit code 2."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from taut.ir import Graph, assert_equal, parse, print_graph
from taut.passes import base

import taut
from taut.cli import main

STRANGE = 'first"\n\x1b[31m[bold]%s'


def small() -> Graph:
    b = taut.ir.Builder()
    x = b.input("x", "f32", ("batch", 3, 6, 6))
    w = np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32)
    same = b.relu(b.conv(x, w, pads=(1, 1, 1, 1), name=STRANGE))
    return b.outputs(y=b.add(same, b.sigmoid(same)))


@pytest.fixture
def model(tmp_path: Path) -> str:
    path = tmp_path / "small.taut"
    taut.save(small(), path)
    return str(path)


@pytest.fixture
def images(tmp_path: Path) -> str:
    path = tmp_path / "x.npy"
    np.save(path, np.random.default_rng(1).normal(size=(5, 3, 6, 6)).astype(np.float32))
    return str(path)


class Shell:
    """Runs `main` in this process; `code`, `out` and `err` are of the last run."""

    def __init__(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
        self.capsys, self.monkeypatch = capsys, monkeypatch

    def __call__(self, *arguments: str, stdin: bytes | None = None) -> str:
        if stdin is not None:
            self.monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        self.code = main(arguments)
        self.out, self.err = self.capsys.readouterr()
        return self.out

    def json(self, *arguments: str, **options) -> dict:
        out = self(*arguments, "--json", **options)
        assert self.code == 0, self.err
        return json.loads(out)

    def fails(self, *arguments: str, code: int = 2, stdin: bytes | None = None) -> str:
        """One line on stderr, nothing on stdout."""
        self(*arguments, stdin=stdin)
        assert self.code == code, self.err
        assert self.err.startswith("taut: error: ")
        assert self.err.count("\n") == 1 and self.err.strip().isprintable()
        assert "Traceback" not in self.err and self.out == ""
        return self.err


@pytest.fixture
def taut_(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Shell:
    monkeypatch.delenv("TAUT_DEBUG", raising=False)
    return Shell(capsys, monkeypatch)


# ---- what the commands do ----------------------------------------------------------------------


COMMANDS = (
    "inspect", "dump", "opt", "quantize", "compile", "run", "bench", "profile", "compare", "emit",
    "passes", "ops", "export", "fuzz", "demo", "train", "finetune",
)  # fmt: skip


def test_help_lists_every_command(taut_: Shell):
    text = taut_("--help")
    assert taut_.code == 0
    for name in COMMANDS:
        assert f" {name} " in text
        taut_(name, "--help")
        assert taut_.code == 0
    assert taut_("--version").strip() == f"taut {taut.__version__}"


def test_inspect_counts(taut_: Shell, model: str):
    facts = taut_.json("inspect", model, "--dim", "batch=2")
    assert facts["ops"]["conv"] == {"count": 1, "macs": 2 * 4 * 36 * 27, "parameters": 108}
    assert facts["parameters"] == 108 and facts["constant_bytes"] == 432
    assert facts["inputs"] == {"x": "f32[batch,3,6,6]"} and facts["unsupported"] == []
    text = taut_("inspect", model)
    assert "conv" in text and "batch=1" in text and "3,888" in text


def test_dump_and_opt_are_a_pipe(taut_: Shell, model: str):
    text = taut_("dump", model)
    assert_equal(parse(text), taut.load(model), names=True)
    assert "resources" not in taut_("dump", model, "--no-weights")
    after = taut_("opt", "-", "-p", "cse,dce", stdin=text.encode())
    assert taut_.code == 0
    assert_equal(parse(after), taut.load(model))
    assert taut_.json("inspect", "-", stdin=after.encode())["model"] == "-"


@pytest.mark.parametrize("suffix", [".taut", ".ir"])
def test_stdin_takes_files_of_each_kind(taut_: Shell, tmp_path: Path, suffix: str):
    b = taut.ir.Builder()
    taut.save(b.outputs(y=b.relu(b.input("x", "f32", (2,)))), tmp_path / f"m{suffix}")
    data = (tmp_path / f"m{suffix}").read_bytes()
    assert "relu" in taut_("dump", "-", stdin=data)


def test_opt_reports(taut_: Shell, model: str, tmp_path: Path):
    taut_("opt", model, "-p", "dce,cse", "-o", str(tmp_path / "o.ir"), "--stats", "--time",
          "--print-after", "cse", "--print-before", "all", "--print-changed")  # fmt: skip
    assert taut_.code == 0 and taut_.out == ""
    assert taut_.err.count("before pass") == 2 and "after pass 1: cse" in taut_.err
    assert "Passes" in taut_.err
    assert_equal(taut.load(tmp_path / "o.ir"), taut.load(model))
    report = taut_.json("opt", model, "-p", "dce,cse", "--check", "--random", "2")
    assert [p["name"] for p in report["passes"]] == ["dce", "cse"]
    taut_("opt", model, "-p", "dce,cse", "--bisect-limit", "1", "-o", str(tmp_path / "o.ir"))
    assert "1 steps were taken, the last: dce" in taut_.err


def test_run_joins_calls(taut_: Shell, model: str, images: str, tmp_path: Path):
    want = taut.reference(taut.load(model), np.load(images))["y"]
    for target in ("reference", "cpu"):
        out = str(tmp_path / f"{target}.npz")
        facts = taut_.json("run", model, "--data", images, "--batch", "2", "--target", target,
                           "-o", out, "--threads", "1", "--check-finite")  # fmt: skip
        assert facts["calls"] == 3
        assert facts["outputs"][0]["shape"] == [5, 4, 6, 6]
        np.testing.assert_allclose(np.load(out)["y"], want, rtol=1e-4, atol=1e-5)


def test_bench_profile_compile_emit(taut_: Shell, model: str):
    timed = taut_.json("bench", model, model, "--repeat", "3", "--target", "reference")
    assert list(timed) == [model, f"{model} (2)"]
    for row in timed.values():
        assert row["calls"] == 3 and 0 < row["best"] <= row["median"] <= row["p90"]
    rows = taut_.json("profile", model, "--repeat", "2", "--target", "reference")["kernels"]
    assert {r["kernel"] for r in rows} == {"conv", "relu", "sigmoid", "add"}
    assert all(r["seconds"] >= 0 for r in rows)
    made = taut_.json("compile", model, "--threads", "1")
    assert made["kernels"] >= 1 and made["memory"] > 0
    assert made["compiled"] + made["from_disk"] > 0 and made["schedules"] == 0
    assert "def " in taut_("emit", model, "--threads", "1")
    assert "conv(" in taut_("emit", model, "--target", "reference")
    assert "no llvm" in taut_.fails("emit", model, "--target", "reference", "--form", "llvm")


def test_compile_tunes_and_keeps_a_record(taut_: Shell, model: str, tmp_path: Path):
    record = str(tmp_path / "tuning.json")
    tune = ("compile", model, "--threads", "1", "--tune", "--budget", "0.2", "--tuning", record)
    assert "machine code" in taut_(*tune)
    found = json.loads(Path(record).read_text())["layers"]
    again = taut_.json("compile", model, "--threads", "1", "--tuning", record)
    assert again["schedules"] == len(found)
    assert "its threads is" in taut_.fails("compile", model, "--threads", "2", "--tuning", record)
    Path(record).write_text("{}")
    assert "not a tuning record" in taut_.fails("compile", model, "--tuning", record)


def test_compare_shows_layers(taut_: Shell, model: str):
    found = taut_.json("compare", model, model, "--random", "2")
    assert {x["sqnr_db"] for x in found["layers"]} == {"inf"}
    assert "SQNR" in taut_("compare", model, model, "--random", "1", "--outputs")


def test_ops_and_passes_show_declarations(taut_: Shell):
    assert {o["name"] for o in json.loads(taut_("ops", "--json"))} == {
        c.name for c in taut.ir.all_ops()
    }
    conv = taut_.json("ops", "Conv")
    assert conv["operands"] == ["x", "weight", "bias?"] and conv["onnx"] == "Conv"
    assert "group" in taut_("ops", "conv")
    assert "output channels" in conv["traits"]["weighted"]
    assert "weight[group*o,i,k...]" in taut_("ops", "conv")
    assert "depends: by operands" in taut_("ops", "reshape")
    assert "idempotent" in taut_("ops", "relu")
    assert {p["name"] for p in taut_.json("passes")["passes"]} == {
        p.name for p in taut.passes.all_passes()
    }
    assert "never" not in taut_("passes", "dce") and "bound: exact" in taut_.out


def test_export_writes_each_form(taut_: Shell, tmp_path: Path):
    b = taut.ir.Builder()
    g = b.outputs(y=b.relu(b.input("x", "f32", (2,))))
    taut.save(g, tmp_path / "a.ir")
    for name in ("b.taut", "c.ir", "d.onnx"):
        facts = taut_.json("export", str(tmp_path / "a.ir"), "-o", str(tmp_path / name))
        assert facts["bytes"] == (tmp_path / name).stat().st_size
        assert_equal(taut.load(tmp_path / name), g)


# ---- bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["absent.onnx", "absent.taut", "folder.ir", "folder.onnx", "x.pt"])
def test_unreadable_models(taut_: Shell, tmp_path: Path, name: str):
    if name.startswith("folder"):
        (tmp_path / name).mkdir()
    for command in (["inspect"], ["dump"], ["opt", "-p", "dce"], ["compile"]):
        assert name in taut_.fails(*command, str(tmp_path / name))


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_forbidden_files(taut_: Shell, model: str):
    os.chmod(model, 0)
    assert "denied" in taut_.fails("inspect", model)


def test_damaged_models(taut_: Shell, model: str, tmp_path: Path):
    good = Path(model).read_bytes()
    bad = tmp_path / "bad.taut"
    middle = len(good) // 2
    flipped = good[:middle] + bytes([good[middle] ^ 1]) + good[middle + 1 :]
    for data in (b"", good[:middle], good[:-30], flipped, b"\0" * 64):
        bad.write_bytes(data)
        assert "bad.taut" in taut_.fails("inspect", str(bad))


@pytest.mark.parametrize("text", [b"", b" \n", b"graph @a(", b"\xff\xfe graph", b"PK\x03\x04aa"])
def test_bad_standard_input(taut_: Shell, text: bytes):
    taut_.fails("dump", "-", stdin=text)


def test_errors_name_standard_input(taut_: Shell):
    text = print_graph(small()).replace("relu(", "rely(").encode()
    message = taut_.fails("opt", "-", "-p", "dce", stdin=text)
    assert '"-": ' in message and "line 4" in message and "rely" in message


@pytest.mark.parametrize(
    "arguments",
    [
        ["bogus"], ["inspect"], ["run", "MODEL", "--random", "0"], ["run", "MODEL", "--nonsense"],
        ["run", "MODEL", "--random", "x"], ["run", "MODEL"], ["opt"],
        ["run", "MODEL", "--random", "1", "--data", "DATA"],
        ["run", "MODEL", "--random", "1", "--dim", "batch"],
        ["run", "MODEL", "--random", "1", "--dim", "no_such_size=4"],
        ["inspect", "MODEL", "--dim", "no_such_size=4"],
        ["run", "MODEL", "--random", "1", "--dim", "batch=99999999999"],
        ["run", "MODEL", "--random", "1", "--target", "abacus"],
        ["run", "MODEL", "--random", "1", "--threads", "0"],
        ["run", "MODEL", "--data", "DATA", "-o", "out.csv"],
        ["run", "MODEL", "--data", "absent.npy"], ["run", "MODEL", "--data", "data.csv"],
        ["opt", "MODEL", "-p", "nope"], ["opt", "MODEL", "-p", "dce{"],
        ["opt", "MODEL", "-p", "dce{a=1}"],
        ["opt", "--reproduce", "absent.ir"], ["passes", "nope"], ["ops", "nope"],
        ["fuzz"], ["fuzz", "--pass", "dce", "--family", "nope"], ["fuzz", "--pass", "nope"],
        ["fuzz", "--pass", "dce", "--target", "cpu"],
        ["export", "MODEL", "-o", "nowhere/out.ir"], ["export", "MODEL", "-o", "out.pt"],
        ["emit", "MODEL", "--form", "poetry"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_wrong_usage(taut_: Shell, model: str, images: str, tmp_path: Path, arguments, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    places: dict[str, str] = {"MODEL": model, "DATA": images}
    given = [places.get(a, str(a)) for a in arguments]
    taut_.fails(*given)
    assert sorted(tmp_path.iterdir()) == before


def test_wrong_feeds(taut_: Shell, model: str, tmp_path: Path):
    path = str(tmp_path / "x.npz")
    for arrays, word in [
        ({"x": np.zeros((1, 3, 6, 6))}, "float64"),
        ({"x": np.zeros((1, 2, 6, 6), np.float32)}, "shape"),
        ({"x": np.zeros((3, 6), np.float32)}, "wants f32"),
        ({"z": np.zeros((1, 3, 6, 6), np.float32)}, "'z'"),
        ({}, "[]"),
    ]:
        np.savez(path, **arrays)
        assert word in taut_.fails("run", model, "--data", path)


def test_nan_is_refused_where_asked(taut_: Shell, model: str, tmp_path: Path):
    path = str(tmp_path / "x.npy")
    np.save(path, np.full((1, 3, 6, 6), np.nan, np.float32))
    message = taut_.fails("run", model, "--data", path, "--check-finite")
    assert "108 values that are NaN" in message
    taut_("run", model, "--data", path, "--target", "reference")
    assert taut_.code == 0


def test_faults_of_ours_are_one_line_too(taut_: Shell, model: str, monkeypatch):
    def broken(*_args: object, **_options: object) -> None:
        raise ZeroDivisionError("of\nours")

    monkeypatch.setattr(taut, "load", broken)
    assert "a fault in taut (ZeroDivisionError: of ours)" in taut_.fails("dump", model, code=70)
    monkeypatch.setenv("TAUT_DEBUG", "1")
    taut_("dump", model)
    assert taut_.code == 70 and "Traceback" in taut_.err


# ---- as a process ------------------------------------------------------------------------------

COMMAND = [sys.executable, "-P", "-m", "taut"]


def test_hostile_names_reach_no_terminal(model: str):
    for arguments in (["inspect", model], ["profile", model, "--target", "reference"],
                      ["compare", model, model, "--random", "1"]):  # fmt: skip
        done = subprocess.run([*COMMAND, *arguments], capture_output=True, check=True)
        assert b"\x1b" not in done.stdout + done.stderr


def test_full_disks_and_closed_pipes(model: str, tmp_path: Path):
    if Path("/dev/full").exists():
        with open("/dev/full", "w") as full:
            done = subprocess.run([*COMMAND, "dump", model], stdout=full, stderr=subprocess.PIPE,
                                  check=False)  # fmt: skip
        assert done.returncode == 2
        assert done.stderr.decode() == "taut: error: standard output: No space left on device\n"
    shell = f"ulimit -f 0; trap '' XFSZ; exec {' '.join(COMMAND)} export {model} -o {tmp_path}/o.ir"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, check=False)
    assert done.returncode == 2 and done.stderr.count(b"\n") == 1
    assert b"cannot be written" in done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["small.taut"]
    piped = subprocess.run(
        ["bash", "-c", f"{' '.join(COMMAND)} ops | head -1; echo ${{PIPESTATUS[0]}}"],
        capture_output=True, check=False,
    )  # fmt: skip
    assert piped.stdout.endswith(b"\n0\n") and piped.stderr == b""


def test_devices_are_not_replaced(model: str):
    if Path("/dev/full").exists():
        link = Path(model).parent / "full.taut"
        link.symlink_to("/dev/full")
        done = subprocess.run([*COMMAND, "export", model, "-o", str(link)], capture_output=True,
                              check=False)  # fmt: skip
        assert Path("/dev/full").is_char_device()
        assert done.returncode == 2 and b"No space" in done.stderr


def test_interrupts_are_quiet(model: str):
    child = subprocess.Popen(
        [*COMMAND, "bench", model, "--repeat", "100000000", "--target", "reference"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        # Tests that run in the background hand on that the signal is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    time.sleep(2.5)
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=20)
    assert (child.returncode, out) == (130, b"")
    assert err in (b"", b"taut: error: interrupted\n")


# ---- failing passes ------------------------------------------------------------------------------


def test_failures_can_be_replayed(taut_: Shell, model: str, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(base, "_REGISTRY", dict(base._REGISTRY))

    @base.register_pass
    @dataclass(frozen=True)
    class Spoil(base.Pass):
        """relu(x) -> x, and says that nothing changes."""

        name = "spoil"

        def run(self, graph: Graph, context: object) -> base.Outcome:
            for node in graph.nodes():
                x = graph.operand(node, 0)
                if node.op.name == "relu" and x is not None:
                    graph.replace_all_uses(node, x)
            return base.Outcome()

    path = tmp_path / "failure.ir"
    pipeline = ["-p", "cse,spoil,dce"]
    taut_("opt", model, *pipeline, "-o", str(tmp_path / "spoiled.ir"))
    assert taut_.code == 0  # nobody checked
    checked = [*pipeline, "--check", "--random", "2"]
    message = taut_.fails("opt", model, *checked, "--reproduce", str(path))
    assert "pass spoil promises to be exact" in message and "--reproduce" in message
    again = taut_.fails("opt", "--reproduce", str(path))
    assert "pass spoil promises to be exact" in again
    taut_("fuzz", "--pass", "cse,spoil", "--examples", "60", "--family", "mlp")
    assert taut_.code == 1 and "relu" in taut_.out


# ---- quantizing ----------------------------------------------------------------------------------


def test_quantize_writes_an_int8_model(taut_: Shell, model: str, images: str, tmp_path: Path):
    out = str(tmp_path / "int8.taut")
    taut_("quantize", model, "--data", images, "-o", out, "--option", "per_channel=false")
    assert taut_.code == 0, taut_.err
    assert "was" in taut_.err
    int8 = taut.load(out)
    assert any(n.op.name == "conv_integer" for n in int8.nodes())
    found = taut.compare(taut.load(model), int8, [np.load(images)])
    assert found["y"].sqnr_db > 25
    report = taut_.json("quantize", model, "--data", images, "--calibrate", "min-max")
    assert "quantize{calibrate=min-max rows=true}" in report["pipeline"]
    for bad, word in [("bogus=1", "bogus"), ("bits", "NAME=VALUE"), ("bits=99", "bits"),
                      ("calibrate=magic", "magic")]:  # fmt: skip
        assert word in taut_.fails("quantize", model, "--data", images, "--option", bad)
    taut_.fails("quantize", model)
