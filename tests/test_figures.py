"""Pictures: what a notebook gets to show."""

import base64

import pytest
from matplotlib.figure import Figure

from helpers import figures
from helpers.figures import (
    Token,
    as_output,
    balance,
    batch_shapes,
    change_map,
    confidence_figure,
    confusion_figure,
    distribution_strip,
    gradient_figure,
    interval_chart,
    looks_figure,
    loss_by_position,
    loss_of_tokens,
    museum_wall,
    price_chart,
    run_curves,
    show_table,
    show_tokens,
    spread,
    state_of,
    token_cells,
    token_table,
    training_curve,
    two_distributions,
    window_bar,
    window_figure,
)
from helpers.prompting import Budget
from helpers.training import History, StepRecord, ValidationRecord


def test_a_figure_is_shown_as_a_picture_with_words():
    figure = Figure()
    figure.subplots().plot([1, 2])
    data, metadata = as_output(figure, "It goes up.")
    assert base64.b64decode(data["image/png"]).startswith(b"\x89PNG")
    # Where no picture can be shown, and for those who cannot see it.
    assert data["text/plain"] == metadata["image/png"]["alt"] == "It goes up."


def test_an_interval_chart_draws_each_score_of_each_method():
    series = {
        "rows": {"a": (0.5, 0.4, 0.7), "b": (0.2, 0.1, 0.3)},
        "products": {"a": (0.5, 0.3, 0.8), "b": (0.2, 0.0, 0.4)},
    }
    axes = interval_chart(series, "accuracy").axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b"]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["rows", "products"]
    drawn = [container.lines[0].get_xdata().tolist() for container in axes.containers]
    assert drawn == [[0.5, 0.2], [0.5, 0.2]]
    bars = [container.lines[2][0].get_segments() for container in axes.containers]
    ends = [[point[0] for bar in kind for point in bar] for kind in bars]
    assert ends[0] == pytest.approx([0.4, 0.7, 0.1, 0.3])
    assert ends[1] == pytest.approx([0.3, 0.8, 0.0, 0.4])


def test_a_confusion_figure_shows_every_count_where_it_belongs():
    tables = {"first": [[3, 1], [0, 2]], "second": [[0, 4], [0, 0]]}
    figure = confusion_figure(tables, ["no", "yes"])
    assert [axes.get_title() for axes in figure.axes] == ["first", "second"]
    for axes, counts in zip(figure.axes, tables.values(), strict=True):
        shown = {text.get_position(): text.get_text() for text in axes.texts}
        assert shown == {(j, i): str(counts[i][j]) for i in range(2) for j in range(2)}
    assert figure.axes[0].images[0].get_array().tolist() == [[0.75, 0.25], [0, 1]]


def test_a_confidence_figure_counts_every_answer():
    figure = confidence_figure({"right": [0.5, 0.99, 1.0], "wrong": [0.0]})
    heights = [sum(patch.get_height() for patch in axes.patches) for axes in figure.axes]
    assert heights == [3, 1]
    assert figure.axes[0].get_title(loc="left") == "right (3 rows)"


def test_a_change_map_puts_each_tensor_at_its_layer_and_kind():
    layered = {"mlp.up_proj": {0: 0.01, 1: 0.02}, "input_layernorm": {1: 0.03}}
    single = {"embed_tokens": 0.04, "norm": 0.05}
    top, bottom = change_map(layered, single).axes[:2]
    assert [t.get_text() for t in top.get_yticklabels()] == ["mlp.up_proj", "input_layernorm"]
    shown = top.images[0].get_array()
    assert shown[0].tolist() == pytest.approx([1, 2]) and shown[1][1] == pytest.approx(3)
    assert shown.mask[1][0], "layer 0 has no such tensor here: nothing is drawn"
    assert [bar.get_width() for bar in bottom.patches] == pytest.approx([4, 5])
    # The best weights of a run can be those it began with: nothing moved, and that is drawn too.
    as_output(change_map({"mlp.up_proj": {0: 0.0}}, {"norm": 0.0}), "Nothing moved.")


