"""Intervals and paired comparisons, held to independent implementations and to simulation."""

import random
from statistics import fmean
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import binomtest, bootstrap

from helpers.evaluation.metrics import ScoringError, macro_f1
from helpers.evaluation.uncertainty import (
    bootstrap_interval,
    expected_calibration_error,
    groups_of,
    interval_ahead,
    mean_interval,
    paired_change,
    paired_test,
    reliability_bins,
    share_of,
    verdict_of,
    wilson_interval,
)

# ---- intervals


@pytest.mark.parametrize(
    ("correct", "total", "low", "high"),
    [
        # R. G. Newcombe, Statistics in Medicine 17, 1998, table I, method 3 (score).
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_equals_published_values(correct: int, total: int, low: float, high: float) -> None:
    assert wilson_interval(correct, total) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_wilson_equals_scipy(confidence: float) -> None:
    for correct, total in [(0, 1), (1, 1), (3, 7), (50, 60), (200, 200), (997, 1000)]:
        theirs = binomtest(correct, total).proportion_ci(confidence, method="wilson")
        ours = wilson_interval(correct, total, confidence)
        assert ours == pytest.approx((theirs.low, theirs.high), abs=1e-9)
        assert 0 <= ours[0] < ours[1] <= 1


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5, 0.72, 0.95])
@pytest.mark.parametrize("total", [20, 60, 200])
def test_wilson_covers_at_the_stated_rate(share: float, total: int) -> None:
    generator = np.random.default_rng([total, round(100 * share)])
    intervals = {correct: wilson_interval(correct, total) for correct in range(total + 1)}
    counts = generator.binomial(total, share, size=4000)
    covered = fmean(intervals[c][0] <= share <= intervals[c][1] for c in counts.tolist())
    # Counts are whole numbers, so the rate of any one (share, total) wobbles around 95 %.
    assert 0.91 <= covered <= 0.985


def test_wilson_refuses_what_is_no_share() -> None:
    for correct, total in [(0, 0), (-1, 5), (6, 5)]:
        with pytest.raises(
            ScoringError, match=f"{correct} right answers out of {total} is not a share"
        ):
            wilson_interval(correct, total)
    with pytest.raises(ScoringError, match="confidence 95 does not lie between 0 and 1"):
        wilson_interval(1, 2, 95)


def products(generator: np.random.Generator) -> tuple[list[float], list[int]]:
    """Right answers on 60 products with 3 rows each; a product is easy or hard as a whole."""
    chance = generator.choice([0.1, 0.9], size=60)
    right = generator.random((60, 3)) < chance[:, None]
    return right.ravel().astype(float).tolist(), np.repeat(np.arange(60), 3).tolist()


def test_bootstrap_covers_with_groups_and_not_without() -> None:
    generator = np.random.default_rng(0)
    runs = 300
    with_groups = without = 0
    for run in range(runs):
        values, groups = products(generator)
        low, high = bootstrap_interval(values, groups, draws=300, seed=run)
        with_groups += low <= 0.5 <= high
        low, high = bootstrap_interval(values, draws=300, seed=run)
        without += low <= 0.5 <= high
    assert 0.91 <= with_groups / runs <= 0.98
    assert without / runs < 0.85


def test_bootstrap_of_independent_rows_is_as_wide_as_wilson() -> None:
    low, high = bootstrap_interval([1] * 140 + [0] * 60)
    assert (low, high) == pytest.approx(wilson_interval(140, 200), abs=0.015)


def test_bootstrap_takes_any_statistic_of_any_values() -> None:
    predictions, references = ["good", "poor", "good", "poor"] * 20, ["good"] * 40 + ["poor"] * 40

    def f1(pairs: list[tuple[str, str]]) -> float:
        return macro_f1([p for p, _ in pairs], [r for _, r in pairs], ["good", "poor"])

    pairs = list(zip(predictions, references, strict=True))
    low, high = bootstrap_interval(pairs, statistic=f1, draws=500)
    assert 0.35 < low < f1(pairs) < high < 0.65


def test_bootstrap_draws_whole_groups() -> None:
    # Each group holds one value three times, so a drawn list is made of triples.
    values = [1, 1, 1, 10, 10, 10]
    groups = ["x", "x", "x", "y", "y", "y"]
    seen = set()
    bootstrap_interval(values, groups, statistic=lambda drawn: seen.add(tuple(drawn)) or 0.0)
    assert seen == {(first,) * 3 + (second,) * 3 for first in (1, 10) for second in (1, 10)}


