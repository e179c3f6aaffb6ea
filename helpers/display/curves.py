"""Pictures of runs: losses, accuracies and other scores over the steps, and what they add up to."""

import math
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, LogLocator, MaxNLocator, NullLocator

from helpers.display.charts import (
    BLUE,
    GREEN,
    GREY,
    RED,
    STYLES,
    Score,
    figure,
    intervals,
    name_rows,
)
from helpers.evaluation.uncertainty import share_of, wilson_interval
from helpers.training import History


def training_curve(
    history: History, validation_rows: int, lines: Mapping[str, float] | None = None
) -> Figure:
    """Losses of a run, step by step, and its validation accuracy, if measured, with 95 % intervals.

    validation_rows: how many rows each accuracy was counted on. lines: name → accuracy to compare
    with (the commonest answer, the best prompt), each a dashed line with its name.
    """
    scored = [one for one in history.evaluations if one.accuracy is not None]
    chart = figure(9.5 if scored else 6, 3.2, panels=2 if scored else 1)
    chart.get_layout_engine().set(wspace=0.08)
    losses = chart.axes[0]
    steps, training = [s.step for s in history.steps], [s.loss for s in history.steps]
    losses.plot(steps, training, ".-", color=GREY, label="training, this step's rows")
    evaluated = [one.step for one in history.evaluations]
    validation = [one.loss for one in history.evaluations]
    losses.plot(evaluated, validation, "o-", color=BLUE, label="validation")
    if history.evaluations:
        best, last = history.best, history.evaluations[-1]
        star = {"color": RED, "markersize": 14, "clip_on": False, "zorder": 3}
        losses.plot(best.step, best.loss, "*", label="best validation", **star)
        place = {"xytext": (0, 9), "textcoords": "offset points", "ha": "center", "fontsize": 9}
        for step, loss in {best.step: best.loss, last.step: last.loss}.items():
            losses.annotate(f"{loss:.2f}", (step, loss), **place)
    # A memorised training set would push what validation does into a corner.
    _loss_axis(losses, min((x / 10 for x in validation if 0 < x < math.inf), default=0))
    losses.legend(fontsize=9, frameon=False)
    if scored:
        shares, n = [one.accuracy for one in scored], validation_rows
        scores = [(share, *wilson_interval(round(share * n), n)) for share in shares]
        style = {"fmt": "o-", "color": GREEN, "clip_on": False}
        intervals(chart.axes[1], [one.step for one in scored], scores, **style)
        chart.axes[1].set(ylabel=f"validation accuracy ({n} rows, 95 %)", ylim=(0, 1))
        _named_lines(chart.axes[1], lines or {})
    epoch, total = history.steps_per_epoch, history.total_steps
    for axes in chart.axes:
        axes.set(xlim=(-0.5, total + 0.5), xlabel="optimizer step")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if len(evaluated) > 1:  # ticks where something was measured, and not too many of them
            axes.set_xticks(evaluated[:: 1 + len(evaluated) // 8])
        for end in range(epoch, total, epoch):
            axes.axvline(end, color=GREY, linewidth=0.5, linestyle=":")
    if total > epoch:
        note = {"loc": "right", "fontsize": 9, "color": "#555555"}
        chart.axes[-1].set_title("dotted: end of an epoch", **note)
    if history.evaluations:
        first, best = history.evaluations[0].loss, history.best.loss
        title = f"Validation loss: {first:.2f} at first, {best:.2f} at its best"
        chart.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold")
    return chart


def _named_lines(axes: Axes, lines: Mapping[str, float]) -> None:
    """Dashed lines to compare with, each named at the right edge; the limits must be final.

    Names that would cover each other are pushed apart.
    """
    to_axes = axes.transData + axes.transAxes.inverted()
    free_from = 0.0
    for value, name in sorted((value, f"{name} {value:.2f}") for name, value in lines.items()):
        axes.axhline(value, color="black", linestyle="--", linewidth=0.8)
        height = max(to_axes.transform((0, value))[1], free_from)
        axes.text(1.01, height, name, transform=axes.transAxes, va="center", fontsize=9)
        free_from = height + 0.075


def _loss_axis(axes: Axes, lowest: float) -> None:
    """Losses fall from several nats to hundredths: on an even scale the end would be flat."""
    axes.set_yscale("log")
    axes.margins(y=0.1)
    low, high = axes.get_ylim()
    low = max(low, lowest)
    axes.set_ylim(low, high)
    # Three labels a decade are a crowd when the losses span many decades.
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 1000 * low else (1,)))
    axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_ylabel("loss (nats per token, log scale)")
    axes.set_title("equal distances are equal factors", loc="left", fontsize=9, color="#555555")


