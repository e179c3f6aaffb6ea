"""Tokens as cells and as a table, with marks, losses and the loss mask."""

import re

from helpers.display import Token, show_tokens, tokens
from helpers.display.tokens import tokens_page

TOKENS = [
    Token("<b>", 5, False, {}),
    Token(" it\n", 6, False, {"before": 3.0, "after": 2.5}),
    Token(" good", 7, True, {"before": 4.0, "after": 0.25}),
    Token("<end>", 8, True, {"before": 1.0, "after": 0.5}),
]


def test_tokens_are_cells_with_text_id_symbol_and_loss():
    page, _, _ = tokens_page(TOKENS, ["before"])
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


def test_letters_stand_out_from_every_shade():
    shades = [Token("a", 1, True, {"": float(loss)}) for loss in range(101)]
    page, _, _ = tokens_page(shades, [""])
    cells = re.findall(r"rgb\((\d+), (\d+), (\d+)\); color: (\w+)", page)
    assert {letters for *_, letters in cells} == {"black", "white"} and len(cells) == 101
    for *background, letters in cells:
        light = luminance(map(int, background))
        assert (light + 0.05) / 0.05 >= 4.5 if letters == "black" else 1.05 / (light + 0.05) >= 4.5


def luminance(colour):
    """Relative luminance of an sRGB colour, as WCAG 2 defines it."""
    shares = (part / 255 for part in colour)
    linear = [s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_the_prompt_mask_hides_the_losses_that_training_does_not_see():
    page, _, words = tokens_page(TOKENS, ["before"])
    assert "3.00" not in page and page.count("no loss shown") == 2
    assert words.endswith("mean loss of 2 labelled tokens: 2.5000 nats")
    page, _, words = tokens_page(TOKENS, ["before"], masked=False)
    assert "3.00" in page and page.count("no loss shown") == 1, "nothing predicts the first token"
    assert "of 3 tokens" in words and "2.6667 nats" in words


def test_tokens_are_a_table_too_and_shown_with_their_mean(monkeypatch, capsys):
    page, text, _ = tokens_page(TOKENS, ["after"], table=True)
    lines = text.splitlines()
    assert lines[2].split() == ["1", "'", "it\\n'", "6", "·", "not", "labelled", "–"]
    assert lines[3].split() == ["2", "'", "good'", "7", "✓", "labelled", "0.25"]
    assert "<b>" not in page and "<table" in page
    shown = []
    monkeypatch.setattr(tokens, "display", lambda data, **_: shown.append(data))
    show_tokens(TOKENS, ["after"])
    assert shown[0]["text/html"] == tokens_page(TOKENS, ["after"])[0]
    assert "✓ labelled" in shown[0]["text/plain"]
    assert "0.3750 nats" in capsys.readouterr().out


def test_two_times_are_shown_one_below_the_other_on_one_scale(monkeypatch, capsys):
    shown = []
    monkeypatch.setattr(tokens, "display", lambda data, **_: shown.append(data["text/html"]))
    show_tokens(TOKENS, ["before", "after"], masked=False)
    before, after = shown[0].split("<b>after</b>")
    assert "rgb(0, 114, 178)" in before and "rgb(0, 114, 178)" not in after
    assert "2.50" in after and "3.00" in before
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["before", "after"]


def test_tokens_without_losses_are_shown_with_their_marks_alone(monkeypatch, capsys):
    bare = [Token("Is <it>?\n", 7, False, {}), Token(" yes", 9, True, {})]
    cells, text, words = tokens_page(bare, [""])
    assert "✓" in cells and "loss" not in cells
    assert "&lt;it&gt;?⏎" in cells and "<it>" not in cells
    assert "loss" not in text
    monkeypatch.setattr(tokens, "display", lambda *_, **__: None)
    show_tokens(bare)
    assert capsys.readouterr().out == f"{words}\n" == "2 tokens, 1 of them labelled (✓)\n"
