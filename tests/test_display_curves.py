"""Pictures of runs, and a run in one line."""

import pytest

from helpers.display import (
    evaluations_figure,
    history_summary,
    museum_wall,
    price_chart,
    training_curve,
)
from helpers.display.charts import as_output
from helpers.training import EvaluationRecord, History, StepRecord


def made_up_run(accuracy: float | None) -> History:
    history = History(4, 2, stopped="finished")
    history.steps = [StepRecord(k, 2.0 / k, 1e-4, 1.0, 300, 2.0) for k in (1, 2, 3, 4)]
    history.evaluations = [EvaluationRecord(k, 3.0 - k / 2, accuracy, 1.0) for k in (0, 2, 4)]
    return history


def test_a_run_is_drawn_with_its_losses_and_accuracies():
    losses, accuracies = training_curve(made_up_run(0.5), 48).axes
    training, validation, best = losses.lines[:3]
    assert list(training.get_ydata()) == [2.0, 1.0, 2.0 / 3, 0.5]
    assert list(validation.get_xdata()) == [0, 2, 4] and list(best.get_xdata()) == [4]
    assert list(accuracies.lines[0].get_ydata()) == [0.5] * 3
    assert len(training_curve(made_up_run(None), 48).axes) == 1


def test_accuracies_that_were_not_always_measured_are_drawn_where_they_were():
    run = made_up_run(0.5)
    run.evaluations[1] = EvaluationRecord(2, 2.0, None, 1.0)
    losses, accuracies = training_curve(run, 48).axes
    assert list(losses.lines[1].get_xdata()) == [0, 2, 4]
    assert list(accuracies.lines[0].get_xdata()) == [0, 4]


def test_a_run_that_has_only_begun_can_be_drawn():
    history = History(4, 2, evaluations=[EvaluationRecord(0, 3.0, 0.2, 1.0)])
    as_output(training_curve(history, 48), history_summary(history, 48))
    assert history_summary(history, 48).startswith("step 0 of 4, running; validation loss 3.000")
    as_output(training_curve(History(4, 2), 48), "Interrupted before the first evaluation.")


def test_a_run_in_one_line():
    line = history_summary(made_up_run(0.5), 48)
    assert line == (
        "step 4 of 4, finished; training loss 0.500; validation loss 1.000 (best 1.000, step 4); "
        "accuracy 0.50 (0.36 to 0.64); 150 tokens/s"
    )
    assert "accuracy" not in history_summary(made_up_run(None), 48)


def test_a_run_is_held_against_other_scores_and_a_memorised_set_does_not_set_the_scale():
    run = made_up_run(0.5)
    run.steps[-1] = StepRecord(4, 1e-6, 1e-4, 1.0, 300, 2.0)
    losses, accuracies = training_curve(run, 48, {"majority": 0.25}).axes
    assert losses.get_ylim()[0] == pytest.approx(0.1)
    assert [text.get_text() for text in losses.texts] == ["1.00"]
    assert [text.get_text() for text in accuracies.texts] == ["majority 0.25"]
    run.evaluations[-1] = EvaluationRecord(4, float("nan"), 0.5, 1.0)
    as_output(training_curve(run, 48), "It broke.")


def test_evaluations_have_a_panel_a_metric_and_a_line_where_it_began():
    scores = {
        "course": [(0.3, 0.2, 0.4), (0.6, 0.5, 0.8)],
        "prose, loss": [(3.7, 3.5, 3.9), (4.0, 3.8, 4.2)],
    }
    chart = evaluations_figure([0, 12], scores, "course")
    assert [axes.get_title() for axes in chart.axes] == list(scores)
    for axes, values in zip(chart.axes, scores.values(), strict=True):
        line = axes.containers[0].lines[0]
        assert line.get_xdata().tolist() == [0, 12]
        assert line.get_ydata().tolist() == [score for score, _, _ in values]
        assert axes.lines[0].get_ydata()[0] == values[0][0]
    colours = [axes.containers[0].lines[0].get_color() for axes in chart.axes]
    assert colours[0] != colours[1]


def test_in_the_price_chart_right_is_better_also_for_losses():
    changes = {
        "accuracy": {"one": (0.2, 0.1, 0.3), "two": (-0.1, -0.2, 0.0)},
        "loss": {"one": (0.4, 0.3, 0.5), "two": (0.0, 0.0, 0.0)},
    }
    accuracy, loss = price_chart(changes, ["loss"]).axes
    assert accuracy.get_xlim()[0] < 0 < accuracy.get_xlim()[1]
    assert loss.get_xlim()[0] > 0 > loss.get_xlim()[1]
    drawn = [container.lines[0].get_xdata()[0] for container in loss.containers]
    assert drawn == [0.4, 0.0]
    bar = accuracy.containers[0].lines[2][0].get_segments()[0]
    assert bar[:, 0].tolist() == pytest.approx([0.1, 0.3])


def test_titles_in_the_price_chart_do_not_run_into_each_other():
    names = ("department, loss (nats)", "prose, loss (nats/token)", "department, accuracy")
    runs = {"one": (0.2, 0.1, 0.3), "weights averaged": (-0.1, -0.2, 0.0)}
    chart = price_chart(dict.fromkeys(names, runs), [])
    chart.canvas.draw()
    titles = [axes.title.get_window_extent() for axes in chart.axes]
    for one, next_ in zip(titles, titles[1:], strict=False):
        assert one.x1 < next_.x0


def test_the_museum_wall_holds_each_run_against_the_healthy_one():
    nan = float("nan")
    runs = {
        "healthy": ([3.0, 1.0, 0.5], 0.5),
        "b": ([2.0, 0.1, 0.0], 0.0),
        "c": ([3.0, nan, nan], 0),
    }
    first, second = museum_wall(runs, 10, {"c": [2.0, 1.0, 0.9]}).axes
    healthy, broken = (line.get_ydata().tolist() for line in first.lines)
    assert (list(healthy), list(broken)) == ([3.0, 1.0, 0.5], [2.0, 0.1, 0.0])
    assert first.get_title().startswith("b\nright: 0.00 (0.00 to ")
    assert "0.50 (0.24 to 0.76)" in first.figure.get_supxlabel()
    assert second.lines[0].get_ydata().tolist() == [2.0, 1.0, 0.9]
    assert second.lines[2].get_xdata() == [2, 2] and second.texts[0].get_text() == " nan"
    assert len(first.lines) == 2
