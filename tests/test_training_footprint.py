"""The course's training in little memory: real model, real rows, all its memory counted."""

import dataclasses
import json
import sys

import pytest
import torch
from peft import LoraConfig, get_peft_model

from helpers.data.task import load_examples, load_task
from helpers.errors import CourseError
from helpers.training import footprint
from helpers.training.footprint import (
    PARTS,
    measured,
    predicted,
    predicted_cost,
    train_apart,
)
from helpers.training.settings import TrainSettings
from helpers.training.shared_prefix import shared_length
from tests.families import FAMILIES, family_model
from tests.processes import another_process, how_it_ended
from tests.tiny import tiny_model

MOST = 1_400_000_000  # bytes; Binder gives two gigabytes, and JupyterLab needs its part
# A hard limit on data, kept by the system. What libraries reserve counts as data, used or not, and
# so does a file of weights that is open: two of them can be open for a moment.
LIMIT = 3_600_000_000


@pytest.mark.skipif(sys.platform != "linux", reason="such a limit is only kept by Linux")
@pytest.mark.skipif(torch.version.cuda is not None, reason="GPU libraries take 0.3 GB more")
@pytest.mark.slow
def test_training_the_real_model_stays_small_under_a_hard_limit(tmp_path, monkeypatch):
    import resource

    monkeypatch.setenv("COURSE_PROFILE", "laptop")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # each thread reserves memory of its own
    examples = load_examples(load_task("opinion"))
    # The longest rows need the most; the parts are measured on the first eight. The evaluations
    # have the model answer, too.
    by_length, longest = (
        sorted(examples[part], key=lambda row: len(row["prompt"])) for part in examples
    )
    rows = {"train": by_length[:8] + by_length[-8:], "validation": longest[-8:]}

    def limited():
        resource.setrlimit(resource.RLIMIT_DATA, (LIMIT, LIMIT))
        (tmp_path / "result").write_text(json.dumps(train_apart(rows, low_memory=True)))

    assert how_it_ended(another_process(limited)) == 0
    result = json.loads((tmp_path / "result").read_text())
    assert result["before"] + result["parts"]["weights"] < result["peak"] <= MOST
    assert set(result["predictions"]) <= set(examples["validation"][0]["choices"])
    assert result["parts"]["weights"] == 4 * 134_515_008
    assert result["tokens_per_second"] > 0


def batch_with(shared: int) -> dict[str, torch.Tensor]:
    """Eight rows of 80 tokens that begin with the same `shared` ones; the last two are labelled."""
    ids = torch.arange(640).reshape(8, 80) % 600
    ids[:, :shared] = ids[0, :shared]
    return {
        "input_ids": ids,
        "labels": torch.full((8, 80), -100).index_fill(1, torch.tensor([78, 79]), 7),
    }


@pytest.mark.parametrize("shared", [0, 60])
@pytest.mark.parametrize("low_memory", [False, True])
def test_parts_are_as_large_as_predicted(low_memory, shared):
    model, batch = tiny_model(), batch_with(shared)
    assert shared_length(batch) == shared
    expected = predicted(model, low_memory, 8, 80, shared)
    found = measured(model, batch, low_memory)
    assert found.keys() == set(PARTS) == expected.keys()
    assert found["weights"] == expected["weights"]
    assert found["gradients"] == expected["gradients"]
    assert found["optimizer state"] == pytest.approx(expected["optimizer state"], rel=0.05)
    # The prediction leaves out what stands outside the layers: little, but for such a small model.
    assert found["activations"] == pytest.approx(expected["activations"], rel=0.15)


def test_frozen_weights_have_neither_gradient_nor_optimizer_state():
    """As with an adapter, which leaves the weights beside it as they are."""
    model = tiny_model()
    get_peft_model(model, LoraConfig(r=2, target_modules="all-linear"))
    trained = sum(p.nbytes for p in model.parameters() if p.requires_grad)
    assert trained < 0.2 * sum(p.nbytes for p in model.parameters())
    expected = predicted(model, False, 8, 80, 0)
    found = measured(model, batch_with(0), False)
    assert found["weights"] == expected["weights"]
    assert found["gradients"] == expected["gradients"] == trained
    assert found["optimizer state"] == pytest.approx(2 * trained, rel=0.05)
    assert expected["optimizer state"] == 2 * trained
    assert found["activations"] == pytest.approx(expected["activations"], rel=0.05)


@pytest.mark.skipif(sys.platform == "win32", reason="no shell scripts")
@pytest.mark.parametrize(
    ("what", "words"),
    [("echo 'MemoryError: no room' >&2; exit 1", "MemoryError: no room"), ("kill -9 $$", "ended")],
)
def test_a_training_that_breaks_off_says_why(tmp_path, monkeypatch, what, words):
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\n{what}\n")
    program.chmod(0o755)
    monkeypatch.setattr(footprint.sys, "executable", str(program))
    with pytest.raises(CourseError, match=f"did not finish: .*{words}"):
        train_apart({"train": [], "validation": []}, low_memory=True)


@pytest.mark.parametrize("name", FAMILIES)
def test_each_family_has_a_cost(name, monkeypatch):
    monkeypatch.setattr(footprint, "matrix_speed", lambda *_: 1.0)
    for low_memory in (False, True):
        settings = TrainSettings(precision="float32", low_memory=low_memory)
        cost = predicted_cost(family_model(name), [10] * 8, [5] * 6, settings, answers=True)
        assert cost.memory > footprint.PROCESS and cost.seconds > 0


def test_the_predicted_time_is_operations_over_speed(monkeypatch):
    monkeypatch.setattr(footprint, "matrix_speed", lambda *_: 1.0)  # a billion a second
    model = tiny_model()
    weights = model.num_parameters() - model.get_input_embeddings().weight.numel()
    settings = TrainSettings(
        epochs=2, batch_size=4, evaluations=1, precision="float32", low_memory=False
    )
    cost = predicted_cost(model, [10] * 8, [5] * 6, settings, answers=True)
    rate = footprint.SHARE_OF_SPEED * 1e9
    assert cost.seconds == pytest.approx(6 * weights * 2 * 8 * 10 / rate)
    # Three evaluations (before the first step too), each for the loss and for the answers.
    assert cost.evaluating == pytest.approx(3 * 2 * 2 * weights * 6 * 5 / rate)
    without = predicted_cost(model, [10] * 8, [5] * 6, settings, answers=False)
    assert without.seconds == cost.seconds
    assert without.evaluating == pytest.approx(cost.evaluating / 2)
    parts = predicted(model, False, 4, 10, 0)
    assert cost.memory == sum(parts.values()) + footprint.PROCESS
    small = dataclasses.replace(settings, low_memory=True)
    assert predicted_cost(model, [10] * 8, [5] * 6, small, True).memory < cost.memory
    assert "minutes" in str(cost) and "GB of memory" in str(cost)
