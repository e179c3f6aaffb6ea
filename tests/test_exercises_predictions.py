"""Predictions: kept, shown beside the result, and drawn at the end."""

import json

import numpy
import pytest
import torch

from helpers.errors import CourseError
from helpers.exercises import predict, predictions, reveal, show_predictions

NAME = "accuracy after one epoch"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("COURSE_PROFILE", "smoke")
    monkeypatch.delenv("COURSE_TASK", raising=False)
    return tmp_path / "runs"


@pytest.fixture
def drawn(monkeypatch):
    figures, tables = [], []
    monkeypatch.setattr(predictions, "show", lambda *shown: figures.append(shown))
    monkeypatch.setattr(predictions, "show_table", lambda header, rows: tables.append(rows))
    return figures, tables


def test_a_guess_is_printed_back_and_stands_beside_the_result(capsys, folder):
    predict(NAME, 0.6)
    assert capsys.readouterr().out == f"Your guess for {NAME}: 0.60.\n"
    reveal(NAME, 0.712)
    out = capsys.readouterr().out
    assert out == f"{NAME}: you guessed 0.60, it is 0.71: 0.11 too low.\n"
    file = folder / "predictions-smoke-opinion.json"
    assert json.loads(file.read_text()) == {NAME: {"guess": 0.6, "result": 0.712}}


@pytest.mark.parametrize(
    ("guess", "result", "words"),
    [
        (0.5, 0.4, "0.10 too high"),
        (0.5, 0.501, "exact"),
        (4, 2.5, "you guessed 4, it is 2.50: 1.50 too high"),
        (1000, 1234.5, "you guessed 1,000, it is 1,234: 234 too low"),
        (0.001, 0.0002, "0.0008 too high"),
        (-0.05, 0.02, "0.07 too low"),
        (True + 1, numpy.float32(2), "exact"),
    ],
)
def test_a_result_says_how_far_off_the_guess_was(capsys, guess, result, words):
    predict(NAME, guess)
    reveal(NAME, result)
    assert words in capsys.readouterr().out


def test_a_new_guess_replaces_the_old_one_and_waits_for_its_result(drawn, capsys):
    predict(NAME, 0.6)
    reveal(NAME, 0.7)
    predict(NAME, 0.65)
    show_predictions()
    assert drawn == ([], []) and "No guess has a result" in capsys.readouterr().out
    reveal(NAME, 0.7)
    reveal(NAME, 0.72)
    show_predictions()
    assert drawn[1] == [[[1, NAME, "0.65", "0.72", "0.07 too low"]]]


def test_a_result_without_a_guess_is_shown_and_not_kept(capsys, folder):
    reveal(NAME, 0.7)
    out = capsys.readouterr().out
    assert f"{NAME}: 0.70." in out and f"predict('{NAME}', …)" in out
    assert not folder.exists()


def test_each_profile_and_task_has_guesses_of_its_own(monkeypatch, capsys):
    predict(NAME, 0.6)
    for variable, value in (("COURSE_TASK", "department"), ("COURSE_PROFILE", "quick")):
        with monkeypatch.context() as other:
            other.setenv(variable, value)
            reveal(NAME, 0.7)
            assert "You made no guess" in capsys.readouterr().out
    reveal(NAME, 0.7)
    assert "you guessed 0.60" in capsys.readouterr().out


@pytest.mark.parametrize("wrong", [..., None, True, "0.6", float("nan"), torch.tensor(0.6)])
def test_what_is_no_number_is_refused_with_an_example(wrong, folder):
    for call in (predict, reveal):
        with pytest.raises(CourseError, match=r'predict\("accuracy after one epoch", 0.6\)'):
            call(NAME, wrong)
    assert not folder.exists()


def test_the_picture_has_each_share_and_the_summary_each_guess(drawn, capsys):
    for name, guess, result in [("a", 0.5, 0.7), ("b", 0.9, 0.8), ("loss", 3, 2), ("c", 1, 1)]:
        predict(name, guess)
        reveal(name, result)
    predict("not revealed", 0.1)
    show_predictions()
    ((chart, line, title),), (rows,) = drawn
    (axes,) = chart.axes
    diagonal, *points = axes.lines
    assert list(diagonal.get_xdata()) == list(diagonal.get_ydata()) == [0, 1]
    places = [(point.get_xdata()[0], point.get_ydata()[0]) for point in points]
    assert places == [(0.5, 0.7), (0.9, 0.8), (1, 1)]
    # The numbers beside the points are those of the table.
    assert [text.get_text() for text in axes.texts[3:]] == ["1", "2", "4"]
    assert [(row[0], row[1]) for row in rows] == [(1, "a"), (2, "b"), (3, "loss"), (4, "c")]
    assert title == "Between 0 and 1: 1 guessed too low, 1 too high"  # the loss is not drawn
    assert "4 guesses: 1 too low, 2 too high, 1 exact." in line
    assert "The 3 between 0 and 1 were off by 0.10 on average" in line
    assert "(guess minus result: -0.03)" in line


def test_without_shares_there_is_no_picture(drawn, capsys):
    predict("loss", 3)
    reveal("loss", 2)
    show_predictions()
    assert drawn[0] == [] and "1 guess: 0 too low, 1 too high, 0 exact." in capsys.readouterr().out


@pytest.mark.parametrize(
    "text", ["{", "[1]", '{"a": 1}', '{"a": {"result": 1}}', '{"a": {"guess": "x"}}']
)
def test_a_damaged_file_starts_over_and_says_so(capsys, folder, text):
    folder.mkdir()
    file = folder / "predictions-smoke-opinion.json"
    file.write_text(text)
    predict(NAME, 0.6)
    assert f"it is now {file.name}.damaged" in capsys.readouterr().out
    assert json.loads(file.read_text()) == {NAME: {"guess": 0.6}}
