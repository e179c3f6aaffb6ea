"""Pictures. They draw what they are given, and each comes with its message in words."""

from IPython.display import display
from matplotlib.figure import Figure

# Okabe and Ito's colours, which stay apart for colour-blind readers (Color Universal Design, 2008).
BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#999999"


def show(figure: Figure, summary: str) -> None:
    """Show a figure with `summary` as its alternative text, and print that line under it."""
    display(figure, metadata={"image/png": {"alt": summary}})
    print(summary)
