"""The course's training in the small mode: real model, real rows, all its memory counted."""

import json
import os
import subprocess
import sys

import pytest
import torch

from helpers import footprint
from helpers.footprint import PARTS, measured, predicted, train_apart
from helpers.shared_prefix import shared_length
from tests.tiny import tiny_model

MOST = 1_600_000_000  # bytes; Binder gives two gigabytes, and JupyterLab needs its part
# A hard limit on data, kept by the system. A file of weights that is open counts as data with its
# whole length, read or not, and two of them can be open for a moment: so a gigabyte above Binder's.
LIMIT = 3_200_000_000


def batch_with(shared: int) -> dict[str, torch.Tensor]:
    """Eight rows of 80 tokens that begin with the same `shared` ones; the last two count."""
    ids = torch.arange(640).reshape(8, 80) % 600
    ids[:, :shared] = ids[0, :shared]
    return {
        "input_ids": ids,
        "labels": torch.full((8, 80), -100).index_fill(1, torch.tensor([78, 79]), 7),
    }


def run_limited(limit: int, *arguments: str) -> subprocess.CompletedProcess:
    """helpers.footprint in a process whose data (heap, stacks, private pages) cannot grow more."""
    code = (
        "import resource, runpy, sys; "
        f"resource.setrlimit(resource.RLIMIT_DATA, ({limit}, {limit})); "
        f"sys.argv = ['footprint', *{list(arguments)!r}]; "
        "runpy.run_module('helpers.footprint', run_name='__main__')"
    )
    paths = {**os.environ, "PYTHONPATH": str(footprint.ROOT), "COURSE_PROFILE": "quick"}
    return subprocess.run(
        [sys.executable, "-c", code], env=paths, capture_output=True, text=True, check=False
    )


@pytest.mark.skipif(sys.platform != "linux", reason="such a limit is only kept by Linux")
def test_the_training_of_04_stays_small_under_a_hard_limit():
    done = run_limited(LIMIT, "small", "48")
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout.splitlines()[-1])["peak"] <= MOST


@pytest.mark.skipif(sys.platform != "linux", reason="such a limit is only kept by Linux")
def test_the_limit_is_one_that_the_normal_mode_breaks():
    assert run_limited(LIMIT, "normal", "8").returncode != 0


@pytest.mark.parametrize("shared", [0, 60])
@pytest.mark.parametrize("memory", ["normal", "small"])
def test_parts_are_as_large_as_predicted(memory, shared):
    model, batch = tiny_model(), batch_with(shared)
    assert shared_length(batch) == shared
    expected = predicted(model, memory, 8, 80, shared)
    found = measured(model, batch, memory)
    assert found.keys() == set(PARTS) == expected.keys()
    assert found["weights"] == expected["weights"]
    assert found["gradients"] == expected["gradients"]
    assert found["optimizer state"] == pytest.approx(expected["optimizer state"], rel=0.05)
    # The prediction leaves out what stands outside the layers: little, but for such a small model.
    assert found["activations"] == pytest.approx(expected["activations"], rel=0.15)


def test_a_training_that_breaks_off_says_why(monkeypatch):
    monkeypatch.setenv("COURSE_PROFILE", "none such")
    with pytest.raises(footprint.FootprintError, match=r"did not come to its end: .*none such"):
        train_apart("small", 8)
