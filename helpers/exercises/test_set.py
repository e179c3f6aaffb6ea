"""The exercises of notebook 06: scores, how far to believe them, and who is better."""

from collections import Counter
from math import comb, sqrt
from statistics import NormalDist, fmean

from helpers.evaluation.metrics import accuracy, macro_f1
from helpers.evaluation.uncertainty import paired_test, wilson_interval
from helpers.exercises.exercise import Case, Exercise, wrong_answers

Interval = tuple[float, float]

# ---- Interval of a share


def _z(confidence: float) -> float:
    return NormalDist().inv_cdf(0.5 + confidence / 2)


def _around_the_share(correct: int, total: int, confidence: float = 0.95) -> Interval:
    share = correct / total
    half = _z(confidence) * sqrt(share * (1 - share) / total)
    return share - half, share + half


def _not_scaled(correct: int, total: int, confidence: float = 0.95) -> Interval:
    z, share = _z(confidence), correct / total
    middle = share + z * z / (2 * total)
    half = z * sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    return max(0.0, middle - half), min(1.0, middle + half)


def _middle_and_half(correct: int, total: int, confidence: float = 0.95) -> Interval:
    low, high = wilson_interval(correct, total, confidence)
    return (low + high) / 2, (high - low) / 2


WILSON_INTERVAL = Exercise(
    name="wilson_interval",
    notebook="06_test",
    title="How far can a share be trusted?",
    minutes=6,
    difficulty=1,
    reference=wilson_interval,
    cases=(
        Case(
            (5, 10, 0.95), "Half of ten rows are right: the interval is symmetric around one half."
        ),
        Case(
            (0, 20, 0.95),
            "None of 20 rows is right. The share could still be higher on other rows.",
        ),
        Case(
            (20, 20, 0.95),
            "All 20 rows are right. That does not prove that the model is never wrong.",
        ),
        Case((1, 20, 0.95), "One row of 20 is right: no share is below 0."),
        Case((36, 48, 0.95), "36 of 48 rows are right."),
        Case((36, 48, 0.8), "For less confidence, the interval is shorter."),
        Case((160, 195, 0.99), "For more confidence, the interval is longer."),
    ),
    mistakes=wrong_answers(
        _around_the_share,
        "This is the share plus and minus z standard errors of the share itself. With 0 of 20 "
        "right it has no width, and near the ends it goes beyond 0 or 1. Wilson uses the "
        "standard error of each p, not of s.",
        lambda *given: tuple(min(1.0, max(0.0, end)) for end in _around_the_share(*given)),
        "Cutting at 0 and 1 hides the problem: with 0 of 20 right, the interval still has no "
        "width, as if 20 rows proved it.",
        lambda correct, total, confidence=0.95: wilson_interval(correct, total, 0.95),
        "Right for 95 %. Let z depend on the confidence that is asked for.",
        lambda correct, total, confidence: wilson_interval(correct, total, 2 * confidence - 1),
        "Your z is too small: it leaves out all of the rest on one side. Share the rest "
        "between both ends.",
        _not_scaled,
        "Nearly. Both the middle and the half width still have to be divided by 1 + z²/n.",
        _middle_and_half,
        "You return the middle and the half width. Return the two ends instead.",
        lambda *given: tuple(100 * end for end in wilson_interval(*given)),
        "Right, but in per cent. Shares go from 0 to 1 in this course.",
    ),
    hints=(
        "Get z from the confidence. The two ends are the middle minus and plus the half width.",
        "`z = NormalDist().inv_cdf(0.5 + confidence / 2)` leaves out half of the rest at either "
        "end.",
        "With `s = correct / total`, `n = total` and `scale = 1 + z**2 / n`, the middle is `(s + "
        "z**2 / (2 * n)) / scale`.",
        "The half width is `z / scale * sqrt(s * (1 - s) / n + z**2 / (4 * n**2))`.",
    ),
)


# ---- F1 of each label, and their mean


def _f1_of(label: str, said: list[str], meant: list[str]) -> float:
    right = sum(a == b == label for a, b in zip(said, meant, strict=True))
    return 2 * right / (said.count(label) + meant.count(label)) if right else 0.0


def _of_those_that_occur(said: list[str], meant: list[str], labels: list[str]) -> float:
    return fmean(_f1_of(label, said, meant) for label in labels if label in meant)


def _weighted(said: list[str], meant: list[str], labels: list[str]) -> float:
    counts = Counter(meant)
    return sum(counts[one] * _f1_of(one, said, meant) for one in labels) / len(meant)


def _mean_recall(said: list[str], meant: list[str], labels: list[str]) -> float:
    return fmean(
        sum(a == b == one for a, b in zip(said, meant, strict=True)) / max(1, meant.count(one))
        for one in labels
    )


def _f1_cases() -> list[Case]:
    two, three = ["bad", "good"], ["bad", "fair", "good"]
    return [
        Case((["bad", "good"], ["bad", "good"], two), "Both rows are right."),
        Case(
            (["good", "good"], ["bad", "good"], two),
            "'bad' is never said: its F1 is 0, without a division by 0.",
        ),
        Case(
            (["bad", "good", "good"], ["bad", "good", "bad"], two),
            "'bad' is said once and meant twice, 'good' the other way round.",
        ),
        Case((["good"] * 4, ["good", "good", "good", "bad"], two), "It always says 'good'."),
        Case((["bad", "good"], ["bad", "good"], three), "'fair' is neither said nor meant."),
        Case(
            ([None, "good", "fair"], ["bad", "good", "good"], three),
            "None stands for an answer that is not one of the labels.",
        ),
        Case(
            (["bad", "bad", "bad", "fair", "good"], ["bad", "bad", "good", "good", "fair"], three),
            "Three labels, two of them mixed up.",
        ),
    ]


