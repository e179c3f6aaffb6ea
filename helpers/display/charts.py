"""Pictures. They draw what they are given, and each comes with its message in words."""

import base64
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy
import pandas
from IPython.display import display
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, LogNorm
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator
from numpy.typing import ArrayLike

from helpers.evaluation.uncertainty import (
    expected_calibration_error,
    reliability_bins,
    wilson_interval,
)

Score = tuple[float, float, float]  # a score and the two ends of its interval

# Okabe and Ito's colours, which stay apart for colour-blind readers (Color Universal Design, 2008).
BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#999999"
# Runs and methods differ by mark as well.
STYLES = ((BLUE, "o"), (RED, "s"), (GREEN, "^"), (ORANGE, "D"))

STYLE = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "figure.constrained_layout.use": True,
}


def figure(
    width: float, row_height: float, panels: int = 1, columns: int | None = None, **options: Any
) -> Figure:
    """A figure in the course's style with its empty panels, `.axes`, row by row. Sizes in inches.

    Made without pyplot: a figure that pyplot keeps would stay in memory, and be drawn twice.
    columns: panels side by side, by default all. options: what `Figure.subplots` takes.
    """
    columns = columns or panels
    rows = math.ceil(panels / columns)
    with rc_context(STYLE):
        chart = Figure(figsize=(width, rows * row_height))
        chart.subplots(rows, columns, **options)
    for left_over in chart.axes[panels:]:
        left_over.remove()
    return chart


def show(chart: Figure, summary: str, title: str = "") -> None:
    """Show a figure with its finding as title, and `summary` below it and as text alternative."""
    if title:
        chart.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold")
    data, metadata = as_output(chart, summary)
    display(data, metadata=metadata, raw=True)
    print(summary)


def as_output(chart: Figure, summary: str) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
    """A figure as data and metadata for IPython's `display(..., raw=True)`: a PNG, and words.

    IPython turns a Figure into a picture by itself only after pyplot has been imported.
    """
    buffer = io.BytesIO()
    chart.savefig(buffer, format="png", bbox_inches="tight")
    picture = base64.b64encode(buffer.getvalue()).decode("ascii")
    return {"image/png": picture, "text/plain": summary}, {"image/png": {"alt": summary}}


# ---- parts of several figures


def intervals(
    axes: Axes, positions: Sequence[float], scores: Sequence[Score], flat: bool = False, **style
) -> None:
    """Draw each score as a mark with its interval. flat: from left to right."""
    middle, low, high = numpy.transpose(scores)
    # An end that rounding has put on the wrong side of its score would be refused.
    reach = numpy.maximum(0, [middle - low, high - middle])
    if flat:
        axes.errorbar(middle, positions, xerr=reach, capsize=3, **style)
    else:
        axes.errorbar(positions, middle, yerr=reach, capsize=3, **style)


def _word_bars(
    axes: Axes, words: Sequence[str], values: Sequence[float], number: str, **style: Any
) -> BarContainer:
    """A bar for each word, from top to bottom, with its value as a number."""
    bars = axes.barh(range(len(words)), values, **style)
    axes.bar_label(bars, fmt=number, padding=3, fontsize=9)
    # A dollar sign in a word begins no formula.
    name_rows(axes, [word.replace("$", r"\$") for word in words])
    return bars


def name_rows(axes: Axes, names: Iterable[str]) -> None:
    """Write names beside the rows of a chart, the first on top."""
    names = list(names)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)


# ---- scores


