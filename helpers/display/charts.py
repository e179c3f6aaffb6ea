"""Pictures. They draw what they are given, and each comes with its message in words."""

import base64
import io
import math
from collections.abc import Sequence
from statistics import quantiles
from typing import TYPE_CHECKING, Any

from IPython.display import display
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, LogNorm
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from matplotlib.patches import Patch

if TYPE_CHECKING:
    from helpers.inference.few_shot import Budget

# Okabe and Ito's colours, which stay apart for colour-blind readers (Color Universal Design, 2008).
BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#999999"
# Runs and methods differ by mark and line as well.
STYLES = ((BLUE, "o", "-"), (RED, "s", "--"), (GREEN, "^", ":"), (ORANGE, "D", "-."))

STYLE = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "figure.constrained_layout.use": True,
    "legend.frameon": False,
}


def figure(
    width: float, row_height: float, panels: int = 1, columns: int | None = None, **options: Any
) -> Figure:
    """A figure in the course's style with its empty panels, `.axes`, row by row.

    Made without pyplot: a figure that pyplot keeps would stay in memory, and be drawn twice.

    width, row_height: in inches. columns: panels side by side; by default all of them. options:
    what `Figure.subplots` takes (sharey, width_ratios, ...).
    """
    columns = columns or panels
    rows = math.ceil(panels / columns)
    with rc_context(STYLE):
        chart = Figure(figsize=(width, rows * row_height))
        chart.subplots(rows, columns, **options)
    for left_over in chart.axes[panels:]:
        left_over.remove()
    return chart


def legend(of: Axes | Figure, beside: bool = False, **options: Any) -> None:
    """A legend in the course's style. beside: outside the axes, where it can hide nothing."""
    if beside:
        options |= {"loc": "center left", "bbox_to_anchor": (1, 0.5)}
    with rc_context(STYLE):
        of.legend(**options)


def show(chart: Figure, summary: str) -> None:
    """Show a figure with `summary` as its alternative text, and print that line under it."""
    data, metadata = as_output(chart, summary)
    display(data, metadata=metadata, raw=True)
    print(summary)


def as_output(chart: Figure, summary: str) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
    """A figure as data and metadata for IPython's `display(..., raw=True)`: a PNG, and words.

    IPython turns a Figure into a picture by itself only after pyplot has been imported, and would
    show its mere type otherwise.
    """
    buffer = io.BytesIO()
    chart.savefig(buffer, format="png", bbox_inches="tight")
    picture = base64.b64encode(buffer.getvalue()).decode("ascii")
    return {"image/png": picture, "text/plain": summary}, {"image/png": {"alt": summary}}


def intervals(
    axes: Axes,
    positions: Sequence[float],
    scores: Sequence[tuple[float, float, float]],
    flat: bool = False,
    **style: Any,
) -> None:
    """Draw each score (score, low, high) as a mark with its interval. flat: from left to right."""
    middle, low, high = zip(*scores, strict=True)
    # An end that rounding has put on the wrong side of its score would be refused.
    below = [max(0.0, m - end) for m, end in zip(middle, low, strict=True)]
    above = [max(0.0, end - m) for m, end in zip(middle, high, strict=True)]
    if flat:
        axes.errorbar(middle, positions, xerr=[below, above], capsize=3, **style)
    else:
        axes.errorbar(positions, middle, yerr=[below, above], capsize=3, **style)


def interval_chart(series: dict[str, dict[str, tuple[float, float, float]]], score: str) -> Figure:
    """Scores with their intervals, one row of the chart for each method.

    series: kind of interval or score → {method: (score, low, high)}; all with the same methods.
    score: what is drawn, with its unit, for the axis.
    """
    methods = list(next(iter(series.values())))
    chart = figure(8, 0.9 + 0.22 * len(methods) * (len(series) + 1))
    (axes,) = chart.axes
    for number, (name, values) in enumerate(series.items()):
        colour, marker, _ = STYLES[number % len(STYLES)]
        shift = 0.22 * (number - (len(series) - 1) / 2)
        rows, scores = [row + shift for row in range(len(methods))], [values[m] for m in methods]
        intervals(axes, rows, scores, flat=True, fmt=marker, color=colour, label=name)
    axes.set_yticks(range(len(methods)), methods)
    axes.set_ylim(len(methods) - 0.5, -0.5)
    axes.set_xlim(left=0)
    axes.set_xlabel(score)
    axes.grid(axis="x", alpha=0.4)
    legend(axes, beside=True)
    return chart


