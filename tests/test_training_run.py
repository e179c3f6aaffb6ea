"""A whole run on a course task: from disk where it was finished, trained where it was not."""

import pytest
import torch

from helpers import machine
from helpers.data.task import load_examples, load_task
from helpers.data.tokenize import tokenize
from helpers.errors import CourseError
from helpers.inference import score
from helpers.inference.score import choice_accuracy
from helpers.training import run
from helpers.training.loss import evaluate_loss
from helpers.training.run import load_or_train
from helpers.training.settings import TrainSettings
from tests.made_up import interrupt_at, same_bits, weights


@pytest.fixture(autouse=True)
def smoke(tmp_path, monkeypatch):
    """The smallest sizes, and a folder for results of their own."""
    monkeypatch.setenv("COURSE_PROFILE", "smoke")
    monkeypatch.setenv("COURSE_RUNS", str(tmp_path))
    return tmp_path / "smoke"


def test_a_tuned_model_is_trained_once_and_then_loaded(smoke, capsys):
    task = load_task("opinion")
    first = load_or_train(task)
    assert "training one now" in capsys.readouterr().out
    assert (smoke / "opinion" / "history.json").exists()
    second = load_or_train(task)
    assert "training" not in capsys.readouterr().out
    assert second.history == first.history and second.version == first.version
    assert same_bits(weights(second.model), weights(first.model))
    # What the history says of the best weights holds.
    validation = load_examples(task)["validation"]
    best = first.history.best
    with torch.autocast("cpu", torch.bfloat16, enabled=TrainSettings().precision == "bfloat16"):
        assert choice_accuracy(second.model, second.tokenizer, validation) == best.accuracy
    assert len(first.history.steps) == 6


def test_in_little_memory_few_rows_are_read_at_once_for_the_score_too(monkeypatch):
    real, sizes = score.read_prompts, set()
    monkeypatch.setattr(score, "read_prompts", lambda *a: sizes.add(a[-1]) or real(*a))
    monkeypatch.setattr(machine, "usable_memory", lambda: 2_000_000_000)
    assert load_or_train(load_task("opinion")).history.best.accuracy is not None
    assert sizes == {TrainSettings().rows_at_once} == {4}


@pytest.mark.parametrize("name", ["headline", "department"])
def test_other_tasks_have_runs_of_their_own(smoke, name):
    history = load_or_train(load_task(name)).history
    assert (smoke / name / "history.json").exists()
    assert history.stopped == "finished"
    # A text has no constrained accuracy.
    assert (history.best.accuracy is None) == (name == "headline")


def test_an_interrupted_run_gives_no_tuned_model_and_goes_on(monkeypatch):
    task, real = load_task("opinion"), run.train
    watch = interrupt_at(2)
    monkeypatch.setattr(run, "train", lambda *given: real(*given[:-1], watch))
    with pytest.raises(CourseError, match="Run this cell again"):
        load_or_train(task)
    monkeypatch.setattr(run, "train", real)
    tuned = load_or_train(task)
    assert tuned.history.stopped == "finished"
    assert len(tuned.history.steps) == 6


def test_the_loss_is_that_of_the_validation_rows():
    task = load_task("opinion")
    tuned = load_or_train(task)
    model, tokenizer, history = tuned.model, tuned.tokenizer, tuned.history
    rows = tokenize(load_examples(task)["validation"], tokenizer, model.config)
    collate = lambda some: run.collate(some, tokenizer.pad_token_id)  # noqa: E731
    loss = evaluate_loss(model, rows, collate, precision=TrainSettings().precision)
    assert loss == pytest.approx(history.best.loss, rel=1e-6)
