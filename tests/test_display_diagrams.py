"""Drawings: what each says in its picture, in its text alternative and in its printed line."""

import base64
import html
import re
from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree

import pytest
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath

from helpers.display import (
    diagrams,
    draw_all_reduce,
    draw_backward,
    draw_epoch,
    draw_padding,
    draw_parts,
    draw_shift,
    draw_three_ways,
    draw_window,
    show_road,
)

SVG = "{http://www.w3.org/2000/svg}"
LONG = [
    "Review",
    ":",
    " The",
    "\n",
    "<b>&",
    *[" unputdownable"] * 20,
    " good",
    "WWWWWWMMMM@@",
    "mmmm",
    "<|im_end|>",
]


@pytest.fixture
def draw(monkeypatch, capsys):
    """Calls a function that draws; gives its picture, its text alternative and what it printed."""

    def call(function, *arguments):
        shown = []
        monkeypatch.setattr(diagrams, "display", lambda data, raw: shown.append(data))
        function(*arguments)
        (data,) = shown
        alt, picture = re.fullmatch(
            r'<img alt="([^"]+)" src="data:image/svg\+xml;base64,(.*)">', data["text/html"]
        ).groups()
        # Whoever sees no picture reads the same.
        assert html.unescape(alt) == data["text/plain"]
        return ElementTree.fromstring(base64.b64decode(picture)), data["text/plain"], printed()

    def printed():
        text = capsys.readouterr().out
        assert text.count("\n") == 1, "one line"
        return text

    return call


def words_in(svg):
    return [element.text for element in svg.iter(f"{SVG}text")]


DRAWN = [
    (show_road,),
    *((show_road, stage) for stage in diagrams.STAGES),
    (draw_shift, ["A", "B"], 1),
    (draw_shift, LONG, 25),
    (draw_padding, [5, 9, 12]),
    (draw_padding, [1000] * 16),
    (draw_epoch, 20, 8, 1),
    (draw_epoch, 9130, 1, 12),
    (draw_backward,),
    (draw_window, (0, 1, 40, 200), 71.4, 2048),
    (draw_window, (0,), 60, 100_000),
    (draw_three_ways,),
    (draw_all_reduce,),
    (draw_parts, {"train": 1, "validation": 1000, "test": 1}),
]


@pytest.mark.parametrize("call", DRAWN, ids=lambda call: f"{call[0].__name__}{len(str(call))}")
def test_each_drawing_has_a_title_words_and_no_word_that_is_cut_or_covered(draw, call):
    svg, says, _ = draw(*call)
    assert svg.get("role") == "img"
    named = {element.get("id"): element.text for element in svg if element.get("id")}
    assert all(named[name] for name in svg.get("aria-labelledby").split())
    assert named["says"] == says
    width, height = float(svg.get("width")), float(svg.get("height"))
    boxes = [place_of(element) for element in svg.iter(f"{SVG}text")]
    for left, top, right, bottom, word in boxes:
        assert left >= 0 and right <= width and top >= 0 and bottom <= height, word
    for a, b in combinations(boxes, 2):
        apart = a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
        assert apart, f"{a[4]!r} and {b[4]!r} overlap"
    # A word that stands over a box may not reach over its sides.
    for shape in list(svg.iter(f"{SVG}rect"))[1:]:
        x, y, w, h = (float(shape.get(key)) for key in ("x", "y", "width", "height"))
        assert x >= 0 and x + w <= width and y >= 0 and y + h <= height
        for left, top, right, bottom, word in boxes:
            if y <= top and bottom <= y + h and shape.get("fill") != "none":
                inside = x <= left and right <= x + w
                assert inside or right <= x or left >= x + w, word


def place_of(element):
    """Left, top, right, bottom of a text in DejaVu Sans, the widest of the usual sans-serifs."""
    # Where it says nothing, it is as the drawing's first line has it.
    size = float(element.get("font-size", diagrams.SMALL))
    anchor = element.get("text-anchor", "middle")
    font = FontProperties(family="DejaVu Sans", weight=element.get("font-weight") or "normal")
    width = TextPath((0, 0), element.text.replace("$", r"\$"), size, prop=font).get_extents().width
    x, y = float(element.get("x")), float(element.get("y"))
    left = x - {"start": 0, "middle": width / 2, "end": width}[anchor]
    return left, y - 0.75 * size, left + width, y + 0.2 * size, element.text


def test_the_road_draws_and_says_each_stage_in_its_order(draw):
    svg, says, line = draw(show_road)
    titles = [title for _, _, _, title, *_ in diagrams.STAGES.values()]
    assert set(titles) <= set(words_in(svg))
    places = [says.index(f" {title}: ") for title in titles]
    assert places == sorted(places)
    for word in ("table", "prompt + completion", "two distributions", "gradient", "new model"):
        assert word in line
    assert "here" not in line + says and "you are here" not in words_in(svg)


