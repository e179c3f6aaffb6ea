"""How far can a score be trusted? Intervals, and comparisons of two methods on the same rows.

"Clearly better" has one meaning in this course: see `verdict_of`.
"""

import random
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from math import comb, isfinite, sqrt
from statistics import NormalDist, fmean
from typing import Any

import numpy as np

from helpers.data.table import group_key
from helpers.data.task import Task
from helpers.evaluation.metrics import Rows, ScoringError, check_pairs, table_cell

# ---- one method


def wilson_interval(correct: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Interval for a share of right answers, from its count alone. Rows have to be independent.

    It holds for few rows and for shares near 0 or 1, where share plus or minus z standard errors
    fails (0 right of 20 would give an interval of no width).

    Returns (low, high), both from 0 to 1.
    Raises ScoringError: no rows, a count outside 0 to total, a confidence outside 0 to 1.
    Source: E. B. Wilson, "Probable inference", JASA 22, 1927.
    """
    if not 0 < confidence < 1:
        raise ScoringError(
            f"The confidence {confidence} does not lie between 0 and 1. For 95 % write 0.95."
        )
    if total < 1 or not 0 <= correct <= total:
        raise ScoringError(
            f"{correct} right answers out of {total} is not a share. There must be at least one "
            "row, and the number of right answers must lie between 0 and the number of rows."
        )
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = correct / total
    scale = 1 + z * z / total
    middle = (share + z * z / (2 * total)) / scale
    half = z / scale * sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    return max(0.0, middle - half), min(1.0, middle + half)


def share_of(accuracy: float, rows: int) -> str:
    """A share of right answers among so many rows with its 95 % interval (Wilson), in words."""
    low, high = wilson_interval(round(accuracy * rows), rows)
    return f"{accuracy:.2f} ({low:.2f} to {high:.2f})"


def interval_ahead(rows: int) -> str:
    """A sentence on how wide the 95 % interval (Wilson) of a share will be on so many rows."""
    low, high = wilson_interval(rows // 2, rows)
    return (
        f"On {rows} scored rows, half of them right would mean a share from {low:.2f} to "
        f"{high:.2f}. (A paired comparison can see smaller differences.)"
    )


def bootstrap_interval(
    values: Sequence[Any],
    groups: Sequence[Hashable] | None = None,
    statistic: Callable[[list[Any]], float] = fmean,
    draws: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """95 % interval for any score of a list: the middle part of the scores of re-drawn lists.

    Each of the draws takes as many rows as there are, with replacement, and computes the statistic.
    Rows of one group (a product, a patient) resemble each other, so they say less than as many
    independent rows. With `groups` (of each row) a draw takes whole groups (the cluster bootstrap);
    without it the interval of such rows is too narrow. It is also somewhat too narrow for fewer
    than about 20 groups, and of no width when all values are equal: see mean_interval.

    values: one for each row; numbers, or whatever the statistic takes.
    Returns (low, high), in the units of the statistic.
    Raises ScoringError: fewer than two rows or groups, groups of another number than the values, a
    statistic that is not a finite number.
    Source: B. Efron, "Bootstrap methods: another look at the jackknife", 1979 (percentiles).
    """
    members = _members(values, groups)
    if len(members) < 2:
        raise ScoringError(
            f"An interval needs at least two {'rows' if groups is None else 'groups'} to draw "
            f"from, but there are {len(members)}."
        )
    generator = random.Random(seed)
    scores = []
    for _ in range(draws):
        drawn = generator.choices(members, k=len(members))
        scores.append(float(statistic([value for one in drawn for value in one])))
    if not all(map(isfinite, scores)):
        raise ScoringError(
            "The statistic of a re-drawn list is not a finite number, so it has no interval. "
            "Check the values, and that the statistic works with any mixture of the rows."
        )
    low, high = np.quantile(scores, [0.025, 0.975]).tolist()
    return low, high


def _members(values: Sequence[Any], groups: Sequence[Hashable] | None) -> list[list[Any]]:
    """What is drawn as a whole: each value alone, or the values of each group."""
    if groups is None:
        return [[value] for value in values]
    if len(groups) != len(values):
        raise ScoringError(
            f"There are {len(groups)} groups for {len(values)} values. "
            "Give the group of each value, in the same order."
        )
    members = defaultdict(list)
    for value, group in zip(values, groups, strict=True):
        members[group].append(value)
    return list(members.values())


def groups_of(task: Task, examples: Rows) -> tuple[Hashable, ...] | None:
    """The group of each example, as the split saw it; None where the task's rows have no groups.

    A row without a value is a group of its own.
    """
    if task.group is None:
        return None
    keys = [group_key(table_cell(row, task.group)) for row in examples]
    return tuple(key or ("row", number) for number, key in enumerate(keys))


def mean_interval(
    scores: Sequence[float], groups: Sequence[Hashable] | None = None
) -> tuple[float, float, float]:
    """Mean of the scores of rows (see metrics.row_scores) and its 95 % interval.

    Wilson's interval for right (1) and wrong (0) without groups, the bootstrap for all others. When
    all rows are right, or all are wrong, re-drawing shows nothing: then it is Wilson's interval
    again, with each group counted once.

    groups: the group of each row (see groups_of); None for independent rows.
    Returns (mean, low, high). Raises ScoringError: no scores; as bootstrap_interval.
    """
    if len(scores) == 0:
        raise ScoringError(
            "There are no scores, so they have no mean. Check the rows before this step."
        )
    mean = fmean(scores)
    if set(scores) <= {0, 1} and (groups is None or mean in (0, 1)):
        units = len(_members(scores, groups))
        return (mean, *wilson_interval(round(mean * units), units))
    return (mean, *bootstrap_interval(scores, groups))


# ---- two methods on the same rows


def paired_change(
    before: Sequence[float], after: Sequence[float], groups: Sequence[Hashable] | None = None
) -> tuple[float, float, float]:
    """By how much two methods differ on the same rows: mean difference and its 95 % interval.

    Only the difference within each row is used. So it drops out that some rows are harder than
    others, and smaller differences can be seen than by comparing two separate intervals. groups: as
    in mean_interval.

    Returns (mean, low, high) of after - before.
    Raises ScoringError: empty or unequal lists; as bootstrap_interval.
    """
    check_pairs(before, after)
    differences = [new - old for old, new in zip(before, after, strict=True)]
    return (fmean(differences), *bootstrap_interval(differences, groups))


def verdict_of(interval: Sequence[float], lower_is_better: bool = False) -> str:
    """What "clearly" means in this course: the interval of the paired difference leaves 0 out.

    One comparison in twenty of equally good methods comes out as clearly different by chance
    alone, so among many comparisons expect some of these. An end that rounds to 0.000 counts as
    0: a verdict should not hang on a digit that is not even printed.

    interval: what paired_change returns, or its two ends. lower_is_better: True for losses.
    Returns "clearly better", "clearly worse" or "no clear difference".
    """
    low, high = (round(end, 3) for end in interval[-2:])
    if low <= 0 <= high:
        return "no clear difference"
    return "clearly better" if (low > 0) != lower_is_better else "clearly worse"


def paired_test(first_correct: Sequence[bool], second_correct: Sequence[bool]) -> float:
    """Could chance alone make two methods differ this much on the same rows?

    Only discordant pairs count: rows on which one method is right and the other wrong. Were both
    equally good, each such row would be a fair coin: the result is the probability that so many
    fair coins fall at least as unevenly as here, both ways together. Rows have to be independent.

    first_correct, second_correct: for each row, whether that method was right.
    Returns the p-value, above 0 and up to 1; 1.0 when the methods never differ.
    Raises ScoringError: empty or unequal lists, an entry that is neither true nor false.
    Source: Q. McNemar, "Note on the sampling error of the difference between correlated
    proportions", 1947; the exact form, with the binomial distribution.
    """
    check_pairs(first_correct, second_correct)
    for value in [*first_correct, *second_correct]:
        if value not in (0, 1):
            raise ScoringError(
                f"The paired test takes True or False for each row, whether the answer was right; "
                f"it got {value!r}. Compare answers with the references first; for scores between "
                "0 and 1, such as ROUGE, use paired_change."
            )
    pairs = list(zip(first_correct, second_correct, strict=True))
    only_first = sum(first > second for first, second in pairs)
    only_second = sum(first < second for first, second in pairs)
    coins, fewer = only_first + only_second, min(only_first, only_second)
    return min(1.0, 2 * sum(comb(coins, heads) for heads in range(fewer + 1)) / 2**coins)


# ---- is a model as sure as it is right?


def reliability_bins(
    probabilities: Sequence[float], correct: Sequence[bool]
) -> list[tuple[float, float, int]]:
    """Answers sorted by how sure the model was: (mean probability, share right, rows) of each bin.

    Ten equally wide bins cut 0 to 1; those without a row are left out.

    probabilities: what the model gave to its answer in each row. correct: whether it was right.
    Raises ScoringError: empty or unequal lists.
    """
    check_pairs(probabilities, correct)
    members = defaultdict(list)
    for probability, right in zip(probabilities, correct, strict=True):
        members[min(int(10 * probability), 9)].append((probability, right))
    return [
        (fmean(p for p, _ in rows), fmean(right for _, right in rows), len(rows))
        for _, rows in sorted(members.items())
    ]


def expected_calibration_error(probabilities: Sequence[float], correct: Sequence[bool]) -> float:
    """How far the probabilities of answers are from the share that is right, on average; 0 to 1.

    In each bin (see reliability_bins) the difference between mean probability and share right,
    without its sign; averaged over the rows. Few rows in a bin put it above 0 by chance alone.

    Source: Guo et al., "On Calibration of Modern Neural Networks", 2017.
    """
    found = reliability_bins(probabilities, correct)
    return sum(abs(mean - share) * n for mean, share, n in found) / len(probabilities)
