"""Pictures: what a notebook gets to show."""

import base64
import sys

import matplotlib
import pytest
from matplotlib.figure import Figure

from helpers.display import (
    balance,
    batch_shapes,
    change_map,
    charts,
    confusion_figure,
    distribution_strip,
    gradient_figure,
    interval_chart,
    reliability_figure,
    show,
    spread,
    two_distributions,
)
from helpers.display.charts import as_output, figure


def test_a_figure_is_shown_as_a_picture_with_words(monkeypatch, capsys):
    chart = Figure()
    chart.subplots().plot([1, 2])
    data, metadata = as_output(chart, "It goes up.")
    assert base64.b64decode(data["image/png"]).startswith(b"\x89PNG")
    # Where no picture can be shown, and for those who cannot see it.
    assert data["text/plain"] == metadata["image/png"]["alt"] == "It goes up."
    shown = []
    monkeypatch.setattr(charts, "display", lambda data, **options: shown.append((data, options)))
    show(chart, "It goes up.")
    assert shown == [(data, {"metadata": metadata, "raw": True})]
    assert capsys.readouterr().out == "It goes up.\n"
    show(chart, "It goes up.", title="Up")
    assert chart.get_suptitle() == "Up"


def test_the_style_is_that_of_the_course_and_of_nothing_else():
    before = dict(matplotlib.rcParams)
    chart = figure(9, 2, panels=4, columns=3)
    assert len(chart.axes) == 4 and chart.get_size_inches().tolist() == [9, 4]
    for axes in chart.axes:
        drawn = {side: spine.get_visible() for side, spine in axes.spines.items()}
        assert drawn == {"left": True, "bottom": True, "top": False, "right": False}
    assert chart.get_layout_engine() is not None
    assert dict(matplotlib.rcParams) == before
    assert (
        "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()
    )


