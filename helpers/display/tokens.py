"""The tokens of an example, with their labels and losses: as coloured cells or as a table."""

import html
from collections.abc import Sequence
from dataclasses import dataclass

from IPython.display import display

from helpers.display.tables import table_output


@dataclass(frozen=True)
class Token:
    """One token of an example, and what it costs the model to predict it.

    labelled: whether it has a label, so that its loss counts (the label is not -100).
    losses: when ("before training", say) → nats; empty for the first token of all, which nothing
    predicts.
    """

    text: str
    id: int
    labelled: bool
    losses: dict[str, float]


def show_tokens(tokens: list[Token], times: Sequence[str] = ("",), masked: bool = True) -> None:
    """Show the tokens as coloured cells; where no HTML can be shown, as a plain table.

    times: those whose losses are shown, each in its own block of cells, one below the other and on
    one scale. masked: show the losses of the labelled tokens only, as training sees them. Tokens
    without losses are shown with their ids and marks alone.
    """
    page, text, words = tokens_page(tokens, times, masked)
    display({"text/html": page, "text/plain": text}, raw=True)
    print(words)


def tokens_page(
    tokens: list[Token], times: Sequence[str], masked: bool = True, table: bool = False
) -> tuple[str, str, str]:
    """HTML (cells, or a table), plain text, and a line in words for each time."""
    blocks = []
    for when in times:
        plain = _token_table(tokens, when, masked)
        cells = plain["text/html"] if table else _token_cells(tokens, when, masked)
        name = f"<div><b>{html.escape(when)}</b></div>" if len(times) > 1 else ""
        blocks.append((name + cells, plain["text/plain"], _in_words(tokens, when, masked)))
    pages, texts, lines = zip(*blocks, strict=True)
    return "".join(pages), "\n\n".join(texts), "\n".join(lines)


def _token_cells(tokens: list[Token], when: str = "", masked: bool = True) -> str:
    """HTML of the tokens in their order: text, id, and the loss with a symbol.

    The darker a cell, the higher its loss, on one scale for all times. ✓ and a solid border: the
    token is labelled. Pointing at a cell shows the same in words. Where no token has a loss,
    labelled tokens are shaded.
    """
    measured = _measured(tokens)
    highest = max((loss for token in tokens for loss in token.losses.values()), default=1.0)
    cells = []
    for position, token in enumerate(tokens):
        loss = _visible_loss(token, when, masked)
        shade = 0.0 if loss is None else loss / highest
        # From white to blue; what has no loss to show is grey.
        mixed = [round(255 + (end - 255) * shade) for end in (0, 0x72, 0xB2)]
        background = "#eeeeee" if loss is None else "rgb({}, {}, {})".format(*mixed)
        if token.labelled and not measured:
            background = "#fbe3b3"
        # Up to this shade black letters have the stronger contrast; both have at least 4.5 to 1.
        letters = "white" if shade > 0.93 else "black"
        border = "2px solid black" if token.labelled else "1px dashed #888888"
        says = f"position {position}, token {token.text!r}, id {token.id}, {_mark(token)}"
        if measured:
            says += ", no loss shown" if loss is None else f", loss {loss:.2f} nats"
        visible = html.escape(token.text.replace(" ", "␣").replace("\n", "⏎"))
        number = f" {_number(loss)}" if measured else ""
        cells.append(
            f'<span title="{html.escape(says)}" style="display: inline-block; margin: 2px; '
            f"padding: 1px 5px; text-align: center; line-height: 1.35; border: {border}; "
            f'background: {background}; color: {letters}">'
            f'<strong>{visible}</strong><br><span style="font-size: 75%">{token.id}</span><br>'
            f"{_mark(token)[0]}{number}</span>"
        )
    loss = f", loss in nats (the darker, the higher; darkest: {highest:.2f})" if measured else ""
    legend = f"Each cell: token, id{loss}. "
    legend += "✓ and a solid border: labelled; · not. ␣ is a space, ⏎ the end of a line."
    return f"<div>{''.join(cells)}</div><div>{legend}</div>"


def _token_table(tokens: list[Token], when: str = "", masked: bool = True) -> dict[str, str]:
    """The same as `_token_cells` as a table; see `table_output`."""
    header = ["position", "token", "id", "label"]
    rows = [[i, repr(token.text), token.id, _mark(token)] for i, token in enumerate(tokens)]
    if _measured(tokens):
        header.append("loss (nats)")
        for row, token in zip(rows, tokens, strict=True):
            row.append(_number(_visible_loss(token, when, masked)))
    return table_output(header, rows)


def _in_words(tokens: list[Token], when: str, masked: bool = True) -> str:
    """The mean of the losses that are shown; without losses, how many tokens are labelled."""
    if not _measured(tokens):
        labelled = sum(token.labelled for token in tokens)
        return f"{len(tokens)} tokens, {labelled} of them labelled (✓)"
    losses = [_visible_loss(token, when, masked) for token in tokens]
    shown = [loss for loss in losses if loss is not None]
    which = "labelled tokens" if masked else "tokens, those of the prompt included"
    return f"{when}: mean loss of {len(shown)} {which}: {sum(shown) / len(shown):.4f} nats"


def _measured(tokens: list[Token]) -> bool:
    return any(token.losses for token in tokens)


def _visible_loss(token: Token, when: str, masked: bool) -> float | None:
    return token.losses.get(when) if token.labelled or not masked else None


def _mark(token: Token) -> str:
    return "✓ labelled" if token.labelled else "· not labelled"


def _number(loss: float | None) -> str:
    return "–" if loss is None else f"{loss:.2f}"