def confusion_figure(tables: dict[str, list[list[int]]], labels: Sequence[str]) -> Figure:
    """Confusion matrices side by side: counts as numbers, their share of the row as shade.

    tables: method → counts; row = right answer, column = answer given, in the order of the labels.
    """
    size = 1.3 + 0.42 * len(labels)
    chart = figure(size * len(tables), size + 0.4, len(tables), sharey=True)
    for axes, (name, counts) in zip(chart.axes, tables.items(), strict=True):
        shares = [[count / max(1, sum(row)) for count in row] for row in counts]
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for i, row in enumerate(counts):
            for j, count in enumerate(row):
                colour = "white" if shares[i][j] > 0.55 else "black"
                axes.text(j, i, str(count), ha="center", va="center", color=colour, fontsize=9)
        axes.set_title(name)
        axes.set_xticks(range(len(labels)), labels, rotation=45, ha="right")
        axes.set_yticks(range(len(labels)), labels)
        axes.set_xlabel("answer given (rows counted)")
    chart.axes[0].set_ylabel("right answer")
    return chart


def confidence_figure(groups: dict[str, list[float]]) -> Figure:
    """How sure the model was: a histogram for each group of answers, one above the other.

    groups: name → probabilities (0 to 1) that the model gave to its answers.
    """
    chart = figure(7, 1.9, len(groups), columns=1, sharex=True)
    for axes, (name, values) in zip(chart.axes, groups.items(), strict=True):
        axes.hist(values, bins=20, range=(0, 1), color=BLUE, edgecolor="black", linewidth=0.5)
        axes.set_ylabel("rows")
        axes.set_title(f"{name} ({len(values)} rows)", loc="left")
    chart.axes[-1].set_xlabel("probability that the model gave to its answer (0 to 1)")
    return chart


def change_map(layered: dict[str, dict[int, float]], single: dict[str, float]) -> Figure:
    """How far each tensor of a model moved: layers from left to right, kinds from top to bottom.

    layered: kind → {layer: relative change} (0.01: by one per cent of its own size), shaded on a
    logarithmic scale; a tensor that did not move stays white. single: name → change of tensors
    that belong to no layer (embeddings, the last norm), drawn as bars below.
    """
    layers = range(1 + max(layer for row in layered.values() for layer in row))
    table = [[100 * row.get(layer, math.nan) for layer in layers] for row in layered.values()]
    heights = [len(layered), len(single)]
    chart = figure(9, 0.8 + 0.16 * sum(heights), 2, columns=1, height_ratios=heights)
    top, bottom = chart.axes
    # A few tensors move much further than most: on a linear scale only these would be seen.
    moved = [value for row in table for value in row if value > 0] or [1.0]
    low, high = min(moved), max(*moved, 1.01 * min(moved))
    image = top.imshow(table, cmap="viridis", aspect="auto", norm=LogNorm(low, high))
    top.set_yticks(range(len(layered)), list(layered))
    top.set_xlabel("layer (0 is next to the embeddings)")
    top.xaxis.get_major_locator().set_params(integer=True)
    marks = [low * (high / low) ** (k / 4) for k in range(5)]
    bar = chart.colorbar(image, ax=top, label="relative change (%)", ticks=marks, format="%.2g")
    bar.minorticks_off()
    bottom.barh(list(single), [100 * change for change in single.values()], color=BLUE)
    bottom.invert_yaxis()
    bottom.set_xlabel("relative change (%), tensors that belong to no layer")
    return chart


def two_distributions(words: list[str], model: list[float], label: list[float]) -> Figure:
    """What the model expects next beside what the label says, for the same words.

    model, label: probability of each word.
    """
    chart = figure(8, 0.35 * len(words) + 1, 2, sharey=True)
    drawn = (model, BLUE, "model"), (label, ORANGE, "label")
    for axes, (values, colour, title) in zip(chart.axes, drawn, strict=True):
        _word_bars(axes, words, values, "{:.3f}", color=colour)
        axes.set(xlim=(0, 1.15), xticks=[0, 0.5, 1], title=title, xlabel="probability")
    chart.axes[0].set_ylabel("next token")
    return chart


def distribution_strip(words: list[str], model: dict[int, list[float]], label: int) -> Figure:
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
    chart.supxlabel("probability that the model gives to the next token", fontsize=10)
    return chart


def gradient_figure(words: list[str], ours: list[float], autograd: list[float]) -> Figure:
    """p − q beside the gradient that autograd found, for the same words."""
    chart = figure(8, 0.35 * len(words) + 1, 2, sharey=True)
    drawn = (ours, "p − q"), (autograd, "autograd")
    for axes, (values, title) in zip(chart.axes, drawn, strict=True):
        colours = [BLUE if value >= 0 else ORANGE for value in values]
        _word_bars(axes, words, values, "{:+.3f}", color=colours)
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set(xlim=(-1.4, 0.6), xticks=[-1, -0.5, 0, 0.5])
        axes.set(title=title, xlabel="gradient of the loss at this logit")
    chart.axes[0].set_ylabel("next token")
    return chart


def _word_bars(
    axes: Axes, words: list[str], values: list[float], number: str, **style: Any
) -> BarContainer:
    """A bar for each word, from top to bottom, with its value as a number."""
    bars = axes.barh(range(len(words)), values, **style)
    axes.bar_label(bars, fmt=number, padding=3, fontsize=9)
    # A dollar sign in a word begins no formula.
    axes.set_yticks(range(len(words)), [word.replace("$", r"\$") for word in words])
    axes.set_ylim(len(words) - 0.5, -0.5)
    return bars


