"""Pictures: what a notebook gets to show."""

import base64

from matplotlib.figure import Figure

from helpers.figures import as_output


def test_a_figure_is_shown_as_a_picture_with_words():
    figure = Figure()
    figure.subplots().plot([1, 2])
    data, metadata = as_output(figure, "It goes up.")
    assert base64.b64decode(data["image/png"]).startswith(b"\x89PNG")
    # Where no picture can be shown, and for those who cannot see it.
    assert data["text/plain"] == metadata["image/png"]["alt"] == "It goes up."