def test_a_table_shows_markup_as_text(monkeypatch):
    shown = []
    monkeypatch.setattr(figures, "display", lambda data, **_: shown.append(data))
    show_table(["token", "id"], [["<b>", 7], ["longer", 12]])
    assert "<b>" not in shown[0]["text/html"] and "&lt;b&gt;" in shown[0]["text/html"]
    assert shown[0]["text/plain"].splitlines() == ["token   id", "<b>     7", "longer  12"]


def made_up_run(accuracy: float | None) -> History:
    history = History(4, 2, stopped="finished")
    history.steps = [StepRecord(k, 2.0 / k, 1e-4, 1.0, 300, 2.0) for k in (1, 2, 3, 4)]
    history.validations = [ValidationRecord(k, 3.0 - k / 2, accuracy, 1.0) for k in (0, 2, 4)]
    return history


def test_a_run_is_drawn_with_its_losses_and_accuracies():
    losses, accuracies = training_curve(made_up_run(0.5), 48).axes
    training, validation, best = losses.lines[:3]
    assert list(training.get_ydata()) == [2.0, 1.0, 2.0 / 3, 0.5]
    assert list(validation.get_xdata()) == [0, 2, 4] and list(best.get_xdata()) == [4]
    assert list(accuracies.lines[0].get_ydata()) == [0.5] * 3
    assert len(training_curve(made_up_run(None), 48).axes) == 1


def test_a_run_in_one_line():
    line = state_of(made_up_run(0.5), 48)
    assert line == (
        "step 4 of 4, finished; training loss 0.500; validation loss 1.000 (best 1.000, step 4); "
        "accuracy 0.50 (0.36 to 0.64); 150 tokens/s"
    )
    assert "accuracy" not in state_of(made_up_run(None), 48)


def test_runs_are_drawn_with_their_names():
    axes = run_curves({"slow": made_up_run(None), "fast": made_up_run(0.5)}).axes[0]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["slow", "fast"]


def test_distributions_and_batches_are_drawn_as_given():
    left, right = two_distributions(["a", "b"], [0.9, 0.1], [0, 1]).axes
    assert [bar.get_width() for bar in left.patches] == [0.9, 0.1]
    assert [bar.get_width() for bar in right.patches] == [0, 1]
    first, second = batch_shapes(["one", "two"], [[[0, 1, 2]], [[0, 0, 1, 1]]]).axes
    assert first.images[0].get_array().tolist() == [[0, 1, 2]]
    assert first.get_xlim() == second.get_xlim() == (-0.5, 3.5)
    named = [text.get_text() for text in first.figure.legends[0].get_texts()]
    assert named == ["prompt", "supervised", "padding"]
    again = batch_shapes(["one", "two"], [[[0, 1]], [[0, 1], [3, 1]]]).legends[0].get_texts()
    assert [text.get_text() for text in again] == ["prompt", "supervised", "not read again"]


def test_a_window_is_filled_by_shots_question_and_answer_in_this_order():
    budgets = {"0 shots": Budget(0, 30, 2, 68, 100), "1 shot": Budget(40, 30, 2, 28, 100)}
    axes = window_figure(budgets, {"a small window": 64}).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["0 shots", "1 shot"]
    bars = [(bar.get_x(), bar.get_width()) for bar in axes.patches]
    assert bars[4:] == [(0, 40), (40, 30), (70, 2), (0, 100)]
    assert [line.get_xdata()[0] for line in axes.lines] == [64]


@pytest.mark.parametrize(
    ("budget", "bar"),
    [
        (Budget(0, 30, 2, 68, 100), "qqqa······"),
        (Budget(40, 30, 2, 28, 100), "ssssqqqa··"),
        (Budget(66, 32, 2, 0, 100), "sssssqqqqa"),  # full to the last token
        (Budget(110, 30, 2, -42, 100), "ssssssssss!!!!!"),
    ],
)
def test_a_window_as_a_line_of_signs(budget, bar):
    assert window_bar(budget, width=10) == bar


