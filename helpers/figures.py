"""Pictures. They draw what they are given, and each comes with its message in words."""

import base64
import io

from IPython.display import display
from matplotlib.figure import Figure

# Okabe and Ito's colours, which stay apart for colour-blind readers (Color Universal Design, 2008).
BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#999999"


def show(figure: Figure, summary: str) -> None:
    """Show a figure with `summary` as its alternative text, and print that line under it."""
    data, metadata = as_output(figure, summary)
    display(data, metadata=metadata, raw=True)
    print(summary)


def as_output(figure: Figure, summary: str) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
    """A figure as (data, metadata) for IPython's `display(..., raw=True)`: a PNG, with words for it.

    IPython turns a Figure into a picture by itself only after pyplot has been imported, and would
    show its mere type otherwise.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", bbox_inches="tight")
    picture = base64.b64encode(buffer.getvalue()).decode("ascii")
    return {"image/png": picture, "text/plain": summary}, {"image/png": {"alt": summary}}
