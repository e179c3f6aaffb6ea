"""The tokens of an example, with their labels and losses: as coloured cells or as a table."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

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
    pages, texts, lines = [], [], []
    for when in times:
        losses = [t.losses.get(when) if t.labelled or not masked else None for t in tokens]
        as_table = _table(tokens, losses)
        name = f"<div><b>{escape(when)}</b></div>" if len(times) > 1 else ""
        pages.append(name + (as_table["text/html"] if table else _cells(tokens, losses)))
        texts.append(as_table["text/plain"])
        if _measured(tokens):
            shown = [loss for loss in losses if loss is not None]
            which = "labelled tokens" if masked else "tokens, those of the prompt included"
            mean = sum(shown) / len(shown)
            lines.append(f"{when}: mean loss of {len(shown)} {which}: {mean:.4f} nats")
        else:
            labelled = sum(token.labelled for token in tokens)
            lines.append(f"{len(tokens)} tokens, {labelled} of them labelled (✓)")
    return "".join(pages), "\n\n".join(texts), "\n".join(lines)


def _cells(tokens: list[Token], losses: list[float | None]) -> str:
    """HTML of the tokens in their order: text, id, and the loss with a symbol.

    The darker a cell, the higher its loss, on one scale for all times. ✓ and a solid border: the
    token is labelled. Pointing at a cell shows the same in words. Where no token has a loss,
    labelled tokens are shaded.
    """
    measured = _measured(tokens)
    highest = max((loss for token in tokens for loss in token.losses.values()), default=1.0)
    cells = []
    for position, (token, loss) in enumerate(zip(tokens, losses, strict=True)):
        shade, background = 0.0, "#eeeeee" if measured or not token.labelled else "#fbe3b3"
        if loss is not None:
            shade = loss / highest
            # From white to blue.
            mixed = [round(255 + (end - 255) * shade) for end in (0, 0x72, 0xB2)]
            background = "rgb({}, {}, {})".format(*mixed)
        # Up to this shade black letters have the stronger contrast; both have at least 4.5 to 1.
        letters = "white" if shade > 0.93 else "black"
        border = "2px solid black" if token.labelled else "1px dashed #888888"
        says = f"position {position}, token {token.text!r}, id {token.id}, {_mark(token)}"
        if measured:
            says += ", no loss shown" if loss is None else f", loss {loss:.2f} nats"
        visible = escape(token.text.replace(" ", "␣").replace("\n", "⏎"))
        number = f" {_number(loss)}" if measured else ""
        cells.append(
            f'<span title="{escape(says)}" style="display: inline-block; margin: 2px; '
            f"padding: 1px 5px; text-align: center; line-height: 1.35; border: {border}; "
            f'background: {background}; color: {letters}">'
            f'<strong>{visible}</strong><br><span style="font-size: 75%">{token.id}</span><br>'
            f"{_mark(token)[0]}{number}</span>"
        )
    loss = f", loss in nats (the darker, the higher; darkest: {highest:.2f})" if measured else ""
    legend = f"Each cell: token, id{loss}. "
    legend += "✓ and a solid border: labelled; · not. ␣ is a space, ⏎ the end of a line."
    return f"<div>{''.join(cells)}</div><div>{legend}</div>"


def _table(tokens: list[Token], losses: list[float | None]) -> dict[str, str]:
    """The same as `_cells` as a table; see `table_output`."""
    header = ["position", "token", "id", "label"]
    rows = [[i, repr(token.text), token.id, _mark(token)] for i, token in enumerate(tokens)]
    if _measured(tokens):
        header.append("loss (nats)")
        rows = [[*row, _number(loss)] for row, loss in zip(rows, losses, strict=True)]
    return table_output(header, rows)


def _measured(tokens: list[Token]) -> bool:
    return any(token.losses for token in tokens)


def _mark(token: Token) -> str:
    return "✓ labelled" if token.labelled else "· not labelled"


def _number(loss: float | None) -> str:
    return "–" if loss is None else f"{loss:.2f}"