@pytest.mark.parametrize("stage", diagrams.STAGES)
def test_the_road_marks_the_stage_where_you_are(draw, stage):
    svg, says, line = draw(show_road, stage)
    title = diagrams.STAGES[stage][3]
    assert says.count("(you are here)") == 1 and f"{title} (you are here):" in says
    assert line.endswith(f"You are here: {stage}.\n")
    marks = [e for e in svg.iter(f"{SVG}text") if e.text == "you are here"]
    (name,) = [e for e in svg.iter(f"{SVG}text") if e.text == title]
    assert len(marks) == 1
    assert marks[0].get("x") == name.get("x")
    assert 0 < float(name.get("y")) - float(marks[0].get("y")) < 40
    # Not by colour alone: the box has a firmer border as well.
    assert len([e for e in svg.iter(f"{SVG}rect") if e.get("stroke-width") == "3"]) == 1


def test_the_road_marks_several_stages(draw):
    svg, _, line = draw(show_road, ("validation", "test"))
    assert words_in(svg).count("you are here") == 2 and "here: validation, test." in line


def test_the_road_of_the_readme_is_the_one_that_the_code_draws():
    file = Path(__file__).resolve().parent.parent / "docs" / "road.svg"
    assert file.read_text(encoding="utf-8") == diagrams.road_svg(), "python tools/draw_road.py"


def test_the_shift_pairs_each_token_with_the_next_and_shows_which_count(draw):
    svg, _, line = draw(draw_shift, ["Opinion", ":", " good", "<|end|>"], 2)
    texts = [e for e in svg.iter(f"{SVG}text") if e.get("text-anchor") is None]
    words = [e.text for e in texts]
    assert words == ["Opinion", ":", ":", "␣good", "␣good", "<|end|>"]
    bold = [e.text for e in texts if e.get("font-weight")]
    assert bold == ["␣good", "<|end|>"]
    dashed = [e for e in svg.iter(f"{SVG}rect") if e.get("stroke-dasharray")]
    assert len(dashed) == 1
    assert "4 tokens make 3 predictions" in line
    assert "1 next token is in the prompt" in line and "2 labelled: ␣good <|end|>." in line


def test_padding_fills_each_row_up_to_the_longest(draw):
    svg, _, line = draw(draw_padding, [5, 10])
    assert {"row 1: 5 tokens", "row 2: 10 tokens"} <= set(words_in(svg))
    first, padding, second = list(svg.iter(f"{SVG}rect"))[1:]
    widths = [float(shape.get("width")) for shape in (first, padding, second)]
    assert widths[0] == widths[1] == widths[2] / 2
    assert "padded to 10: 5 of 20 positions (25%) are padding" in line


def test_an_epoch_is_as_many_steps_as_the_rows_need(draw):
    svg, _, line = draw(draw_epoch, 20, 8, 2)
    assert {"8 rows", "epoch 1", "epoch 2", "1", "6"} <= set(words_in(svg))
    assert "forward, loss, backward, clip, step, zero" in words_in(svg)
    assert "3 steps an epoch (the last batch has 4)" in line and "2 × 3 = 6 steps" in line
    svg, _, line = draw(draw_epoch, 800, 8, 6)
    assert "…" in words_in(svg) and "600" in words_in(svg) and "the last batch" not in line


def test_the_gradient_flows_back_from_the_loss_to_all_weights(draw):
    svg, _, line = draw(draw_backward)
    assert words_in(svg).count("its gradient") == 4
    assert line.index("logits → loss") < line.index("from the loss to the logits")


def test_the_window_says_what_is_too_long(draw):
    svg, _, line = draw(draw_window, (1, 4, 10), 100, 1000)
    assert {"1 shot: 100 tokens", "10 shots: 1,000 tokens", "window: 1,000 tokens"} <= set(
        words_in(svg)
    )
    # A window that the shots fill has no room for the question.
    assert words_in(svg).count("too long") == 1
    assert "about 9 shots" in line and "Too many: 10." in line
    assert "Too many: none of 1, 4." in draw(draw_window, (1, 4), 100, 1000)[2]
    # A bar that is much longer than the window is cut, so that the others stay visible.
    assert "→" in words_in(draw(draw_window, (1, 300), 100, 1000)[0])


def test_three_ways_differ_in_what_is_trained(draw):
    svg, _, line = draw(draw_three_ways)
    words = words_in(svg)
    assert (words.count("frozen"), words.count("trained"), words.count("A · B")) == (6, 3, 3)
    assert "Prompt: no weight changes" in line and "LoRA: the model is frozen" in line


def test_the_parts_are_drawn_in_proportion_and_say_what_for(draw):
    svg, _, line = draw(draw_parts, {"train": 70, "validation": 20, "test": 10})
    bars = [e for e in svg.iter(f"{SVG}rect") if e.get("height") == "34"]
    widths = [float(bar.get("width")) for bar in bars]
    assert widths == pytest.approx([7 * widths[2], 2 * widths[2], widths[2]])
    assert {"70 rows (70%)", "20 rows (20%)", "10 rows (10%)"} <= set(words_in(svg))
    assert "test (10 rows, 10%) gives one score" in line
