"""Pictures. They draw what they are given, and each comes with its message in words."""

import base64
import html
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from statistics import quantiles
from typing import TYPE_CHECKING

from IPython.display import display
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FormatStrFormatter, LogLocator, MaxNLocator, NullLocator

from helpers.scoring import wilson_interval

if TYPE_CHECKING:
    from helpers.prompting import Budget
    from helpers.training import History

# Okabe and Ito's colours, which stay apart for colour-blind readers (Color Universal Design, 2008).
BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#999999"


def show(figure: Figure, summary: str) -> None:
    """Show a figure with `summary` as its alternative text, and print that line under it."""
    data, metadata = as_output(figure, summary)
    display(data, metadata=metadata, raw=True)
    print(summary)


def as_output(figure: Figure, summary: str) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
    """A figure as data and metadata for IPython's `display(..., raw=True)`: a PNG, and words.

    IPython turns a Figure into a picture by itself only after pyplot has been imported, and would
    show its mere type otherwise.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", bbox_inches="tight")
    picture = base64.b64encode(buffer.getvalue()).decode("ascii")
    return {"image/png": picture, "text/plain": summary}, {"image/png": {"alt": summary}}


def interval_chart(series: dict[str, dict[str, tuple[float, float, float]]], score: str) -> Figure:
    """Scores with their intervals, one row of the chart for each method.

    series: kind of interval or score → {method: (score, low, high)}; all with the same methods.
    score: what is drawn, with its unit, for the axis.
    """
    methods = list(next(iter(series.values())))
    height = 0.9 + 0.22 * len(methods) * (len(series) + 1)
    figure = Figure(figsize=(8, height), layout="constrained")
    axes = figure.subplots()
    looks = cycle(zip((BLUE, RED, GREEN, ORANGE), "os^D", strict=True))
    for place, (name, values) in enumerate(series.items()):
        colour, marker = next(looks)
        shift = 0.22 * (place - (len(series) - 1) / 2)
        middle = [values[method][0] for method in methods]
        below = [values[method][0] - values[method][1] for method in methods]
        above = [values[method][2] - values[method][0] for method in methods]
        axes.errorbar(
            middle,
            [row + shift for row in range(len(methods))],
            xerr=[below, above],
            fmt=marker,
            color=colour,
            capsize=3,
            label=name,
        )
    axes.set_yticks(range(len(methods)), methods)
    axes.set_ylim(len(methods) - 0.5, -0.5)
    axes.set_xlim(left=0)
    axes.set_xlabel(score)
    axes.grid(axis="x", alpha=0.4)
    # Beside the axes: inside, it would hide an interval in one run or another.
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    return figure


def confusion_figure(tables: dict[str, list[list[int]]], labels: Sequence[str]) -> Figure:
    """Confusion matrices side by side: counts as numbers, their share of the row as shade.

    tables: method → counts; row = right answer, column = answer given, in the order of the labels.
    """
    size = 1.3 + 0.42 * len(labels)
    figure = Figure(figsize=(size * len(tables), size + 0.4), layout="constrained")
    row_of_axes = figure.subplots(1, len(tables), sharey=True, squeeze=False)[0]
    for axes, (name, counts) in zip(row_of_axes, tables.items(), strict=True):
        shares = [[count / max(1, sum(row)) for count in row] for row in counts]
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for i, row in enumerate(counts):
            for j, count in enumerate(row):
                colour = "white" if shares[i][j] > 0.55 else "black"
                axes.text(j, i, str(count), ha="center", va="center", color=colour, fontsize=9)
        axes.set_title(name, fontsize=10)
        axes.set_xticks(range(len(labels)), labels, rotation=45, ha="right")
        axes.set_yticks(range(len(labels)), labels)
        axes.set_xlabel("answer given (rows counted)")
    row_of_axes[0].set_ylabel("right answer")
    return figure


def confidence_figure(groups: dict[str, list[float]]) -> Figure:
    """How sure the model was: a histogram for each group of answers, one above the other.

    groups: name → probabilities (0 to 1) that the model gave to its answers.
    """
    figure = Figure(figsize=(7, 1.2 + 1.3 * len(groups)), layout="constrained")
    row_of_axes = figure.subplots(len(groups), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (name, values) in zip(row_of_axes, groups.items(), strict=True):
        axes.hist(values, bins=20, range=(0, 1), color=BLUE, edgecolor="black", linewidth=0.5)
        axes.set_ylabel("rows")
        axes.set_title(f"{name} ({len(values)} rows)", fontsize=10, loc="left")
    row_of_axes[-1].set_xlabel("probability that the model gave to its answer (0 to 1)")
    return figure


def change_map(layered: dict[str, dict[int, float]], single: dict[str, float]) -> Figure:
    """How far each tensor of a model moved: layers from left to right, kinds from top to bottom.

    layered: kind → {layer: relative change} (0.01: by one per cent of its own size), shaded on a
    logarithmic scale; a tensor that did not move stays white. single: name → change of tensors
    that belong to no layer (embeddings, the last norm), drawn as bars below.
    """
    layers = range(1 + max(layer for row in layered.values() for layer in row))
    table = [[100 * row.get(layer, math.nan) for layer in layers] for row in layered.values()]
    figure = Figure(figsize=(9, 1.6 + 0.32 * (len(layered) + len(single))), layout="constrained")
    heights = [len(layered), len(single)]
    top, bottom = figure.subplots(2, 1, gridspec_kw={"height_ratios": heights})
    # A few tensors move much further than most: on a linear scale only these would be seen.
    moved = [value for row in table for value in row if value > 0] or [1.0]
    low, high = min(moved), max(*moved, 1.01 * min(moved))
    scale = LogNorm(low, high)
    image = top.imshow(table, cmap="viridis", aspect="auto", norm=scale)
    top.set_yticks(range(len(layered)), list(layered))
    top.set_xlabel("layer (0 is next to the embeddings)")
    top.xaxis.get_major_locator().set_params(integer=True)
    marks = [low * (high / low) ** (k / 4) for k in range(5)]
    bar = figure.colorbar(image, ax=top, label="relative change (%)", ticks=marks, format="%.2g")
    bar.minorticks_off()
    bottom.barh(list(single), [100 * change for change in single.values()], color=BLUE)
    bottom.invert_yaxis()
    bottom.set_xlabel("relative change (%), tensors that belong to no layer")
    return figure


def show_table(header: list[str], rows: list[list[object]]) -> None:
    """Show a table, as HTML and, where that cannot be shown, as plain text.

    Whatever stands in a cell is shown as it is: markup in a model's answer stays text.
    """
    display(table_output(header, rows), raw=True)


def table_output(header: list[str], rows: list[list[object]]) -> dict[str, str]:
    """A table as data for IPython's `display(..., raw=True)`: HTML, escaped, and plain text."""
    lines = [header, *[[str(value) for value in row] for row in rows]]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    text = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
    style = "text-align: left; white-space: pre-wrap"
    marked = "".join(
        "<tr>" + "".join(f'<{tag} style="{style}">{html.escape(cell)}</{tag}>' for cell in line)
        for tag, line in zip(["th"] + ["td"] * len(rows), lines, strict=True)
    )
    return {"text/html": f"<table>{marked}</table>", "text/plain": "\n".join(text)}


