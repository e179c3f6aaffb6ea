"""Where notebook 04's results are expected on any machine."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers.course import BANDS, TASK, run_elsewhere
from helpers.profiles import ROOT
from helpers.training import TrainSettings
from tests.test_notebooks import cells
from tools.bands import CONFIDENCE, WAYS, band, run_apart

NORMAL = replace(TrainSettings(), memory="normal")
STORED = json.loads(BANDS.read_text(encoding="utf-8"))
PROFILES = pytest.mark.parametrize("name", ["quick", "laptop"])


def test_one_more_run_falls_into_the_band_as_often_as_stated():
    draws = np.random.default_rng(0).normal(2.0, 0.5, (4_000, len(WAYS) + 1))
    inside = 0
    for *seen, one_more in draws.tolist():
        low, high = band(seen)
        inside += low <= one_more <= high
    assert inside / len(draws) == pytest.approx(CONFIDENCE, abs=0.006)


def test_a_band_reaches_at_least_as_far_as_asked():
    assert band([0.5] * 6, least=0.1) == [0.4, 0.6]


@PROFILES
def test_the_stored_bands_come_from_the_stored_runs(name):
    runs = STORED[name]["runs"]
    assert [(one["precision"], one["micro_batch"], one["environment"]) for one in runs] == WAYS
    losses = [one["validation loss"] for one in runs]
    assert STORED[name]["bands"]["validation loss"] == band(losses)
    low, high = STORED[name]["bands"]["accuracy"]
    assert all(low < one["accuracy"] < high for one in runs)


@PROFILES
def test_the_stored_bands_are_of_the_course_as_it_is(monkeypatch, name):
    # If this fails, rows, wording or settings have changed: run tools/bands.py again.
    monkeypatch.setenv("COURSE_PROFILE", name)
    stored = STORED[name]
    for precision in ("float32", "bfloat16"):
        assert run_elsewhere(TASK, replace(NORMAL, precision=precision, micro_batch=2)) == stored


def test_the_published_run_lies_inside_the_bands():
    # If this fails, the loop may compute in another way than when the bands were measured.
    code = cells(ROOT / "notebooks" / "04_fine_tune.ipynb", "code")
    lines = "".join(one.get("text", "") for cell in code for one in cell.outputs).splitlines()
    compared = [line for line in lines if ", expected " in line]
    assert len(compared) == 2
    assert all(line.endswith(": inside") for line in compared), compared


@pytest.mark.parametrize("change", [{"learning_rate": 1e-3}, {"memory": "small"}, {"seed": 1}])
def test_other_settings_have_no_bands(monkeypatch, change):
    monkeypatch.setenv("COURSE_PROFILE", "quick")
    assert run_elsewhere(TASK, replace(NORMAL, **change)) is None


def test_other_tasks_and_sizes_have_no_bands(monkeypatch):
    monkeypatch.setenv("COURSE_PROFILE", "quick")
    assert run_elsewhere("department", NORMAL) is None
    monkeypatch.setenv("COURSE_PROFILE", "gpu")
    assert run_elsewhere(TASK, NORMAL) is None


def test_the_bands_hold_with_another_number_of_threads(monkeypatch):
    # The real model and notebook 04's whole training at the quick profile.
    monkeypatch.setenv("COURSE_PROFILE", "quick")
    threads = {"OMP_NUM_THREADS": "1" if torch.get_num_threads() > 1 else "2"}
    found = run_apart(NORMAL.precision, NORMAL.micro_batch, threads)
    for kind, (low, high) in run_elsewhere(TASK, NORMAL)["bands"].items():
        assert low <= found[kind] <= high
