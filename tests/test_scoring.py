"""The scores and intervals, held to independent implementations and to simulation."""

import csv
import random
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
import torch
from rouge_score.rouge_scorer import RougeScorer
from scipy.stats import binomtest
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score

from helpers.scoring import (
    ScoringError,
    accuracy,
    bootstrap_interval,
    choose,
    confusion,
    holds_answer,
    lead_words,
    macro_f1,
    majority_label,
    mean_by_tokens,
    paired_test,
    read_answer,
    rouge,
    wilson_interval,
)

DATA = Path(__file__).parents[1] / "data" / "reviews.csv"
OPINIONS = ["terrible", "poor", "okay", "good", "excellent"]


def random_answers(seed: int) -> tuple[list[str], list[str]]:
    """Predictions and references over the opinions; some labels may be missing from either."""
    draw = random.Random(seed)
    used = draw.sample(OPINIONS, draw.randint(1, 5))
    references = draw.choices(used, k=draw.randint(1, 40))
    predictions = [draw.choice([r, draw.choice(OPINIONS)]) for r in references]
    return predictions, references


# Answers


def test_choose_takes_the_best_of_each_row_and_the_first_of_equals() -> None:
    scores = torch.tensor([[-3.0, -1.0, -2.0], [-1.0, -1.0, -5.0], [-9.0, float("-inf"), -8.0]])
    assert choose(scores, ["a", "b", "c"]) == ["b", "a", "c"]
    assert choose(scores.tolist(), ["a", "b", "c"]) == ["b", "a", "c"]
    assert choose(torch.zeros(0, 3), ["a", "b", "c"]) == []


def test_choose_refuses_rows_that_do_not_fit() -> None:
    with pytest.raises(ScoringError, match="Row 1 has 3 scores for 2 choices"):
        choose([[1, 2], [1, 2, 3]], ["a", "b"])
    with pytest.raises(ScoringError, match="Row 0 holds a score that is not a number"):
        choose([[float("nan"), 2.0]], ["a", "b"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("good", "good"),
        (" Good.", "good"),
        ("\n\nGOOD!\nThe customer liked it.", "good"),
        ("**Excellent**", "excellent"),
        ("_okay_", "okay"),
        ('"Poor", I would say', "poor"),
        ("good or excellent", "good"),
        ("terrible, poor, okay, good or excellent", "terrible"),
        ("goods", None),
        ("excellently made", None),
        ("It is good", None),
        ("not good", None),
        ("", None),
        ("  \n", None),
        ("...", None),
        ("5", None),
    ],
)
def test_read_answer_compares_first_words(text: str, expected: str | None) -> None:
    assert read_answer(text, OPINIONS) == expected


def test_read_answer_with_choices_of_several_words() -> None:
    choices = ["Home", "home & garden", "Café supplies"]
    assert read_answer("home", choices) == "Home"
    assert read_answer("HOME-GARDEN, of course", choices) == "home & garden"
    assert read_answer("home office", choices) == "Home"
    assert read_answer("cafe\u0301 supplies", choices) == "Café supplies"
    assert read_answer("Café", choices) is None


def test_read_answer_refuses_choices_that_cannot_be_told_apart() -> None:
    with pytest.raises(ScoringError, match="'Good' and 'good!' differ in nothing but case"):
        read_answer("good", ["Good", "good!"])
    with pytest.raises(ScoringError, match=r"The choice ':-\)' holds no letter"):
        read_answer("good", ["good", ":-)"])


# Scores


@pytest.mark.parametrize("seed", range(30))
def test_scores_equal_scikit_learn(seed: int) -> None:
    predictions, references = random_answers(seed)
    assert accuracy(predictions, references) == accuracy_score(references, predictions)
    theirs = f1_score(references, predictions, labels=OPINIONS, average="macro", zero_division=0)
    assert macro_f1(predictions, references, OPINIONS) == pytest.approx(theirs, abs=1e-12)
    table = confusion_matrix(references, predictions, labels=OPINIONS)
    assert confusion(predictions, references, OPINIONS) == table.tolist()


def test_no_answer_is_a_wrong_answer() -> None:
    predictions, references = ["good", None, None, "poor"], ["good", "good", "okay", "poor"]
    assert accuracy(predictions, references) == 0.5
    theirs = f1_score(
        references,
        [prediction or "no answer" for prediction in predictions],
        labels=OPINIONS,
        average="macro",
        zero_division=0,
    )
    assert macro_f1(predictions, references, OPINIONS) == pytest.approx(theirs, abs=1e-12)


def test_confusion_has_references_as_rows() -> None:
    assert confusion(["b", "b", "a"], ["a", "b", "a"], ["a", "b"]) == [[1, 1], [0, 1]]


@pytest.mark.parametrize(
    "score",
    [
        accuracy,
        lambda predictions, references: macro_f1(predictions, references, OPINIONS),
        lambda predictions, references: confusion(predictions, references, OPINIONS),
        paired_test,
    ],
)
def test_every_score_refuses_lists_that_are_no_pairs(score) -> None:
    with pytest.raises(ScoringError, match="There is nothing to score"):
        score([], [])
    with pytest.raises(ScoringError, match="There are 2 predictions for 1 references"):
        score(["good", "good"], ["good"])
    with pytest.raises(ScoringError, match="predictions have to be a list .* of type str"):
        score("good", ["good"])
    with pytest.raises(ScoringError, match="references have to be a list .* of type NoneType"):
        score(["good"], None)


def test_labels_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ScoringError, match="A reference is None"):
        accuracy([None], [None])
    for score in (macro_f1, confusion):
        with pytest.raises(ScoringError, match="'great' is none of the labels .terrible, poor"):
            score(["good"], ["great"], OPINIONS)
        with pytest.raises(ScoringError, match="The label 'poor' stands .* more than once"):
            score(["good"], ["good"], ["good", "poor", "poor"])
    with pytest.raises(ScoringError, match="1 of 2 predictions are none .* the first is None"):
        confusion(["good", None], ["good", "good"], OPINIONS)