@dataclass(frozen=True)
class Token:
    """One token of an example, and what it costs the model to predict it.

    supervised: whether its label counts. losses: when ("before training", say) → nats; empty for
    the first token of all, which nothing predicts.
    """

    text: str
    id: int
    supervised: bool
    losses: dict[str, float]


def show_tokens(tokens: list[Token], when: str = "", masked: bool = True) -> None:
    """Show the tokens as coloured cells; where no HTML can be shown, as a plain table.

    Tokens without losses are shown with their ids and marks alone.
    """
    text = token_table(tokens, when, masked)["text/plain"]
    data = {"text/html": token_cells(tokens, when, masked), "text/plain": text}
    display(data, raw=True)
    measured = any(token.losses for token in tokens)
    print(loss_of_tokens(tokens, when, masked) if measured else mask_of_tokens(tokens))


def token_cells(tokens: list[Token], when: str = "", masked: bool = True) -> str:
    """HTML of the tokens in their order: text, id, and the loss with a symbol.

    The darker a cell, the higher its loss, on one scale for all times. ✓ and a firm border: the
    token is supervised. Pointing at a cell shows the same in words.

    masked: show the losses of the supervised tokens only, as training sees them. Where no token
    has a loss, supervised tokens are shaded.
    """
    measured = any(token.losses for token in tokens)
    highest = max((loss for token in tokens for loss in token.losses.values()), default=1.0)
    cells = []
    for place, token in enumerate(tokens):
        loss = _visible_loss(token, when, masked)
        shade = 0.0 if loss is None else loss / highest
        # From white to blue; what has no loss to show is grey.
        mixed = [round(255 + (end - 255) * shade) for end in (0, 0x72, 0xB2)]
        background = "#eeeeee" if loss is None else "rgb({}, {}, {})".format(*mixed)
        if token.supervised and not measured:
            background = "#fbe3b3"
        border = "2px solid black" if token.supervised else "1px dashed #888888"
        says = f"place {place}, token {token.text!r}, id {token.id}, {_mark(token)}"
        if measured:
            says += ", loss not looked at" if loss is None else f", loss {loss:.2f} nats"
        number = f" {_number(loss)}" if measured else ""
        lines = [_visible_space(token.text), str(token.id), _mark(token)[0] + number]
        weights = ["bold", "normal; font-size: 75%", "normal"]
        cells.append(
            f'<span title="{html.escape(says)}" style="display: inline-block; margin: 2px; '
            f"padding: 1px 5px; text-align: center; line-height: 1.35; border: {border}; "
            f'background: {background}; color: {"white" if shade > 0.55 else "black"}">'
            + "<br>".join(
                f'<span style="font-weight: {weight}">{html.escape(line)}</span>'
                for line, weight in zip(lines, weights, strict=True)
            )
            + "</span>"
        )
    loss = ", loss in nats (the darker, the higher)" if measured else ""
    legend = f"Each cell: token, id{loss}"
    legend += ". ✓ and a firm border: supervised; · not. ␣ is a space, ⏎ the end of a line."
    return f"<div>{''.join(cells)}</div><div>{legend}</div>"