def history_summary(history: History, validation_rows: int) -> str:
    """Where a run stands, in one line: the losses, the accuracy with its interval, the speed."""
    parts = [f"step {len(history.steps)} of {history.total_steps}, {history.stopped}"]
    if history.steps:
        parts.append(f"training loss {history.steps[-1].loss:.3f}")
    if history.evaluations:
        last, best = history.evaluations[-1], history.best
        parts.append(f"validation loss {last.loss:.3f} (best {best.loss:.3f}, step {best.step})")
        if last.accuracy is not None:
            parts.append(f"accuracy {share_of(last.accuracy, validation_rows)}")
    if history.steps:
        parts.append(f"{history.tokens_per_second:.0f} tokens/s")
    return "; ".join(parts)


def evaluations_figure(
    steps: Sequence[int], scores: Mapping[str, Sequence[Score]], trained: str
) -> Figure:
    """How several metrics went in one run: a small panel each, with 95 % intervals.

    steps: of the evaluations; the first is the model before training. scores: name of the metric →
    (score, low, high) at each evaluation. trained: the metric of the task that is trained, in
    another colour. The dashed line is where a metric stood before training.
    """
    chart = figure(9, 2.5, len(scores), columns=3)
    for axes, (name, values) in zip(chart.axes, scores.items(), strict=True):
        colour, marker = (GREEN, "s-") if name == trained else (BLUE, "o-")
        axes.axhline(values[0][0], color="black", linestyle="--", linewidth=0.8)
        intervals(axes, steps, values, fmt=marker, color=colour)
        axes.set(title=name, xticks=steps)
        axes.margins(x=0.1)
    chart.supxlabel("optimizer step (dashed: before training)", fontsize=10)
    return chart


def price_chart(changes: Mapping[str, Mapping[str, Score]], losses: Sequence[str]) -> Figure:
    """What several runs changed, measured by the same metrics: a panel each; right is better.

    changes: name of the metric → {run: (difference to the starting model, low, high)}.
    losses: metrics of which less is better; their axes run backwards.
    """
    runs = list(next(iter(changes.values())))
    chart = figure(9, 1.3 + 0.3 * len(runs), len(changes), columns=3, sharey=True)
    for axes, (name, values) in zip(chart.axes, changes.items(), strict=True):
        for row, change in enumerate(values.values()):
            colour, marker = STYLES[row % len(STYLES)]
            intervals(axes, [row], [change], flat=True, fmt=marker, color=colour)
        axes.axvline(0, color="black", linestyle="--", linewidth=0.8)
        reach = 1.15 * max(abs(end) for value in values.values() for end in value) or 1
        axes.set_xlim((reach, -reach) if name in losses else (-reach, reach))
        axes.xaxis.set_major_locator(MaxNLocator(4))
        name_rows(axes, runs)
        axes.set_title(name, fontsize=10)
        axes.grid(axis="x", alpha=0.4)
    chart.supxlabel("change since the starting model, 95 % interval (better →)", fontsize=10)
    return chart


def museum_wall(
    runs: Mapping[str, tuple[Sequence[float], float]],
    rows: int,
    controls: Mapping[str, Sequence[float]],
    scores: bool = True,
) -> Figure:
    """Loss curves as each run reported them, a panel each, beside that of a run without the bug.

    runs: name → (loss of each step, share of answers that were right); the first is the healthy
    one. rows: how many answers each share was counted on. controls: name → losses of another run
    to draw beside this one in place of the healthy run's. scores: say these shares; without them,
    the curves stand alone. A loss that is not a number is marked.
    """
    (_, (healthy, healthy_share)), *others = runs.items()
    chart = figure(9, 2.4, len(others), columns=3, sharex=True, sharey=True)
    for axes, (name, (losses, share)) in zip(chart.axes, others, strict=True):
        steps = range(1, len(losses) + 1)
        sound = controls.get(name, healthy)
        axes.plot(range(1, len(sound) + 1), sound, color=GREY, lw=1, label="without the bug")
        axes.plot(steps, losses, "--", color=BLUE, lw=1.2, label="this run")
        lost = next((step for step, loss in zip(steps, losses, strict=True) if loss != loss), None)
        if lost:
            axes.axvline(lost, color=RED, lw=1.5)
            axes.annotate(" nan", (lost, 0.6), xycoords=("data", "axes fraction"), color=RED)
        right = f"\nright: {share_of(share, rows)}" if scores else ""
        axes.set_title(name + right, fontsize=9)
        axes.set_yscale("log")
    right = f" (right in the healthy run: {share_of(healthy_share, rows)})" if scores else ""
    chart.supxlabel(f"optimizer step{right}", fontsize=10)
    chart.supylabel("reported loss (nats per token, log scale)", fontsize=10)
    chart.axes[0].legend(fontsize=8, frameon=False)
    return chart