def assert_rouge_equal(pairs: list[tuple[str, str]]) -> None:
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=False)
    for prediction, reference in pairs:
        theirs = scorer.score(reference, prediction)
        ours = rouge(prediction, reference)
        assert list(ours) == ["rouge1", "rouge2", "rougeL"]
        for name, value in ours.items():
            assert value == pytest.approx(theirs[name].fmeasure, abs=1e-12), (prediction, reference)


def test_rouge_equals_the_package_on_the_reviews() -> None:
    with DATA.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    draw = random.Random(0)
    pairs = [(lead_words(r["review_body"], 8), r["review_headline"]) for r in rows]
    pairs += [tuple(r["review_body"] for r in draw.sample(rows, 2)) for _ in range(150)]
    assert len(pairs) > 1400
    assert_rouge_equal(pairs)


def test_rouge_equals_the_package_on_random_words() -> None:
    draw = random.Random(1)
    words = ["a", "b", "A", "b2", "don't", "café", "İ", "—", "x\ny", "3.5", "日本", "ß", "a_b"]

    def text() -> str:
        return " ".join(draw.choices(words, k=draw.randint(0, 12)))

    assert_rouge_equal([(text(), text()) for _ in range(1500)])


def test_rouge_by_hand() -> None:
    assert rouge("the cat sat", "the cat ran") == pytest.approx(
        {"rouge1": 2 / 3, "rouge2": 1 / 2, "rougeL": 2 / 3}
    )
    assert rouge("", "the cat") == {"rouge1": 0.0, "rouge2": 0.0, "rougeL": 0.0}


# Baselines


def test_majority_label() -> None:
    assert majority_label(["good", "poor", "good"]) == "good"
    assert majority_label(["poor", "good"]) == majority_label(["good", "poor"]) == "good"
    with pytest.raises(ScoringError, match="the list of labels is empty"):
        majority_label([])


def test_lead_words() -> None:
    assert lead_words("  It broke\nat once. Bad.", 3) == "It broke at"
    assert lead_words("Bad.", 3) == "Bad."
    with pytest.raises(ScoringError, match="A lead of 0 words"):
        lead_words("Bad.", 0)


# Intervals


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
        with pytest.raises(ScoringError, match=f"{correct} right answers of {total} is no share"):
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


def test_bootstrap_is_repeatable_and_widens_with_confidence() -> None:
    values = np.random.default_rng(0).random(50).tolist() + [5.0, 7.0]
    assert bootstrap_interval(values, seed=3) == bootstrap_interval(values, seed=3)
    assert bootstrap_interval(values, seed=3) != bootstrap_interval(values, seed=4)
    low, high = bootstrap_interval(values, confidence=0.99)
    inner_low, inner_high = bootstrap_interval(values, confidence=0.8)
    assert low < inner_low < inner_high < high


def test_bootstrap_percentiles_equal_numpy() -> None:
    values = list(range(40))
    means = []
    result = bootstrap_interval(
        values, statistic=lambda drawn: means.append(fmean(drawn)) or means[-1], draws=333
    )
    assert result == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=1e-12)


def test_bootstrap_refuses() -> None:
    with pytest.raises(ScoringError, match="at least two rows to draw from, and here are 1"):
        bootstrap_interval([1])
    with pytest.raises(ScoringError, match="at least two rows to draw from, and here are 0"):
        bootstrap_interval([])
    with pytest.raises(ScoringError, match="at least two groups to draw from, and here are 1"):
        bootstrap_interval([1, 2], ["x", "x"])
    with pytest.raises(ScoringError, match="There are 1 groups for 2 values"):
        bootstrap_interval([1, 2], ["x"])
    with pytest.raises(ScoringError, match="0 draws were asked for"):
        bootstrap_interval([1, 2], draws=0)
    with pytest.raises(ScoringError, match="confidence 1.0 does not lie"):
        bootstrap_interval([1, 2], confidence=1.0)
    with pytest.raises(ScoringError, match="is not a finite number"):
        bootstrap_interval([1.0, float("nan")])


# The paired test


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


def test_a_mean_loss_weighs_tokens_alike_however_they_were_cut_into_batches():
    losses = [random.Random(0).random() * 5 for _ in range(30)]
    for cuts in ([30], [1, 29], [10, 0, 10, 10], [3] * 10):
        means, begin = [], 0
        for size in cuts:
            means.append(fmean(losses[begin : begin + size]) if size else float("nan"))
            begin += size
        assert mean_by_tokens(means, cuts) == pytest.approx(fmean(losses))


@pytest.mark.parametrize(("means", "tokens"), [([], []), ([1.0], [0]), ([1.0, 2.0], [3])])
def test_there_is_no_mean_without_tokens(means, tokens):
    with pytest.raises(ScoringError, match="at least one token"):
        mean_by_tokens(means, tokens)


@pytest.mark.parametrize(
    ("text", "answers", "found"),
    [
        ("Tokyo", ["Tokyo"], True),
        ("The capital is TOKYO.", ["Tokyo"], True),
        ("It has 18 legs", ["8", "eight"], False),
        ("How nice", ["ice"], False),
        ("It lies in South\nAmerica!", ["South America"], True),
        ("In the south of America", ["South America"], False),
        ("H₂O, of course", ["H2O"], True),
        ("", ["8"], False),
        ("anything", ["?"], False),
        ("anything", [], False),
    ],
)
def test_an_answer_is_held_as_whole_words(text, answers, found):
    assert holds_answer(text, answers) is found