def token_table(tokens: list[Token], when: str = "", masked: bool = True) -> dict[str, str]:
    """The same as `token_cells` as a table; see `table_output`."""
    rows = [
        [
            place,
            repr(token.text),
            token.id,
            _mark(token),
            _number(_visible_loss(token, when, masked)),
        ]
        for place, token in enumerate(tokens)
    ]
    header = ["place", "token", "id", "label", "loss (nats)"]
    if not any(token.losses for token in tokens):
        header, rows = header[:-1], [row[:-1] for row in rows]
    return table_output(header, rows)


def loss_of_tokens(tokens: list[Token], when: str, masked: bool = True) -> str:
    """The mean of the losses that are shown, in words."""
    losses = [_visible_loss(token, when, masked) for token in tokens]
    shown = [loss for loss in losses if loss is not None]
    which = "supervised tokens" if masked else "tokens, those of the prompt included"
    return f"{when}: mean loss of {len(shown)} {which}: {sum(shown) / len(shown):.4f} nats"


def mask_of_tokens(tokens: list[Token]) -> str:
    """How many tokens there are and how many of them are supervised, in words."""
    supervised = sum(token.supervised for token in tokens)
    return f"{len(tokens)} tokens, {supervised} of them supervised (✓)"


def _visible_loss(token: Token, when: str, masked: bool) -> float | None:
    return token.losses.get(when) if token.supervised or not masked else None


def _mark(token: Token) -> str:
    return "✓ supervised" if token.supervised else "· not supervised"


def _number(loss: float | None) -> str:
    return "–" if loss is None else f"{loss:.2f}"


def _visible_space(text: str) -> str:
    return text.replace(" ", "␣").replace("\n", "⏎")


def two_distributions(words: list[str], model: list[float], label: list[float]) -> Figure:
    """What the model expects next beside what the label says, for the same words.

    model, label: probability of each word.
    """
    figure = Figure(figsize=(8, 0.35 * len(words) + 1))
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, values, colour, title in (
        (left, model, BLUE, "model"),
        (right, label, ORANGE, "label"),
    ):
        bars = axes.barh(range(len(words)), values, color=colour)
        axes.bar_label(bars, fmt="{:.3f}", padding=3)
        axes.set(xlim=(0, 1.15), title=title, xlabel="probability")
        axes.set_xticks([0, 0.5, 1])
        axes.spines[["top", "right"]].set_visible(False)
    left.set_yticks(range(len(words)), _as_text(words))
    left.set_ylabel("next token")
    left.invert_yaxis()
    return figure