def batch_shapes(titles: list[str], batches: list[list[list[int]]]) -> Figure:
    """Batches as rectangles, side by side: one line an example, one square a token.

    batches: for each picture its lines, and in each line 0 for a prompt's token, 1 for a labelled
    one, 2 for padding and, only at its beginning, 3 for one that is read in another line already.
    """
    longest = max(len(line) for batch in batches for line in batch)
    chart = figure(9, 2.4, len(batches), sharey=True)
    colours = ListedColormap([BLUE, ORANGE, "#DDDDDD", "white"])
    hatches = (None, None, None, "////")
    for axes, title, batch in zip(chart.axes, titles, batches, strict=True):
        axes.imshow(batch, cmap=colours, vmin=0, vmax=3, aspect="auto", interpolation="none")
        again = [line.count(3) for line in batch]
        axes.barh(range(len(batch)), again, 1, -0.5, fc="none", ec=GREY, lw=0, hatch=hatches[3])
        axes.set(title=title, xlabel="position (tokens)", xlim=(-0.5, longest - 0.5))
        axes.set_ylim(len(batch) - 0.5, -0.5)
        axes.set_yticks([])
    chart.axes[0].set_ylabel("examples")
    names = ("prompt", "labelled", "padding", "not read again")
    there = sorted({kind for batch in batches for line in batch for kind in line})
    handles = [
        Patch(fc=colours(k), ec=GREY, lw=0.5, label=names[k], hatch=hatches[k]) for k in there
    ]
    legend(chart, handles=handles, loc="outside lower center", ncols=4)
    return chart


def spread(values: dict[str, list[int]], label: str) -> Figure:
    """One line for each name: from smallest to largest value, thick over the middle half.

    The dot is the median. values: name → its values, at least two. label: what they are, and unit.
    """
    chart = figure(7, 0.8 + 0.4 * len(values))
    (axes,) = chart.axes
    for row, numbers in enumerate(values.values()):
        low, median, high = quantiles(numbers, n=4)
        axes.plot([min(numbers), max(numbers)], [row, row], color=BLUE, lw=1.5)
        axes.plot([low, high], [row, row], color=BLUE, lw=7, solid_capstyle="butt")
        axes.plot(median, row, "o", color=ORANGE, mec="black", ms=9)
    axes.set_yticks(range(len(values)), list(values))
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.set_xlabel(label)
    return chart


def balance(shares: dict[str, dict[str, dict[str, float]]]) -> Figure:
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
    legend(chart.axes[-1], beside=True)
    return chart


def window_figure(budgets: dict[str, "Budget"], marks: dict[str, int]) -> Figure:
    """How prompts fill a context window: one stacked bar each, as long as their window.

    budgets: what to write beside a bar → its tokens. marks: name → tokens, dashed lines, for the
    windows of other models.
    """
    chart = figure(9, 1.4 + 0.42 * len(budgets))
    (axes,) = chart.axes
    styles = {"shots": (BLUE, ""), "question": (ORANGE, "//"), "answer": (RED, "xx")}
    for row, budget in enumerate(budgets.values()):
        start = 0
        for part, (colour, hatch) in styles.items():
            tokens = getattr(budget, part)
            axes.barh(row, tokens, left=start, color=colour, hatch=hatch, ec="white", lw=0.3)
            start += tokens
        axes.barh(row, budget.window, fill=False, ec=GREY)
    for name, tokens in marks.items():
        axes.axvline(tokens, color="black", linestyle="--", linewidth=1)
        axes.text(tokens, len(budgets) - 0.4, f" {name}", va="top", fontsize=9)
    handles = [Patch(fc=c, hatch=h, ec="white", label=part) for part, (c, h) in styles.items()]
    handles.append(Patch(fill=False, ec=GREY, label="free"))
    legend(axes, beside=True, handles=handles)
    axes.set_yticks(range(len(budgets)), list(budgets))
    axes.set_ylim(len(budgets) + 0.1, -0.6)
    axes.set_xlabel("tokens")
    return chart


def window_bar(budget: "Budget", width: int = 64) -> str:
    """A context window as a line of signs: s shots, q question, a answer, · free, ! too many.

    width: signs for the whole window. What needs less than one sign gets one.
    """
    runs = {
        sign: math.ceil(tokens * width / budget.window)
        for sign, tokens in (("s", budget.shots), ("q", budget.question), ("a", budget.answer))
    }
    if budget.fits:  # rounding up may have cost more than there is
        runs["s"] -= max(0, sum(runs.values()) - width)
    bar = "".join(sign * times for sign, times in runs.items())
    return bar[:width].ljust(width, "·") + "!" * (len(bar) - width)