def interval_chart(
    series: Mapping[str, Mapping[str, Score]], score: str, lines: Mapping[str, float] | None = None
) -> Figure:
    """Scores from 0 to 1 with their intervals, one row of the chart for each method.

    The axis begins at 0 and ends a bit above the highest interval, so that low scores fill it, too.

    series: kind of interval or score → {method: (score, low, high)}. score: what is drawn, with its
    unit, for the axis. lines: name → score to compare with, each a dashed line with its name.
    """
    methods = list(dict.fromkeys(method for values in series.values() for method in values))
    chart = figure(8, 1.1 + 0.22 * len(methods) * (len(series) + 1))
    (axes,) = chart.axes
    for number, (name, values) in enumerate(series.items()):
        colour, marker = STYLES[number % len(STYLES)]
        shift = 0.22 * (number - (len(series) - 1) / 2)
        rows = [methods.index(method) + shift for method in values]
        intervals(axes, rows, list(values.values()), True, fmt=marker, color=colour, label=name)
    name_rows(axes, methods)
    highest = max(high for values in series.values() for _, _, high in values.values())
    axes.set(xlim=(0, min(1, 1.15 * max(highest, *(lines or {}).values(), 0.1))), xlabel=score)
    axes.grid(axis="x", alpha=0.4)
    for name, value in (lines or {}).items():
        axes.axvline(value, color="black", linestyle="--", linewidth=0.8)
        # Slanted, so that the names of two lines that are close stay readable.
        place = {"xycoords": ("data", "axes fraction"), "rotation": 30, "fontsize": 9}
        axes.annotate(f"{name} {value:.2f}", (value, 1.01), **place)
    if len(series) > 1:
        chart.legend(loc="outside lower center", ncols=len(series), frameon=False)
    return chart


def confusion_figure(tables: Mapping[str, ArrayLike], labels: Sequence[str]) -> Figure:
    """Confusion matrices side by side: counts as numbers, their share of the row as shade.

    tables: method → counts; row = right answer, column = answer given, in the order of the labels.
    """
    size = 1.3 + 0.42 * len(labels)
    chart = figure(size * len(tables), size + 0.4, len(tables), sharey=True)
    for axes, (name, table) in zip(chart.axes, tables.items(), strict=True):
        counts = numpy.array(table)
        shares = counts / numpy.maximum(1, counts.sum(axis=1, keepdims=True))
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for (i, j), count in numpy.ndenumerate(counts):
            colour = "white" if shares[i, j] > 0.55 else "black"
            axes.text(j, i, str(count), ha="center", va="center", color=colour, fontsize=9)
        axes.set_title(name)
        axes.set_xticks(range(len(labels)), labels, rotation=45, ha="right")
        name_rows(axes, labels)
    chart.axes[0].set_ylabel("right answer")
    chart.supxlabel("answer given (rows counted)", fontsize=10)
    return chart


def reliability_figure(probabilities: Sequence[float], correct: Sequence[bool]) -> Figure:
    """Reliability diagram: in each bin of probability, the share of answers that were right.

    On the diagonal the model is right as often as it says; below it, it is too sure of itself.
    The lower panel counts the rows of each bin. See `reliability_bins` for arguments and errors;
    the expected calibration error is written above.
    """
    found = reliability_bins(probabilities, correct)
    chart = figure(5, 2.6, 2, columns=1, sharex=True, height_ratios=[3, 1])
    top, bottom = chart.axes
    top.plot([0, 1], [0, 1], "--", color="black", linewidth=0.8)
    means = [mean for mean, _, _ in found]
    scores = [(share, *wilson_interval(round(share * n), n)) for _, share, n in found]
    intervals(top, means, scores, fmt="o", color=BLUE)
    error = expected_calibration_error(probabilities, correct)
    top.set_title(f"expected calibration error: {error:.3f}", loc="left")
    top.set(xlim=(0, 1), ylim=(0, 1.02), ylabel="share that was right")
    top.text(0.05, 0.08, "as sure as it is right", rotation=38, transform=top.transAxes, fontsize=9)
    bars = bottom.bar(means, [n for *_, n in found], 0.06, color=GREY)
    bottom.bar_label(bars, fontsize=8)
    bottom.margins(y=0.3)
    bottom.set(ylabel="rows", xlabel="probability that the model gave to its answer (mean of bin)")
    return chart


# ---- what a model expects, and what training moves


def two_distributions(
    words: Sequence[str], model: Sequence[float], label: Sequence[float]
) -> Figure:
    """What the model expects next beside what the label says: a probability for each word.

    label: 1 for the right word, 0 for the others; the loss is -log of what the model gives to it.
    """
    chart = figure(8, 0.35 * len(words) + 1, 2, sharey=True)
    right = model[label.index(1)]
    loss = -math.log(right) if right else math.inf
    of_model = f"model: loss −log {right:.3f} = {loss:.2f} nats"
    drawn = (model, BLUE, of_model), (label, ORANGE, "label")
    for axes, (values, colour, title) in zip(chart.axes, drawn, strict=True):
        _word_bars(axes, words, values, "{:.3f}", color=colour)
        axes.set(xlim=(0, 1.15), xticks=[0, 0.5, 1], title=title, xlabel="probability")
        axes.spines["bottom"].set_bounds(0, 1)  # beyond is room for the numbers
    chart.axes[0].set_ylabel("next token")
    return chart