def distribution_strip(words: list[str], model: dict[int, list[float]], label: int) -> Figure:
    """What the model expects next at several steps of a run: a small panel for each step.

    model: step → probability of each word. label: place of the right word in `words`; its bar is
    orange and hatched, and its word is marked.
    """
    columns = len(model) if len(model) < 5 else min(4, -(-len(model) // 2))
    lines = -(-len(model) // columns)
    figure = Figure(figsize=(10, lines * (0.26 * len(words) + 0.9)), layout="constrained")
    panels = figure.subplots(lines, columns, sharey=True, squeeze=False).flatten()
    places = range(len(words))
    names = [f"✓ {word}" if i == label else word for i, word in enumerate(_as_text(words))]
    for axes, (step, values) in zip(panels, model.items(), strict=False):
        bars = axes.barh(places, values, color=BLUE)
        bars[label].set(facecolor=ORANGE, hatch="//", edgecolor="black")
        axes.bar_label(bars, fmt="{:.2f}", padding=2, fontsize=8)
        axes.set(xlim=(0, 1.25), title=f"step {step}")
        axes.set_xticks([0, 0.5, 1])
        axes.set_yticks(places, names)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].invert_yaxis()
    for axes in panels[len(model) :]:
        axes.set_axis_off()
    figure.supxlabel("probability that the model gives to the next token")
    return figure


def _as_text(words: list[str]) -> list[str]:
    """Words in which a dollar sign is no formula."""
    return [word.replace("$", r"\$") for word in words]


def gradient_figure(words: list[str], ours: list[float], autograd: list[float]) -> Figure:
    """p − q beside the gradient that autograd found, for the same words."""
    figure = Figure(figsize=(8, 0.35 * len(words) + 1), layout="constrained")
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    for axes, values, title in zip(panels, (ours, autograd), ("p − q", "autograd"), strict=True):
        colours = [BLUE if value >= 0 else ORANGE for value in values]
        bars = axes.barh(range(len(words)), values, color=colours)
        axes.bar_label(bars, fmt="{:+.3f}", padding=3)
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set(xlim=(-1.4, 0.6), title=title, xlabel="gradient of the loss at this logit")
        axes.set_xticks([-1, -0.5, 0, 0.5])
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_yticks(range(len(words)), _as_text(words))
    panels[0].set_ylabel("next token")
    panels[0].invert_yaxis()
    return figure


def batch_shapes(titles: list[str], batches: list[list[list[int]]]) -> Figure:
    """Batches as rectangles, side by side: one line an example, one square a place for a token.

    batches: for each picture its lines, and in each line 0 for a prompt's token, 1 for a
    supervised one, 2 for padding and, only at its beginning, 3 for one that is read in another line
    already.
    """
    longest = max(len(line) for batch in batches for line in batch)
    figure = Figure(figsize=(9, 2.4))
    colours = ListedColormap([BLUE, ORANGE, "#DDDDDD", "white"])
    hatches = (None, None, None, "////")
    for axes, title, batch in zip(
        figure.subplots(1, len(batches), sharey=True), titles, batches, strict=True
    ):
        axes.imshow(batch, cmap=colours, vmin=0, vmax=3, aspect="auto", interpolation="none")
        again = [line.count(3) for line in batch]
        axes.barh(range(len(batch)), again, 1, -0.5, fc="none", ec=GREY, lw=0, hatch=hatches[3])
        axes.set(title=title, xlabel="position (tokens)", xlim=(-0.5, longest - 0.5))
        axes.set_ylim(len(batch) - 0.5, -0.5)
        axes.set_yticks([])
    figure.axes[0].set_ylabel("examples")
    names = ("prompt", "supervised", "padding", "not read again")
    there = sorted({kind for batch in batches for line in batch for kind in line})
    figure.legend(
        handles=[
            Patch(fc=colours(k), ec=GREY, lw=0.5, label=names[k], hatch=hatches[k]) for k in there
        ],
        loc="upper center",
        bbox_to_anchor=(0.5, -0.1),
        ncols=4,
        frameon=False,
    )
    return figure


def training_curve(history: "History", validation_rows: int) -> Figure:
    """Losses of a run, step by step, and beside them its validation accuracy with 95 % intervals.

    validation_rows: how many rows each accuracy was counted on.
    """
    looks = history.validations
    scored = [look for look in looks if look.accuracy is not None]
    figure = Figure(figsize=(9, 3.2) if scored else (6, 3.2), layout="constrained")
    figure.get_layout_engine().set(wspace=0.08)
    axes = figure.subplots(1, 2 if scored else 1, squeeze=False)[0]
    axes[0].plot(
        [one.step for one in history.steps],
        [one.loss for one in history.steps],
        ".-",
        color=GREY,
        label="training, this step's rows",
    )
    axes[0].plot(
        [look.step for look in looks],
        [look.loss for look in looks],
        "o-",
        color=BLUE,
        label="validation",
    )
    best = history.best
    axes[0].plot(
        best.step,
        best.loss,
        "*",
        color=RED,
        markersize=14,
        label="best validation",
        clip_on=False,
        zorder=3,
    )
    _loss_axis(axes[0])
    if scored:
        _accuracies(axes[1], scored, validation_rows)
    for one in axes:
        one.set(xlabel="optimizer step", xlim=(-0.5, history.total_steps + 0.5))
        one.xaxis.set_major_locator(MaxNLocator(integer=True))
        one.spines[["top", "right"]].set_visible(False)
        for epoch in range(1, history.total_steps // history.steps_per_epoch):
            one.axvline(epoch * history.steps_per_epoch, color=GREY, linewidth=0.5, linestyle=":")
    return figure


def _loss_axis(axes: Axes) -> None:
    """Losses fall from several nats to hundredths: on an even scale the end would be flat."""
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    # Three labels a decade are a crowd when the losses span many decades.
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 1000 * low else (1,)))
    axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.margins(y=0.1)
    axes.set_ylabel("loss (nats per token, log scale)")
    axes.legend(frameon=False)


def _accuracies(axes: Axes, scored: list, rows: int) -> None:
    shares = [look.accuracy for look in scored]
    intervals = [wilson_interval(round(share * rows), rows) for share in shares]
    axes.errorbar(
        [look.step for look in scored],
        shares,
        yerr=[
            [share - low for share, (low, _) in zip(shares, intervals, strict=True)],
            [high - share for share, (_, high) in zip(shares, intervals, strict=True)],
        ],
        fmt="o-",
        color=GREEN,
        capsize=4,
        clip_on=False,
    )
    axes.set(ylabel=f"validation accuracy ({rows} rows, 95 %)", ylim=(0, 1))


def state_of(history: "History", validation_rows: int) -> str:
    """Where a run stands, in one line: the losses, the accuracy with its interval, the speed."""
    parts = [f"step {len(history.steps)} of {history.total_steps}, {history.stopped}"]
    if history.steps:
        parts.append(f"training loss {history.steps[-1].loss:.3f}")
    if history.validations:
        last, best = history.validations[-1], history.best
        parts.append(f"validation loss {last.loss:.3f} (best {best.loss:.3f}, step {best.step})")
        if last.accuracy is not None:
            parts.append(f"accuracy {share_of(last.accuracy, validation_rows)}")
    if history.steps:
        parts.append(f"{history.tokens_per_second:.0f} tokens/s")
    return "; ".join(parts)


def share_of(accuracy: float, rows: int) -> str:
    """An accuracy with its 95 % interval, in words."""
    low, high = wilson_interval(round(accuracy * rows), rows)
    return f"{accuracy:.2f} ({low:.2f} to {high:.2f})"


def run_curves(histories: dict[str, "History"]) -> Figure:
    """Validation loss of several runs over the steps; a name for each run stands in the legend."""
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.subplots()
    styles = zip(
        histories.items(), (BLUE, RED, GREEN, ORANGE), ("o-", "s--", "^:", "d-."), strict=False
    )
    for (name, history), colour, style in styles:
        looks = history.validations
        axes.plot([k.step for k in looks], [k.loss for k in looks], style, color=colour, label=name)
    _loss_axis(axes)
    axes.set(xlabel="optimizer step", title="validation loss")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def spread(values: dict[str, list[int]], label: str) -> Figure:
    """One line for each name: from smallest to largest value, thick over the middle half.

    The dot is the median. values: name → its values, at least two. label: what they are, and unit.
    """
    figure = Figure(figsize=(7, 0.8 + 0.4 * len(values)))
    axes = figure.subplots()
    for place, numbers in enumerate(values.values()):
        low, median, high = quantiles(numbers, n=4)
        axes.plot([min(numbers), max(numbers)], [place, place], color=BLUE, lw=1.5)
        axes.plot([low, high], [place, place], color=BLUE, lw=7, solid_capstyle="butt")
        axes.plot(median, place, "o", color=ORANGE, mec="black", ms=9)
    axes.set_yticks(range(len(values)), list(values))
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.set_xlabel(label)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def balance(shares: dict[str, dict[str, dict[str, float]]]) -> Figure:
    """How alike parts are: a panel for each column, a group for each value, a bar for each part.

    shares: column → part ("train", ...) → value of the column → share of the part, 0 to 1.
    """
    figure = Figure(figsize=(10, 3.4), layout="constrained")
    widths = [len(next(iter(parts.values()))) for parts in shares.values()]
    panels = figure.subplots(1, len(shares), sharey=True, squeeze=False, width_ratios=widths)[0]
    for axes, (column, parts) in zip(panels, shares.items(), strict=True):
        bars = zip(parts.items(), (BLUE, ORANGE, GREY), ("", "//", ".."), strict=False)
        for place, ((part, share), colour, hatch) in enumerate(bars):
            centres = [value + 0.27 * (place - 1) for value in range(len(share))]
            heights = [100 * one for one in share.values()]
            axes.bar(centres, heights, 0.25, color=colour, hatch=hatch, ec="white", label=part)
            axes.set_xticks(range(len(share)), list(share), rotation=40, ha="right")
        axes.set_xlabel(column)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("share of the part's rows (%)")
    panels[-1].legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    return figure


def window_figure(budgets: dict[str, "Budget"], marks: dict[str, int]) -> Figure:
    """How prompts fill a context window: one stacked bar each, as long as their window.

    budgets: what to write beside a bar → its tokens. marks: name → tokens, dashed lines, for the
    windows of other models.
    """
    figure = Figure(figsize=(9, 1.4 + 0.42 * len(budgets)), layout="constrained")
    axes = figure.subplots()
    looks = {"shots": (BLUE, ""), "question": (ORANGE, "//"), "answer": (RED, "xx")}
    for place, budget in enumerate(budgets.values()):
        start = 0
        for part, (colour, hatch) in looks.items():
            tokens = getattr(budget, part)
            axes.barh(place, tokens, left=start, color=colour, hatch=hatch, ec="white", lw=0.3)
            start += tokens
        axes.barh(place, budget.window, fill=False, ec=GREY)
    for name, tokens in marks.items():
        axes.axvline(tokens, color="black", linestyle="--", linewidth=1)
        axes.text(tokens, len(budgets) - 0.4, f" {name}", va="top", fontsize=9)
    handles = [Patch(fc=c, hatch=h, ec="white", label=part) for part, (c, h) in looks.items()]
    handles.append(Patch(fill=False, ec=GREY, label="free"))
    axes.legend(handles=handles, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    axes.set_yticks(range(len(budgets)), list(budgets))
    axes.set_ylim(len(budgets) + 0.1, -0.6)
    axes.set_xlabel("tokens")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


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


def loss_by_position(
    starts: list[int], losses: list[float], errors: list[float], window: int
) -> Figure:
    """Mean loss of each stretch of a long text, with the end of the context window marked.

    starts: first position of each stretch (tokens), evenly spaced. errors: standard error of each
    mean. Losses in nats per token.
    """
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    axes = figure.subplots()
    half = (starts[1] - starts[0]) / 2
    inside = [start < window for start in starts]
    looks = ((True, BLUE, "o", "inside the window"), (False, RED, "s", "past the window"))
    for wanted, colour, marker, name in looks:
        places = [i for i, one in enumerate(inside) if one is wanted]
        axes.errorbar(
            [starts[i] + half for i in places],
            [losses[i] for i in places],
            yerr=[2 * errors[i] for i in places],
            fmt=marker,
            color=colour,
            label=name,
            capsize=2,
            markersize=5,
        )
    axes.axvline(window, color="black", linestyle="--", linewidth=1)
    axes.set(xlabel="position in the text (tokens)", ylabel="mean loss (nats per token)")
    axes.set_ylim(bottom=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    return figure


def looks_figure(
    steps: Sequence[int], scores: dict[str, list[tuple[float, float, float]]], first: str
) -> Figure:
    """How several measures went in one run: a small panel each, with 95 % intervals.

    steps: of the looks; the first is the model before training. scores: name of the measure →
    (score, low, high) at each look. first: the measure that is trained for, in another colour.
    The dashed line is where a measure stood before training.
    """
    rows = math.ceil(len(scores) / 3)
    figure = Figure(figsize=(9, 2.5 * rows), layout="constrained")
    panels = figure.subplots(rows, 3, squeeze=False).flat
    for axes, (name, values) in zip(panels, scores.items(), strict=False):
        middle, low, high = zip(*values, strict=True)
        below = [m - one for m, one in zip(middle, low, strict=True)]
        above = [one - m for m, one in zip(middle, high, strict=True)]
        colour, marker = (GREEN, "s-") if name == first else (BLUE, "o-")
        axes.axhline(middle[0], color="black", linestyle="--", linewidth=0.8)
        axes.errorbar(steps, middle, yerr=[below, above], fmt=marker, color=colour, capsize=4)
        axes.set_title(name, fontsize=10)
        axes.set_xticks(list(steps))
        axes.margins(x=0.1)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in list(figure.axes)[len(scores) :]:
        axes.remove()
    figure.supxlabel("optimizer step", fontsize=10)
    return figure


def price_chart(
    changes: dict[str, dict[str, tuple[float, float, float]]], losses: Sequence[str]
) -> Figure:
    """What several runs changed, measured by the same measures: a panel each; right is better.

    changes: name of the measure → {run: (difference to the starting model, low, high)}.
    losses: measures of which less is better; their axes run backwards.
    """
    rows, runs = math.ceil(len(changes) / 3), list(next(iter(changes.values())))
    figure = Figure(figsize=(9, rows * (1.3 + 0.3 * len(runs))), layout="constrained")
    panels = figure.subplots(rows, 3, squeeze=False, sharey=True)
    for axes, (name, values) in zip(panels.flat, changes.items(), strict=False):
        for place, (mean, low, high) in enumerate(values.values()):
            colour, marker = ((BLUE, "o"), (RED, "s"), (GREEN, "^"), (ORANGE, "D"))[place % 4]
            errors = [[mean - low], [high - mean]]
            axes.errorbar(mean, place, xerr=errors, fmt=marker, color=colour, capsize=4)
        axes.axvline(0, color="black", linestyle="--", linewidth=0.8)
        reach = 1.15 * max(abs(end) for value in values.values() for end in value) or 1
        axes.set_xlim((reach, -reach) if name in losses else (-reach, reach))
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.set_yticks(range(len(runs)), runs)
        axes.set_ylim(len(runs) - 0.5, -0.5)
        axes.set_title(name, fontsize=10)
        axes.grid(axis="x", alpha=0.4)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in list(figure.axes)[len(changes) :]:
        axes.remove()
    figure.supxlabel("change since the starting model, 95 % interval (right: better)", fontsize=10)
    return figure


def museum_wall(runs: dict[str, tuple[list[float], float]], rows: int) -> Figure:
    """Loss curves as each run reported them, a panel each, beside the curve of the first run.

    runs: name → (loss of each step, share of answers that were right); the first is the healthy
    one. rows: how many answers each share was counted on. A loss that is not a number is marked.
    """
    (_, (healthy, _)), *others = runs.items()
    columns = 3
    lines = math.ceil(len(others) / columns)
    figure = Figure(figsize=(9, 0.6 + 2.2 * lines), layout="constrained")
    panels = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).flat
    for axes, (name, (losses, share)) in zip(panels, others, strict=False):
        steps = range(1, len(losses) + 1)
        axes.plot(range(1, len(healthy) + 1), healthy, color=GREY, lw=1, label="healthy run")
        axes.plot(steps, losses, "--", color=BLUE, lw=1.2, label="this run")
        lost = next((step for step, loss in zip(steps, losses, strict=True) if loss != loss), None)
        if lost:
            axes.axvline(lost, color=RED, lw=1.5)
            axes.annotate(" nan", (lost, 0.6), xycoords=("data", "axes fraction"), color=RED)
        axes.set_title(f"{name}\nright: {share_of(share, rows)}", fontsize=9)
        axes.set_yscale("log")
        axes.spines[["top", "right"]].set_visible(False)
    for axes in list(figure.axes)[len(others) :]:
        axes.set_visible(False)
    figure.supxlabel("optimizer step", fontsize=10)
    figure.supylabel("reported loss (nats per token, log scale)", fontsize=10)
    figure.axes[0].legend(frameon=False, fontsize=8)
    return figure
