"""Measure how far rounding alone moves the results of notebook 04; write data/bands.json.

    python tools/bands.py                quick and laptop; about forty minutes
    python tools/bands.py quick          one profile

Needs what is in requirements-dev.txt. The same training goes on several times, each time in a
process of its own, and rounded in another way: in 16 or 32 bits, added up in other micro-batches,
with the instructions of an older processor. Another machine is one more such run.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import replace
from math import sqrt
from pathlib import Path

import torch
from scipy.stats import t

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from helpers.course import BANDS, TASK, fine_tune, run_key, validation_rows  # noqa: E402
from helpers.models import load_model  # noqa: E402
from helpers.training import TrainSettings  # noqa: E402

# What PyTorch and its libraries then do without: AVX-512.
OLDER = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
}
# Precision, micro_batch, environment.
WAYS = [
    ("float32", 8, {}),
    ("float32", 4, {}),
    ("float32", 2, {}),
    ("float32", 8, OLDER),
    ("bfloat16", 8, {}),
    ("bfloat16", 4, {}),
    ("bfloat16", 2, {}),
    ("bfloat16", 1, {}),
]
CONFIDENCE = 0.99


def run_apart(precision: str, micro_batch: int, environment: dict[str, str]) -> dict[str, float]:
    """The training of notebook 04 in a process of its own: best validation loss, its accuracy.

    environment: variables for that process, besides those of this one.
    """
    command = [sys.executable, __file__, "--here", precision, str(micro_batch)]
    done = subprocess.run(
        command, env=os.environ | environment, stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def run_here(precision: str, micro_batch: int) -> dict[str, float]:
    """The same in this process."""
    model, tokenizer = load_model()
    settings = TrainSettings(precision=precision, micro_batch=micro_batch, memory="normal")
    with tempfile.TemporaryDirectory() as folder:
        history = fine_tune(model, tokenizer, settings, Path(folder))
    return {"validation loss": history.best.loss, "accuracy": history.best.accuracy}


def band(values: list[float], least: float = 0.0) -> list[float]:
    """The interval that one more value falls into with the probability CONFIDENCE.

    For normally distributed values. least: the band reaches at least so far to either side.
    Source: Hahn and Meeker, Statistical Intervals, chapter 4 (prediction intervals).
    """
    n = len(values)
    share = t.ppf((1 + CONFIDENCE) / 2, n - 1) * sqrt(1 + 1 / n)
    middle, half = statistics.mean(values), max(least, share * statistics.stdev(values))
    return [round(middle - half, 4), round(middle + half, 4)]


def measure(name: str) -> dict:
    """Runs and bands of one profile."""
    os.environ["COURSE_PROFILE"] = name
    runs = []
    for precision, micro_batch, environment in WAYS:
        way = {"precision": precision, "micro_batch": micro_batch, "environment": environment}
        runs.append(way | run_apart(*way.values()))
        print(name, runs[-1], flush=True)
    bands = {
        "validation loss": band([one["validation loss"] for one in runs]),
        # One row that is answered otherwise is always possible.
        "accuracy": band([one["accuracy"] for one in runs], 1 / len(validation_rows())),
    }
    of = run_key(TASK, replace(TrainSettings(), memory="normal"))
    return {"of": of, "torch": torch.__version__, "bands": bands, "runs": runs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("profiles", nargs="*", default=["quick", "laptop"])
    parser.add_argument("--here", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.here:
        precision, micro_batch = arguments.here
        print(json.dumps(run_here(precision, int(micro_batch))))
        return
    stored = json.loads(BANDS.read_text(encoding="utf-8")) if BANDS.exists() else {}
    for name in arguments.profiles:
        stored[name] = measure(name)
        BANDS.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