def test_an_interval_chart_draws_each_score_of_each_method():
    series = {
        "rows": {"a": (0.5, 0.4, 0.7), "b": (0.2, 0.1, 0.3)},
        "products": {"a": (0.5, 0.3, 0.8), "b": (0.2, 0.0, 0.4)},
    }
    chart = interval_chart(series, "accuracy", {"chance": 0.25})
    (axes,) = chart.axes
    assert [text.get_text() for text in axes.texts] == ["chance 0.25"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b"]
    assert [text.get_text() for text in chart.legends[0].get_texts()] == ["rows", "products"]
    assert not chart.legends[0].get_frame_on()
    drawn = [container.lines[0].get_xdata().tolist() for container in axes.containers]
    assert drawn == [[0.5, 0.2], [0.5, 0.2]]
    bars = [container.lines[2][0].get_segments() for container in axes.containers]
    ends = [[point[0] for bar in kind for point in bar] for kind in bars]
    assert ends[0] == pytest.approx([0.4, 0.7, 0.1, 0.3])
    assert ends[1] == pytest.approx([0.3, 0.8, 0.0, 0.4])


@pytest.mark.parametrize(("high", "line", "end"), [(0.4, 0.2, 0.46), (0.1, 0.6, 0.69), (0.9, 0, 1)])
def test_the_axis_of_an_interval_chart_ends_above_all_that_is_drawn(high, line, end):
    chart = interval_chart({"rows": {"a": (0.1, 0.0, high)}}, "accuracy", {"chance": line})
    assert chart.axes[0].get_xlim() == pytest.approx((0, end))


def test_a_confusion_figure_shows_every_count_where_it_belongs():
    tables = {"first": [[3, 1], [0, 2]], "second": [[0, 4], [0, 0]]}
    chart = confusion_figure(tables, ["no", "yes"])
    assert [axes.get_title() for axes in chart.axes] == ["first", "second"]
    for axes, counts in zip(chart.axes, tables.values(), strict=True):
        shown = {text.get_position(): text.get_text() for text in axes.texts}
        assert shown == {(j, i): str(counts[i][j]) for i in range(2) for j in range(2)}
    assert chart.axes[0].images[0].get_array().tolist() == [[0.75, 0.25], [0, 1]]


def test_a_change_map_puts_each_tensor_at_its_layer_and_kind():
    layered = {"mlp.up_proj": {0: 0.01, 1: 0.02}, "input_layernorm": {1: 0.03}}
    single = {"embed_tokens": 0.04, "norm": 0.05}
    absolute = {"mlp.up_proj": {0: 0.5, 1: 0.5}, "input_layernorm": {1: 0.4}}, {"norm": 1.0}
    titles = ["uneven", "even"]
    top, right, bottom, *_ = change_map(layered, single, absolute, titles).axes
    assert [axes.get_title() for axes in (top, right)] == titles
    assert [t.get_text() for t in top.get_yticklabels()] == ["mlp.up_proj", "input_layernorm"]
    shown = top.images[0].get_array()
    assert shown[0].tolist() == pytest.approx([1, 2]) and shown[1][1] == pytest.approx(3)
    assert shown.mask[1][0], "layer 0 has no such tensor here: nothing is drawn"
    assert [bar.get_width() for bar in bottom.patches] == pytest.approx([4, 5])
    layered = {"a": {0: 1.0, 1: 2.0}, "b": {1: 3.0}, "c": {0: 4.0, 1: 5.0}}
    third = change_map(layered, single, absolute, titles).axes[0].images[0].get_array()
    assert third[2].tolist() == pytest.approx([400, 500]), "each row beside its own name"
    norms = [axes.images[0].norm for axes in (top, right)]
    assert norms[0].vmax / norms[0].vmin == pytest.approx(norms[1].vmax / norms[1].vmin)
    assert right.images[0].get_array()[0].tolist() == pytest.approx([0.5, 0.5])
    # The best weights of a run can be those it began with: nothing moved, and that is drawn too.
    still = {"mlp.up_proj": {0: 0.0}}, {"norm": 0.0}
    as_output(change_map(*still, still, titles), "Nothing moved.")


def test_distributions_and_batches_are_drawn_as_given():
    left, right = two_distributions(["a", "b"], [0.9, 0.1], [0, 1]).axes
    assert [bar.get_width() for bar in left.patches] == [0.9, 0.1]
    assert [bar.get_width() for bar in right.patches] == [0, 1]
    assert left.get_title() == "model: loss −log 0.100 = 2.30 nats"
    first, second = batch_shapes(["one", "two"], [[[0, 1, 2]], [[0, 0, 1, 1]]]).axes
    assert first.images[0].get_array().tolist() == [[0, 1, 2]]
    assert first.get_xlim() == second.get_xlim() == (-0.5, 3.5)
    named = [text.get_text() for text in first.figure.legends[0].get_texts()]
    assert named == ["prompt", "labelled", "padding"]
    again = batch_shapes(["one", "two"], [[[0, 1]], [[0, 1], [3, 1]]]).legends[0]
    assert [t.get_text() for t in again.get_texts()] == ["prompt", "labelled", "not read again"]
    assert again.get_patches()[2].get_hatch() == "////"


def test_a_strip_has_a_panel_a_step_and_marks_the_right_word():
    steps = {step: [0.9 - step / 10, 0.1 + step / 10] for step in range(5)}
    chart = distribution_strip(["$5 or $6", "good"], steps, 1)
    assert [axes.get_title() for axes in chart.axes] == [f"step {step}" for step in range(5)]
    assert [bar.get_width() for bar in chart.axes[2].patches] == pytest.approx([0.7, 0.3])
    assert [bar.get_hatch() for bar in chart.axes[2].patches] == [None, "//"]
    names = [text.get_text() for text in chart.axes[0].get_yticklabels()]
    assert names == [r"\$5 or \$6", "✓ good"]
    as_output(chart, "It goes over to the right word.")


def test_the_gradient_is_drawn_as_bars_and_dots():
    axes = gradient_figure(["a", "b"], [0.25, -0.75], [0.5, -0.5]).axes[0]
    assert [bar.get_width() for bar in axes.patches] == [0.25, -0.75]
    assert axes.lines[0].get_xdata().tolist() == [0.5, -0.5]
    assert "up" in axes.get_title(loc="left") and "down" in axes.get_title(loc="right")


def test_a_reliability_diagram_has_bins_intervals_counts_and_the_error():
    sure, right = [0.95] * 8 + [0.55, 0.65], [True] * 6 + [False] * 2 + [True, False]
    top, bottom = reliability_figure(sure, right).axes
    mark = top.containers[0].lines[0]
    assert mark.get_xdata().tolist() == pytest.approx([0.55, 0.65, 0.95])
    assert mark.get_ydata().tolist() == [1, 0, 0.75]
    assert [bar.get_height() for bar in bottom.patches] == [1, 1, 8]
    assert top.get_title(loc="left").endswith(f"{(0.45 + 0.65 + 8 * 0.2) / 10:.3f}")


def test_spread_draws_range_middle_half_and_median_of_each_name():
    axes = spread({"short": [1, 2, 3, 4, 5], "long": [11, 12, 13, 14, 15]}, "tokens").axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["short", "long"]
    boxes = [box.get_path().get_extents() for box in axes.patches]
    assert [(box.x0, box.x1) for box in boxes] == [(2, 4), (12, 14)]
    ends = [x for line in axes.lines for x in line.get_xdata()]
    assert (min(ends), max(ends)) == (1, 15)
    assert axes.get_xlabel() == "tokens"


def test_balance_has_a_panel_a_column_and_a_bar_a_part():
    stars = {"train": {"1": 0.25, "2": 0.75}, "test": {"1": 0.5, "2": 0.5}}
    kinds = {"train": {"toys": 1.0}, "test": {"toys": 1.0}}
    first, second = balance({"star_rating": stars, "department": kinds}).axes
    heights = [[bar.get_height() for bar in part] for part in first.containers]
    assert heights == [[25, 75], [50, 50]]
    assert [part.get_label() for part in first.containers] == ["train", "test"]
    assert [part[0].get_hatch() for part in first.containers] == ["", "//"]
    assert (first.get_xlabel(), second.get_xlabel()) == ("star_rating", "department")
