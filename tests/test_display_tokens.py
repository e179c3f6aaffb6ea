"""Tokens as cells and as a table, with marks, losses and the loss mask."""

import re

from helpers.display import Token, show_tokens, tokens
from helpers.display.tokens import _in_words, _token_cells, _token_table

TOKENS = [
    Token("<b>", 5, False, {}),
    Token(" it\n", 6, False, {"before": 3.0, "after": 2.5}),
    Token(" good", 7, True, {"before": 4.0, "after": 0.25}),
    Token("<end>", 8, True, {"before": 1.0, "after": 0.5}),
]


def test_tokens_are_cells_with_text_id_symbol_and_loss():
    page = _token_cells(TOKENS, "before")
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
    page = _token_cells([Token("a", 1, True, {"": float(loss)}) for loss in range(101)])
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
    masked, bare = _token_cells(TOKENS, "before"), _token_cells(TOKENS, "before", masked=False)
    assert "3.00" not in masked and masked.count("no loss shown") == 2
    assert "3.00" in bare and bare.count("no loss shown") == 1, "nothing predicts the first token"
    assert _in_words(TOKENS, "before").endswith("mean loss of 2 labelled tokens: 2.5000 nats")
    bare_words = _in_words(TOKENS, "after", masked=False)
    assert "of 3 tokens" in bare_words and "1.0833 nats" in bare_words


def test_tokens_are_a_table_too_and_shown_with_their_mean(monkeypatch, capsys):
    lines = _token_table(TOKENS, "after")["text/plain"].splitlines()
    assert lines[2].split() == ["1", "'", "it\\n'", "6", "·", "not", "labelled", "–"]
    assert lines[3].split() == ["2", "'", "good'", "7", "✓", "labelled", "0.25"]
    assert "<b>" not in _token_table(TOKENS, "after")["text/html"]
    shown = []
    monkeypatch.setattr(tokens, "display", lambda data, **_: shown.append(data))
    show_tokens(TOKENS, ["after"])
    assert shown[0]["text/html"] == _token_cells(TOKENS, "after")
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
    cells = _token_cells(bare)
    assert "✓" in cells and "loss" not in cells
    assert "&lt;it&gt;?⏎" in cells and "<it>" not in cells
    assert "loss" not in _token_table(bare)["text/plain"]
    monkeypatch.setattr(tokens, "display", lambda *_, **__: None)
    show_tokens(bare)
    assert capsys.readouterr().out == "2 tokens, 1 of them labelled (✓)\n"