def test_bootstrap_is_repeatable() -> None:
    values = np.random.default_rng(0).random(50).tolist() + [5.0, 7.0]
    assert bootstrap_interval(values, seed=3) == bootstrap_interval(values, seed=3)
    assert bootstrap_interval(values, seed=3) != bootstrap_interval(values, seed=4)


def test_bootstrap_percentiles_equal_numpy() -> None:
    values = list(range(40))
    means = []
    result = bootstrap_interval(
        values, statistic=lambda drawn: means.append(fmean(drawn)) or means[-1], draws=333
    )
    assert result == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=1e-12)


def test_bootstrap_refuses() -> None:
    with pytest.raises(ScoringError, match="at least two rows to draw from, but there are 1"):
        bootstrap_interval([1])
    with pytest.raises(ScoringError, match="at least two rows to draw from, but there are 0"):
        bootstrap_interval([])
    with pytest.raises(ScoringError, match="at least two groups to draw from, but there are 1"):
        bootstrap_interval([1, 2], ["x", "x"])
    with pytest.raises(ScoringError, match="There are 1 groups for 2 values"):
        bootstrap_interval([1, 2], ["x"])
    with pytest.raises(ScoringError, match="is not a finite number"):
        bootstrap_interval([1.0, float("nan")])


# ---- comparisons on the same rows


def test_paired_test_equals_the_binomial_test() -> None:
    draw = random.Random(0)
    for _ in range(40):
        rows = draw.randint(1, 200)
        better = draw.random()
        first = [draw.random() < better for _ in range(rows)]
        second = [draw.random() < 0.5 for _ in range(rows)]
        only_first = sum(a and not b for a, b in zip(first, second, strict=True))
        differ = sum(a != b for a, b in zip(first, second, strict=True))
        theirs = binomtest(only_first, differ).pvalue if differ else 1.0
        assert paired_test(first, second) == pytest.approx(theirs, rel=1e-9)
        assert paired_test(first, second) == paired_test(second, first)


def test_paired_test_by_hand() -> None:
    assert paired_test([True] * 5, [False] * 5) == pytest.approx(2 / 2**5)
    assert paired_test([1, 0, 1], [1, 0, 1]) == 1.0
    assert paired_test([True, False], [False, True]) == 1.0
    assert 0 < paired_test([True] * 900, [False] * 900) < 1e-200


def test_paired_test_is_seldom_wrong_about_equal_methods() -> None:
    generator = np.random.default_rng(0)
    answers = generator.random((1000, 2, 60)) < 0.6
    wrong = fmean(paired_test(first.tolist(), second.tolist()) < 0.05 for first, second in answers)
    assert 0.005 < wrong < 0.05


def test_paired_test_refuses_answers_in_place_of_right_and_wrong() -> None:
    with pytest.raises(ScoringError, match="takes True or False for each row.*it got 'good'"):
        paired_test([True, "good"], [True, False])


def test_pairing_sees_a_change_that_two_intervals_hide() -> None:
    before = [float(row) for row in range(20)]
    after = [value + 0.1 + 0.01 * (row % 3) for row, value in enumerate(before)]
    mean, low, high = paired_change(before, after)
    assert mean == pytest.approx(fmean(after) - fmean(before))
    assert 0.1 <= low <= mean <= high < 0.13
    assert bootstrap_interval(before)[1] > bootstrap_interval(after)[0]


def test_a_paired_change_draws_whole_groups() -> None:
    before, after, groups = [0, 0, 0, 0, 0, 0], [1, 1, 0, 0, 1, 1], ["a", "a", "b", "b", "c", "c"]
    change = [1, 1, 0, 0, 1, 1]
    expected = (fmean(change), *bootstrap_interval(change, groups))
    assert paired_change(before, after, groups) == expected
    assert expected[1:] != bootstrap_interval(change)
    with pytest.raises(ScoringError, match="There are 2 predictions for 1 references"):
        paired_change([1.0, 2.0], [1.0])


@pytest.mark.parametrize(
    ("low", "high", "lower_is_better", "verdict"),
    [
        (0.1, 0.3, False, "clearly better"),
        (0.1, 0.3, True, "clearly worse"),
        (-0.3, -0.1, False, "clearly worse"),
        (-0.3, -0.1, True, "clearly better"),
        (-0.1, 0.3, False, "no clear difference"),
        (0.0, 0.3, False, "no clear difference"),
        (-0.3, -0.0004, False, "no clear difference"),  # it is printed as -0.000
        (-0.3, -0.0006, False, "clearly worse"),
    ],
)
def test_clearly_has_one_meaning(low, high, lower_is_better, verdict) -> None:
    assert verdict_of((low, high), lower_is_better) == verdict
    assert verdict_of(((low + high) / 2, low, high), lower_is_better) == verdict