def distribution_strip(
    words: Sequence[str], model: Mapping[int, Sequence[float]], label: int
) -> Figure:
    """What the model expects next at several steps of a run: a small panel for each step.

    model: step → probability of each word. label: position of the right word in `words`; its bar
    is orange and hatched, and its word is marked.
    """
    columns = len(model) if len(model) < 5 else min(4, math.ceil(len(model) / 2))
    chart = figure(10, 0.26 * len(words) + 0.9, len(model), columns, sharey=True)
    names = [f"✓ {word}" if i == label else word for i, word in enumerate(words)]
    for axes, (step, values) in zip(chart.axes, model.items(), strict=True):
        bars = _word_bars(axes, names, values, "{:.2f}", color=BLUE)
        bars[label].set(facecolor=ORANGE, hatch="//", edgecolor="black")
        axes.set(xlim=(0, 1.25), xticks=[0, 0.5, 1], title=f"step {step}")
        axes.spines["bottom"].set_bounds(0, 1)
    chart.supxlabel("probability that the model gives to the next token", fontsize=10)
    return chart


def gradient_figure(
    words: Sequence[str], ours: Sequence[float], autograd: Sequence[float]
) -> Figure:
    """p − q as bars and the gradient that autograd found as dots, for the same words.

    A step goes against the gradient: it pushes a word with a bar below zero up, the others down.
    """
    chart = figure(8, 0.35 * len(words) + 1)
    (axes,) = chart.axes
    _word_bars(axes, words, ours, "{:+.3f}", color=BLUE, label="p − q")
    axes.plot(autograd, range(len(words)), "o", mfc="white", mec="black", label="autograd")
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set(xlim=(-1.25, 1.25), xlabel="gradient of the loss at this logit", ylabel="next token")
    axes.set_title("← a step pushes this token up", loc="left")
    axes.set_title("a step pushes this token down →", loc="right")
    # Outside the axes, where it can hide nothing.
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    return chart


Changes = tuple[Mapping[str, Mapping[int, float]], Mapping[str, float]]


def change_map(
    layered: Mapping[str, Mapping[int, float]],
    single: Mapping[str, float],
    absolute: Changes,
    titles: Sequence[str],
) -> Figure:
    """How far each tensor of a model moved: layers from left to right, kinds from top to bottom.

    layered: kind → {layer: relative change} (0.01: by one per cent of its own size); a tensor that
    did not move stays white. single: name → change of tensors that belong to no layer (embeddings,
    the last norm), drawn as bars below. absolute: the same two for the absolute change (root mean
    square, in units of the weights), drawn beside it. titles: what each of the two maps says.
    Each map's colours span the same factor on a logarithmic scale, so the evener map moved evener.
    """
    relative = (layered, single, 100, "relative change (%)")
    maps = relative, (*absolute, 1, "absolute change (RMS)")
    heights = [len(layered), len(single)]
    options = {"columns": 2, "height_ratios": heights, "sharey": "row"}
    chart = figure(12, 0.8 + 0.16 * sum(heights), 4, **options)
    ranges = []
    for rows, *_ in maps:
        moved = [value for row in rows.values() for value in row.values() if value > 0] or [1.0]
        ranges.append((min(moved), max(moved)))
    half = max(1.01, *(math.sqrt(high / low) for low, high in ranges))  # of the span, as a factor
    panels = zip(chart.axes[:2], chart.axes[2:], titles, maps, ranges, strict=True)
    for top, bottom, title, (rows, others, unit, label), (low, high) in panels:
        middle = unit * math.sqrt(low * high)
        # A column for each layer; a tensor that a layer lacks is nan.
        table = unit * pandas.DataFrame(rows).T.sort_index(axis=1)
        norm = LogNorm(middle / half, middle * half)
        image = top.imshow(table, cmap="viridis", aspect="auto", norm=norm)
        name_rows(top, rows)
        top.set(title=title, xlabel="layer (0 is next to the embeddings)")
        top.xaxis.get_major_locator().set_params(integer=True)
        marks = LogLocator(subs=(1, 2, 5))
        bar = chart.colorbar(image, ax=top, label=label, ticks=marks, format="%g")
        bar.minorticks_off()
        bottom.barh(range(len(others)), [unit * c for c in others.values()], color=BLUE)
        name_rows(bottom, others)
        bottom.set_xlabel(f"{label}, tensors that belong to no layer")
    return chart