def test_tokens_without_losses_are_shown_with_their_marks_alone(monkeypatch, capsys):
    tokens = [Token("Is <it>?\n", 7, False, {}), Token(" yes", 9, True, {})]
    cells = token_cells(tokens)
    assert "✓" in cells and "loss" not in cells
    assert "&lt;it&gt;?⏎" in cells and "<it>" not in cells
    assert "loss" not in token_table(tokens)["text/plain"]
    monkeypatch.setattr(figures, "display", lambda *_, **__: None)
    show_tokens(tokens)
    assert capsys.readouterr().out == "2 tokens, 1 of them supervised (✓)\n"


def test_losses_past_the_window_are_drawn_apart():
    axes = loss_by_position([0, 50, 100, 150], [4.0, 3.0, 2.0, 5.0], [0.1] * 4, 100).axes[0]
    drawn = {c.get_label(): list(c[0].get_xdata()) for c in axes.containers}
    assert drawn == {"inside the window": [25, 75], "past the window": [125, 175]}


def test_spread_draws_range_middle_half_and_median_of_each_name():
    axes = spread({"short": [1, 2, 3, 4, 5], "long": [11, 12, 13, 14, 15]}, "tokens").axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["short", "long"]
    across = [list(line.get_xdata()) for line in axes.lines]
    assert across == [[1, 5], [1.5, 4.5], [3], [11, 15], [11.5, 14.5], [13]]
    assert axes.get_xlabel() == "tokens"


def test_balance_has_a_panel_a_column_and_a_bar_a_part():
    stars = {"train": {"1": 0.25, "2": 0.75}, "test": {"1": 0.5, "2": 0.5}}
    kinds = {"train": {"toys": 1.0}, "test": {"toys": 1.0}}
    first, second = balance({"star_rating": stars, "department": kinds}).axes
    heights = [[bar.get_height() for bar in part] for part in first.containers]
    assert heights == [[25, 75], [50, 50]]
    assert [part.get_label() for part in first.containers] == ["train", "test"]
    assert (first.get_xlabel(), second.get_xlabel()) == ("star_rating", "department")


TOKENS = [
    Token("<b>", 5, False, {}),
    Token(" it\n", 6, False, {"before": 3.0, "after": 2.5}),
    Token(" good", 7, True, {"before": 4.0, "after": 0.25}),
    Token("<end>", 8, True, {"before": 1.0, "after": 0.5}),
]


def test_tokens_are_cells_with_text_id_symbol_and_loss():
    page = token_cells(TOKENS, "before")
    assert "<b>" not in page and "&lt;b&gt;" in page and "␣it⏎" in page
    cells = page.split("<span title=")[1:]
    assert [("✓" in cell, "solid black" in cell) for cell in cells[:3]] == [
        (False, False),
        (False, False),
        (True, True),
    ]
    assert "id 7" in cells[2] and "loss 4.00 nats" in cells[2] and ">7<" in cells[2]
    # The highest loss is the darkest, with white letters; half of it is neither.
    assert "rgb(0, 114, 178); color: white" in cells[2]
    assert "rgb(191, 220, 236); color: black" in cells[3]


def test_the_prompt_mask_hides_the_losses_that_training_does_not_see():
    masked, bare = token_cells(TOKENS, "before"), token_cells(TOKENS, "before", masked=False)
    assert "3.00" not in masked and masked.count("not looked at") == 2
    assert "3.00" in bare and bare.count("not looked at") == 1, "nothing predicts the first token"
    assert loss_of_tokens(TOKENS, "before").endswith(
        "mean loss of 2 supervised tokens: 2.5000 nats"
    )
    bare_words = loss_of_tokens(TOKENS, "after", masked=False)
    assert "of 3 tokens" in bare_words and "1.0833 nats" in bare_words