def test_equally_good_methods_are_seldom_clearly_different() -> None:
    generator = np.random.default_rng(0)
    found = []
    for _ in range(200):
        first, second = (generator.random((2, 60)) < 0.6).astype(float).tolist()
        found.append(verdict_of(paired_change(first, second)))
    assert 0.9 < found.count("no clear difference") / 200 < 0.99


# ---- is a model as sure as it is right?


def test_the_calibration_error_is_the_weighted_gap_of_the_bins() -> None:
    sure, right = [0.95, 0.91, 1.0, 0.55, 0.5, 0.0], [1, 1, 0, 1, 0, 0]
    assert reliability_bins(sure, right) == [
        (0.0, 0.0, 1),
        pytest.approx((0.525, 0.5, 2)),
        pytest.approx((2.86 / 3, 2 / 3, 3)),
    ]
    gap = (2 * 0.025 + 3 * abs(2.86 / 3 - 2 / 3)) / 6
    assert expected_calibration_error(sure, right) == pytest.approx(gap)


def test_a_model_that_is_right_as_often_as_it_says_has_hardly_any_error() -> None:
    generator = np.random.default_rng(0)
    sure = generator.random(20000)
    right = generator.random(20000) < sure
    assert expected_calibration_error(sure.tolist(), right.tolist()) < 0.015
    assert expected_calibration_error((sure**0.3).tolist(), right.tolist()) > 0.2


# ---- one interval for all kinds of scores


def test_right_and_wrong_have_wilsons_interval() -> None:
    scores = [1.0] * 7 + [0.0] * 3
    theirs = binomtest(7, 10).proportion_ci(method="wilson")
    assert mean_interval(scores) == pytest.approx((0.7, theirs.low, theirs.high))
    assert share_of(0.7, 10) == f"0.70 ({theirs.low:.2f} to {theirs.high:.2f})"
    half = binomtest(6, 12).proportion_ci(method="wilson")
    assert f"a share from {half.low:.2f} to {half.high:.2f}." in interval_ahead(12)


def test_other_scores_are_drawn_again() -> None:
    scores = np.random.default_rng(0).random(80)
    theirs = bootstrap((scores,), np.mean, method="percentile", random_state=0).confidence_interval
    ours = mean_interval(scores.tolist())
    assert ours == pytest.approx((scores.mean(), theirs.low, theirs.high), abs=0.01)


@pytest.mark.parametrize("scores", [[1.0, 1.0, 0.0, 0.0, 1.0], [0.5, 0.5, 0.1, 0.1, 0.9]])
def test_groups_are_drawn_whole(scores) -> None:
    groups = ["a", "a", "b", "b", "c"]
    assert mean_interval(scores, groups) == (fmean(scores), *bootstrap_interval(scores, groups))
    assert mean_interval(scores, groups)[1:] != mean_interval(scores)[1:]


@pytest.mark.parametrize("right", [0, 1])
def test_all_right_and_all_wrong_are_not_certain(right: int) -> None:
    groups = ["a", "a", "a", "b", "b"]
    theirs = binomtest(2 * right, 2).proportion_ci(method="wilson")
    assert mean_interval([right] * 5, groups) == pytest.approx((right, theirs.low, theirs.high))
    assert mean_interval([right]) == pytest.approx((right, *wilson_interval(right, 1)))


def test_an_interval_of_nothing_is_refused() -> None:
    with pytest.raises(ScoringError, match="There are no scores"):
        mean_interval([])
    with pytest.raises(ScoringError, match="at least two rows"):
        mean_interval([0.4])
    with pytest.raises(ScoringError, match="There are 1 groups for 2 values"):
        mean_interval([1, 1], ["a"])


def test_groups_are_those_of_the_task() -> None:
    rows = [{"product": name} for name in ("A  kettle", "a Kettle", 3, "", None)]
    first, second, third, *empty = groups_of(SimpleNamespace(group="product"), rows)
    assert (first, second, third) == ("a kettle", "a kettle", "3")
    assert len({first, third, *empty}) == 4  # a row without a value is a group of its own
    assert groups_of(SimpleNamespace(group=None), rows) is None
    moved = [{"prompt": "Summarize: it", "table_prompt": "it"}]  # as Task.render does
    assert groups_of(SimpleNamespace(group="prompt"), moved) == ("it",)
