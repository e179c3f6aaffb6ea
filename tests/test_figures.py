"""Pictures: what a notebook gets to show."""

import base64

import pytest
from matplotlib.figure import Figure

from helpers.figures import (
    as_output,
    change_map,
    confidence_figure,
    confusion_figure,
    interval_chart,
)


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
    changes = {
        "model.embed_tokens.weight": 0.04,
        "model.layers.0.mlp.up_proj.weight": 0.01,
        "model.layers.1.mlp.up_proj.weight": 0.02,
        "model.layers.1.input_layernorm.weight": 0.03,
        "model.norm.weight": 0.05,
    }
    top, bottom = change_map(changes).axes[:2]
    assert [t.get_text() for t in top.get_yticklabels()] == ["mlp.up_proj", "input_layernorm"]
    shown = top.images[0].get_array()
    assert shown[0].tolist() == pytest.approx([1, 2]) and shown[1][1] == pytest.approx(3)
    assert shown.mask[1][0], "layer 0 has no such tensor here: nothing is drawn"
    assert [bar.get_width() for bar in bottom.patches] == pytest.approx([4, 5])
