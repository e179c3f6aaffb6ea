"""Tables, as HTML and as plain text."""

from collections.abc import Sequence

import pandas
from IPython.display import display

# Padding too, for tables in widgets: there Jupyter's own style gives them none.
_CELL = "text-align: left; vertical-align: top; white-space: pre-wrap; max-width: 40em; "
_CELL += "overflow-wrap: break-word; padding: 0.4em 0.5em"


def show_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Show a table, as HTML and, where that cannot be shown, as plain text.

    Whatever stands in a cell is shown as it is: markup in a model's answer stays text.
    """
    display(table_output(header, rows), raw=True)


def table_output(header: Sequence[str], rows: Sequence[Sequence[object]]) -> dict[str, str]:
    """A table as data for IPython's `display(..., raw=True)`: HTML, escaped, and plain text."""
    # As text, since pandas would round floats and align by type.
    lines = [list(header), *([str(value) for value in row] for row in rows)]
    frame = pandas.DataFrame(lines[1:], columns=lines[0])
    with pandas.option_context("display.max_colwidth", None):
        # str as formatter: by itself pandas writes a line break as \n.
        page = frame.to_html(index=False, border=0, formatters=[str] * len(header))
    # In each cell, since Jupyter's own style for cells is stronger than that of a whole table.
    for tag in ("th", "td"):
        page = page.replace(f"<{tag}>", f'<{tag} style="{_CELL}">')
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
    return {"text/html": page, "text/plain": "\n".join(text)}