MACRO_F1 = Exercise(
    name="macro_f1",
    notebook="06_test",
    title="A score in which rare labels count",
    minutes=10,
    difficulty=2,
    reference=macro_f1,
    cases=_f1_cases(),
    mistakes=wrong_answers(
        lambda said, meant, labels: accuracy(said, meant),
        "This is the accuracy: each row weighs the same, so a rare label hardly counts. "
        "Compute a score for each label, then average.",
        _of_those_that_occur,
        "You leave out labels that are never meant. A model that says such a label would "
        "not pay for it: average over all labels.",
        _weighted,
        "You weight each label by how often it is meant. Macro means that all labels weigh "
        "the same.",
        _mean_recall,
        "This is the mean recall: of the rows that mean a label, how many got it. "
        "A label that is said far too often costs nothing here. F1 looks at both sides.",
        lambda said, meant, labels: _mean_recall(meant, said, labels),
        "This is the mean precision: of the rows for which a label was said, how many were "
        "right. A label that is said once, and correctly, would be perfect. F1 looks at both "
        "sides.",
        lambda said, meant, labels: macro_f1(said, meant, labels) / 2,
        "This is half of what it should be: the harmonic mean of two numbers has a factor of 2.",
    ),
    hints=(
        "For one label you need three counts: how often it was said, meant, and both at once.",
        "F1 of a label is `2 * both / (said + meant)`; 0 if it was never right.",
        "Then the plain mean over `labels`: `return sum(scores) / len(labels)`, with one score "
        "for each label.",
    ),
)


# ---- Two methods on the same rows


def _coins(first: list[bool], second: list[bool]) -> tuple[int, int]:
    pairs = list(zip(first, second, strict=True))
    return sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs)


def _tail(coins: int, fewer: int) -> float:
    return sum(comb(coins, heads) for heads in range(fewer + 1)) / 2**coins


def _one_way_only(first: list[bool], second: list[bool]) -> float:
    only_first, only_second = _coins(first, second)
    return _tail(only_first + only_second, min(only_first, only_second))


def _just_this_outcome(first: list[bool], second: list[bool]) -> float:
    only_first, only_second = _coins(first, second)
    coins = only_first + only_second
    return min(1.0, 2 * comb(coins, only_first) / 2**coins)


def _paired_cases() -> list[Case]:
    def rows(both: int, first: int, second: int, none: int) -> tuple[list[bool], list[bool]]:
        pairs = [(True, True)] * both + [(True, False)] * first
        pairs += [(False, True)] * second + [(False, False)] * none
        return [a for a, _ in pairs], [b for _, b in pairs]

    return [
        Case(rows(2, 0, 0, 1), "They never differ: there is no evidence of a difference."),
        Case(rows(0, 1, 1, 0), "One coin each way: as even as can be."),
        Case(rows(0, 1, 0, 0), "A single coin is bound to fall one way or the other."),
        Case(rows(0, 5, 0, 0), "Five coins, all for the first method."),
        Case(rows(3, 1, 5, 2), "Six coins, five of them for the second; five other rows."),
        Case(rows(40, 9, 2, 10), "Eleven coins among many rows on which both agree."),
    ]


PAIRED_TEST = Exercise(
    name="paired_test",
    notebook="06_test",
    title="Is one really better than the other?",
    minutes=12,
    difficulty=3,
    reference=paired_test,
    cases=_paired_cases(),
    mistakes=wrong_answers(
        _one_way_only,
        "This counts only one way of being uneven. Before you saw the rows, either method "
        "could have been ahead: count both ways.",
        lambda first, second: 2 * _one_way_only(first, second),
        "Nearly. When the coins fall evenly, doubling counts the middle twice, and the result "
        "is larger than 1. No probability can be.",
        _just_this_outcome,
        "This is the probability of exactly this outcome. With many coins, every single "
        "outcome is rare. Ask for outcomes at least as uneven.",
        lambda first, second: min(1.0, 2 * _tail(len(first), min(_coins(first, second)))),
        "You toss a coin for each row. Rows on which both are right, or both wrong, say "
        "nothing about who is better: leave them out.",
        lambda first, second: 1 - paired_test(first, second),
        "This is 1 minus the right value. A small p is evidence of a difference, but 1 - p is "
        "not the probability that the difference is real.",
    ),
    hints=(
        "Count two kinds of rows: only the first is right, only the second is right.",
        "Their sum is the number of `coins`, and the smaller of the two is `fewer`. How likely "
        "is it that at most `fewer` heads come up? Add up `comb(coins, heads) / 2**coins` for "
        "each number of heads.",
        "Twice that, but never more than 1: `min(1, 2 * sum(comb(coins, heads) for heads in "
        "range(fewer + 1)) / 2**coins)`.",
    ),
)
