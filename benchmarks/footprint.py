"""Start-up time and memory of one runner in a process of its own; prints one JSON object.

The runtime's package is imported before the clock starts and before memory is read; what it loads
later, because a model asks for it, counts. Seconds go from the model's file (quantized beforehand)
to the first answer. Memory is what the process gained: when loaded, and at most up to the third
answer.
"""

from __future__ import annotations

import argparse
import importlib
import json
import time
from pathlib import Path

PACKAGES = {"taut": "taut.backends.cpu", "ort": "onnxruntime", "ov": "openvino"}


def resident(field: str = "VmRSS") -> int:
    """Bytes of this process in memory now (VmRSS) or at most so far (VmHWM); 0 if unknown."""
    status = Path("/proc/self/status")
    if not status.exists():
        return 0
    for line in status.read_text().splitlines():
        if line.startswith(field + ":"):
            return 1024 * int(line.split()[1])
    return 0


def _forget_peak() -> None:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:  # not allowed here: the peak then includes the imports
        return


def main() -> None:
    parser = argparse.ArgumentParser(description="Start-up and memory of one runner")
    parser.add_argument("model")
    parser.add_argument("runner")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--files", action="store_true", help="only make the runner's file")
    options = parser.parse_args()
    import models
    from vs_peers import make

    model = models.model(options.model, options.batch)
    if options.files:
        print(json.dumps({"file": str(make(options.runner).file(model))}))
        return
    feed = model.test(1)[0]
    importlib.import_module(PACKAGES[options.runner.split("-")[0]])
    runner = make(options.runner)
    _forget_peak()
    before, start = resident(), time.perf_counter()
    runner.prepare(model, options.threads)
    loaded, prepared = resident(), time.perf_counter()
    runner.run(feed)
    answered = time.perf_counter()
    for _ in range(2):
        runner.run(feed)
    facts = {
        "prepare_s": prepared - start,
        "first_answer_s": answered - start,
        "loaded_bytes": loaded - before,
        "peak_bytes": max(resident("VmHWM"), resident()) - before,
    }
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