# ---- rows, tokens and windows


def batch_shapes(titles: Sequence[str], batches: Sequence[list[list[int]]]) -> Figure:
    """Batches as rectangles, side by side: one line an example, one square a token.

    batches: for each picture its lines, and in each line 0 for a prompt's token, 1 for a labelled
    one, 2 for padding and, only at its beginning, 3 for one that is read in another line already.
    """
    longest = max(len(line) for batch in batches for line in batch)
    chart = figure(9, 2.4, len(batches), sharey=True)
    colours = ListedColormap([BLUE, ORANGE, "#DDDDDD", "white"])
    names = ("prompt", "labelled", "padding", "not read again")
    hatches = (None, None, None, "////")
    for axes, title, batch in zip(chart.axes, titles, batches, strict=True):
        axes.imshow(batch, cmap=colours, vmin=0, vmax=3, aspect="auto", interpolation="none")
        again = [line.count(3) for line in batch]
        axes.barh(range(len(batch)), again, 1, -0.5, fc="none", ec=GREY, lw=0, hatch=hatches[3])
        axes.set(title=title, xlabel="position (tokens)", xlim=(-0.5, longest - 0.5))
        axes.set(ylim=(len(batch) - 0.5, -0.5), yticks=[])
    chart.axes[0].set_ylabel("examples")
    there = sorted({kind for batch in batches for line in batch for kind in line})
    style = {"ec": GREY, "lw": 0.5}
    boxes = [Patch(fc=colours(k), hatch=hatches[k], label=names[k], **style) for k in there]
    chart.legend(handles=boxes, loc="outside lower center", ncols=4, frameon=False)
    return chart


def spread(values: Mapping[str, Sequence[int]], label: str) -> Figure:
    """For each name its values from smallest to largest, with a box over the middle half and a
    line at the median. label: what they are, and unit."""
    chart = figure(7, 0.8 + 0.4 * len(values))
    (axes,) = chart.axes
    look = {"boxprops": {"fc": BLUE}, "medianprops": {"color": ORANGE, "lw": 3}}
    rows = {"positions": range(len(values)), "orientation": "horizontal", "whis": (0, 100)}
    axes.boxplot(list(values.values()), **rows, **look, patch_artist=True, manage_ticks=False)
    name_rows(axes, values)
    axes.set(xlim=(0, None), xlabel=label)
    return chart


def balance(shares: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Figure:
    """How alike parts are: a panel for each column, a group for each value, a bar for each part.

    shares: column → part ("train", ...) → value of the column → share of the part, 0 to 1.
    """
    widths = [len(next(iter(parts.values()))) for parts in shares.values()]
    chart = figure(10, 3.4, len(shares), sharey=True, width_ratios=widths)
    for axes, (column, parts) in zip(chart.axes, shares.items(), strict=True):
        for number, (part, share) in enumerate(parts.items()):
            colour, hatch = ((BLUE, ""), (ORANGE, "//"), (GREY, ".."))[number]
            centres = [value + 0.27 * (number - 1) for value in range(len(share))]
            heights = [100 * one for one in share.values()]
            axes.bar(centres, heights, 0.25, color=colour, hatch=hatch, ec="white", label=part)
            axes.set_xticks(range(len(share)), list(share), rotation=40, ha="right")
        axes.set_xlabel(column)
    chart.axes[0].set_ylabel("share of the part's rows (%)")
    handles, names = chart.axes[0].get_legend_handles_labels()
    chart.legend(handles, names, loc="outside lower center", ncols=len(names), frameon=False)
    return chart