def test_tokens_are_a_table_too_and_shown_with_their_mean(monkeypatch, capsys):
    lines = token_table(TOKENS, "after")["text/plain"].splitlines()
    assert lines[2].split() == ["1", "'", "it\\n'", "6", "·", "not", "supervised", "–"]
    assert lines[3].split() == ["2", "'", "good'", "7", "✓", "supervised", "0.25"]
    assert "<b>" not in token_table(TOKENS, "after")["text/html"]
    shown = []
    monkeypatch.setattr(figures, "display", lambda data, **_: shown.append(data))
    show_tokens(TOKENS, "after")
    assert shown[0]["text/html"] == token_cells(TOKENS, "after")
    assert "✓ supervised" in shown[0]["text/plain"]
    assert "0.3750 nats" in capsys.readouterr().out


def test_a_strip_has_a_panel_a_step_and_marks_the_right_word():
    steps = {step: [0.9 - step / 10, 0.1 + step / 10] for step in range(5)}
    figure = distribution_strip(["$5 or $6", "good"], steps, 1)
    drawn = [axes for axes in figure.axes if axes.axison]
    assert [axes.get_title() for axes in drawn] == [f"step {step}" for step in range(5)]
    assert [bar.get_width() for bar in drawn[2].patches] == pytest.approx([0.7, 0.3])
    assert [bar.get_hatch() for bar in drawn[2].patches] == [None, "//"]
    assert [text.get_text() for text in drawn[0].get_yticklabels()] == [r"\$5 or \$6", "✓ good"]
    as_output(figure, "It goes over to the right word.")


def test_the_gradient_is_drawn_twice():
    ours, autograd = gradient_figure(["a", "b"], [0.25, -0.75], [0.5, -0.5]).axes
    assert [bar.get_width() for bar in ours.patches] == [0.25, -0.75]
    assert [bar.get_width() for bar in autograd.patches] == [0.5, -0.5]
    assert (ours.get_title(), autograd.get_title()) == ("p − q", "autograd")


def test_looks_have_a_panel_a_measure_and_a_line_where_it_began():
    scores = {
        "course": [(0.3, 0.2, 0.4), (0.6, 0.5, 0.8)],
        "prose, loss": [(3.7, 3.5, 3.9), (4.0, 3.8, 4.2)],
    }
    figure = looks_figure([0, 12], scores, "course")
    assert [axes.get_title() for axes in figure.axes] == list(scores)
    for axes, values in zip(figure.axes, scores.values(), strict=True):
        line = axes.containers[0].lines[0]
        assert line.get_xdata().tolist() == [0, 12]
        assert line.get_ydata().tolist() == [score for score, _, _ in values]
        assert axes.lines[0].get_ydata()[0] == values[0][0]


def test_in_the_price_chart_right_is_better_also_for_losses():
    changes = {
        "accuracy": {"one": (0.2, 0.1, 0.3), "two": (-0.1, -0.2, 0.0)},
        "loss": {"one": (0.4, 0.3, 0.5), "two": (0.0, 0.0, 0.0)},
    }
    figure = price_chart(changes, ["loss"])
    accuracy, loss = figure.axes
    assert accuracy.get_xlim()[0] < 0 < accuracy.get_xlim()[1]
    assert loss.get_xlim()[0] > 0 > loss.get_xlim()[1]
    drawn = [container.lines[0].get_xdata()[0] for container in loss.containers]
    assert drawn == [0.4, 0.0]
    bar = accuracy.containers[0].lines[2][0].get_segments()[0]
    assert bar[:, 0].tolist() == pytest.approx([0.1, 0.3])


def test_the_museum_wall_holds_each_run_against_the_healthy_one():
    nan = float("nan")
    runs = {
        "healthy": ([3.0, 1.0, 0.5], 0.5),
        "b": ([2.0, 0.1, 0.0], 0.0),
        "c": ([3.0, nan, nan], 0),
    }
    figure = museum_wall(runs, 10)
    first, second, empty = figure.axes
    healthy, broken = (line.get_ydata().tolist() for line in first.lines)
    assert (list(healthy), list(broken)) == ([3.0, 1.0, 0.5], [2.0, 0.1, 0.0])
    assert first.get_title().startswith("b\nright: 0.00 (0.00 to ")
    assert second.lines[2].get_xdata() == [2, 2] and second.texts[0].get_text() == " nan"
    assert len(first.lines) == 2 and not empty.get_visible()
