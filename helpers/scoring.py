"""How good are the answers? Scores, baselines, and how far a score can be trusted."""

import os
import random
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from math import comb, isfinite, sqrt
from pathlib import Path
from statistics import NormalDist, fmean
from typing import TYPE_CHECKING, Any

from helpers.errors import CourseError

if TYPE_CHECKING:
    import evaluate

METRICS = Path(__file__).resolve().parent / "metrics"


class ScoringError(CourseError):
    """Answers that cannot be scored: none at all, unequal numbers, labels that do not fit."""


# ---------------------------------------------------------------------------------------------
# From scores or free text to one answer a row
# ---------------------------------------------------------------------------------------------


def choose(scores: Iterable[Iterable[float]], choices: Sequence[str]) -> list[str]:
    """The best-scoring choice of each row. The share of these that is right is the constrained
    accuracy.

    Args:
        scores: n rows of len(choices) numbers; a tensor, an array or lists. Higher is better.
        choices: the allowed answers, in the order of the columns.
    Returns:
        n choices. Of equal scores the first column wins.
    Raises:
        ScoringError: a row of another width, or a score that is not a number.
    """
    answers = []
    for number, row in enumerate(scores):
        values = [float(value) for value in row]
        if len(values) != len(choices):
            raise ScoringError(
                f"Row {number} has {len(values)} scores for {len(choices)} choices. "
                "Give one score for each choice, in the order of the choices."
            )
        if any(value != value for value in values):
            raise ScoringError(
                f"Row {number} holds a score that is not a number (NaN), so no choice is the "
                "best. Look for a division by zero or for weights that training has destroyed."
            )
        answers.append(choices[values.index(max(values))])
    return answers


def read_answer(text: str, choices: Sequence[str]) -> str | None:
    """The choice that a free answer begins with. The share of these that is right is the free
    accuracy.

    An answer and a choice are compared word by word. A word is a run of letters and digits, so
    spaces, line ends, punctuation and markup do not matter; nor does case. The answer counts as a
    choice when its first words are all the words of that choice, whatever comes after them. When
    this holds for two choices ("home" and "home garden"), the longer one counts. A choice further
    on in the answer ("It is good") does not count: to look for it there would also find it in
    "not good".

    Returns:
        One of the choices, as it is written there, or None.
    Raises:
        ScoringError: a choice without a letter or digit, or two choices with the same words.
    """
    by_words: dict[tuple[str, ...], str] = {}
    for choice in choices:
        words = _words(choice)
        if not words:
            raise ScoringError(
                f"The choice {choice!r} holds no letter and no digit, so no free answer can be "
                "compared with it. Use words as choices."
            )
        if words in by_words:
            raise ScoringError(
                f"The choices {by_words[words]!r} and {choice!r} differ in nothing but case or "
                "punctuation, so a free answer cannot tell them apart. Rename one of them."
            )
        by_words[words] = choice
    answer = _words(text)
    begun = [words for words in by_words if answer[: len(words)] == words]
    return by_words[max(begun, key=len)] if begun else None


def holds_answer(text: str, answers: Sequence[str]) -> bool:
    """Whether a free answer holds one of the right ones, anywhere in it.

    Meant for questions with one short right answer, put to a model that speaks in sentences.
    Compared word by word, as in read_answer: "8" is not found in "18", and "ice" not in "nice".
    """
    said = _words(text)
    for answer in answers:
        words = _words(answer)
        starts = range(len(said) - len(words) + 1)
        if words and any(said[start : start + len(words)] == words for start in starts):
            return True
    return False


def _words(text: str) -> tuple[str, ...]:
    # NFKC: an accented letter may be written as one character or as two.
    return tuple(re.findall(r"[^\W_]+", unicodedata.normalize("NFKC", text).casefold()))


# ---------------------------------------------------------------------------------------------
# Scores
# ---------------------------------------------------------------------------------------------


def check_pairs(predictions: Sequence, references: Sequence) -> None:
    """Raise ScoringError unless both are lists of the same length, and not empty."""
    for name, values in (("predictions", predictions), ("references", references)):
        if isinstance(values, str) or not hasattr(values, "__len__"):
            raise ScoringError(
                f"The {name} have to be a list with one answer a row, but they are of type "
                f"{type(values).__name__}."
            )
    if len(predictions) != len(references):
        raise ScoringError(
            f"There are {len(predictions)} predictions for {len(references)} references. "
            "Give exactly one prediction for each reference, in the same order."
        )
    if len(references) == 0:
        raise ScoringError(
            "There is nothing to score: the lists of predictions and references are empty. "
            "Check that the split or the filter before this step has left any rows."
        )


def accuracy(predictions: Sequence[str | None], references: Sequence[str]) -> float:
    """Share of predictions that equal their reference, from 0 to 1. None (no answer) is wrong.

    Raises:
        ScoringError: empty lists, lists of unequal length, or a reference that is None.
    """
    check_pairs(predictions, references)
    if any(reference is None for reference in references):
        raise ScoringError("A reference is None. Every row that is scored needs its right answer.")
    return fmean(
        prediction == reference
        for prediction, reference in zip(predictions, references, strict=True)
    )


def macro_f1(
    predictions: Sequence[str | None], references: Sequence[str], labels: Sequence[str]
) -> float:
    """F1 of each label, averaged so that a rare label weighs as much as a common one; 0 to 1.

    F1 is the harmonic mean of precision and recall: 2 * right / (times predicted + times in the
    references). A label that is never predicted rightly has F1 = 0; so has a label that occurs in
    neither list, as in scikit-learn. A prediction outside the labels, such as None, costs the
    recall of the label it missed.

    Raises:
        ScoringError: empty or unequal lists, a label twice, a reference outside the labels.
    """
    check_pairs(predictions, references)
    _check_labels(references, labels)
    right = Counter(p for p, r in zip(predictions, references, strict=True) if p == r)
    predicted = Counter(predictions)
    wanted = Counter(references)
    return fmean(
        2 * right[label] / (predicted[label] + wanted[label]) if right[label] else 0.0
        for label in labels
    )


def confusion(
    predictions: Sequence[str], references: Sequence[str], labels: Sequence[str]
) -> list[list[int]]:
    """Counts of what was said for what was meant.

    Returns:
        A square table, len(labels) by len(labels): row = reference, column = prediction, both in
        the order of the labels. It sums to the number of rows.
    Raises:
        ScoringError: empty or unequal lists, a label twice, a reference or a prediction outside
            the labels (left out, it would make the table look better than the answers are).
    """
    check_pairs(predictions, references)
    _check_labels(references, labels)
    outside = [prediction for prediction in predictions if prediction not in labels]
    if outside:
        raise ScoringError(
            f"{len(outside)} of {len(predictions)} predictions are none of the labels; the first "
            f"is {outside[0]!r}. Replace them by a label of their own, such as 'no answer', and "
            "add it to the labels, so that they stay visible in the table."
        )
    counts = Counter(zip(references, predictions, strict=True))
    return [[counts[reference, prediction] for prediction in labels] for reference in labels]


def _check_labels(references: Sequence[str], labels: Sequence[str]) -> None:
    if len(set(labels)) != len(labels):
        twice = Counter(labels).most_common(1)[0][0]
        raise ScoringError(f"The label {twice!r} stands in the list of labels more than once.")
    unknown = set(references) - set(labels)
    if unknown:
        raise ScoringError(
            f"The reference {min(unknown, key=str)!r} is none of the labels "
            f"({', '.join(map(str, labels))}). Give every label that the references use."
        )


def mean_by_tokens(means: Sequence[float], tokens: Sequence[int]) -> float:
    """Mean loss of a set from the mean losses of its batches, each token weighing the same.

    Args:
        means: mean loss of each batch; whatever it is for a batch without a counted token.
        tokens: how many tokens that mean was taken over.
    Raises:
        ScoringError: lists of unequal length, or not a single token.
    """
    if len(means) != len(tokens) or not any(tokens):
        raise ScoringError(
            f"There are {len(means)} means over {len(tokens)} numbers of tokens, {sum(tokens)} "
            "tokens in all. Give one number for each mean, and at least one token."
        )
    total = sum(mean * count for mean, count in zip(means, tokens, strict=True) if count)
    return total / sum(tokens)


def rouge(prediction: str, reference: str) -> dict[str, float]:
    """Overlap of two texts in words (rouge1), pairs of words (rouge2) and order (rougeL); 0 to 1.

    Each is an F-measure, 2 * shared / (units of the prediction + units of the reference). Shared
    are the words or pairs that both have, each counted as often as both have it, and for rougeL
    the length of the longest common subsequence. Words are runs of a-z and 0-9 in lower case, not
    stemmed: the numbers are those of the rouge-score package with use_stemmer=False. A text
    without any such word scores 0.

    Source: C.-Y. Lin, "ROUGE: A Package for Automatic Evaluation of Summaries", 2004.
    """
    said = re.findall(r"[a-z0-9]+", prediction.lower())
    meant = re.findall(r"[a-z0-9]+", reference.lower())
    said_pairs = list(zip(said, said[1:], strict=False))
    meant_pairs = list(zip(meant, meant[1:], strict=False))
    return {
        "rouge1": _f_measure((Counter(said) & Counter(meant)).total(), said, meant),
        "rouge2": _f_measure(
            (Counter(said_pairs) & Counter(meant_pairs)).total(), said_pairs, meant_pairs
        ),
        "rougeL": _f_measure(_common_subsequence(said, meant), said, meant),
    }


def _f_measure(shared: int, said: list, meant: list) -> float:
    return 2 * shared / (len(said) + len(meant)) if shared else 0.0


def _common_subsequence(first: list[str], second: list[str]) -> int:
    """Length of the longest list of words that stand in both texts in the same order."""
    # best[j]: the answer for the words of `first` so far and the first j words of `second`.
    best = [0] * (len(second) + 1)
    for word in first:
        row = [0]
        for j, other in enumerate(second):
            row.append(best[j] + 1 if word == other else max(best[j + 1], row[j]))
        best = row
    return best[-1]


# ---------------------------------------------------------------------------------------------
# Baselines: what a method without any learning gets
# ---------------------------------------------------------------------------------------------


def majority_label(train_labels: Sequence[str]) -> str:
    """The commonest label; of equally common ones the first in the alphabet.

    Raises:
        ScoringError: no labels.
    """
    if len(train_labels) == 0:
        raise ScoringError("There is no commonest label, because the list of labels is empty.")
    counts = Counter(train_labels)
    return min(counts, key=lambda label: (-counts[label], label))


def lead_words(text: str, k: int) -> str:
    """The first k words of a text (cut at white space), a baseline for summaries.

    Raises:
        ScoringError: k below 1.
    """
    if k < 1:
        raise ScoringError(f"A lead of {k} words was asked for. Ask for 1 or more.")
    return " ".join(text.split()[:k])


# ---------------------------------------------------------------------------------------------
# How far a score can be trusted
# ---------------------------------------------------------------------------------------------


def wilson_interval(correct: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Interval for a share of right answers, from its count alone. Rows have to be independent.

    It holds for few rows and for shares near 0 or 1, where share plus or minus z standard errors
    fails (0 right of 20 would give an interval of no width).

    Returns:
        (low, high), both from 0 to 1.
    Raises:
        ScoringError: no rows, a count outside 0 to total, a confidence outside 0 to 1.
    Source: E. B. Wilson, "Probable inference", JASA 22, 1927.
    """
    _check_confidence(confidence)
    if total < 1 or not 0 <= correct <= total:
        raise ScoringError(
            f"{correct} right answers of {total} is no share. There has to be at least one row, "
            "and the number of right answers lies between 0 and the number of rows."
        )
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = correct / total
    scale = 1 + z * z / total
    middle = (share + z * z / (2 * total)) / scale
    half = z / scale * sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    return max(0.0, middle - half), min(1.0, middle + half)


def bootstrap_interval(
    values: Sequence[Any],
    groups: Sequence[Hashable] | None = None,
    statistic: Callable[[list[Any]], float] = fmean,
    confidence: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """Interval for any score of a list: the middle part of the scores of re-drawn lists.

    Each draw takes as many rows as there are, with replacement, and computes the statistic. Rows
    of one product resemble each other, so they say less than as many independent rows. With
    `groups` a draw takes whole groups, which keeps that resemblance; without it the interval of
    such rows is too narrow.

    The interval is somewhat too narrow for fewer than about 20 groups, and of no width when all
    values are equal: for a share of right answers near 0 or 1 use wilson_interval.

    Args:
        values: one for each row; numbers, or whatever the statistic takes, for instance
            (prediction, reference) pairs.
        groups: the group of each row, for instance its product.
        statistic: computes one number from a list of values; the mean unless told otherwise.
        draws: how many lists are drawn.
    Returns:
        (low, high), in the units of the statistic.
    Raises:
        ScoringError: fewer than two rows or groups, groups of another number than the values, a
            confidence outside 0 to 1, no draws, a statistic that is not a finite number.
    Source: B. Efron, "Bootstrap methods: another look at the jackknife", 1979 (percentiles).
    """
    _check_confidence(confidence)
    if draws < 1:
        raise ScoringError(f"{draws} draws were asked for. Ask for 1 or more; 2000 is usual.")
    units = _units(values, groups)
    generator = random.Random(seed)
    scores = []
    for _ in range(draws):
        drawn = generator.choices(units, k=len(units))
        scores.append(float(statistic([value for unit in drawn for value in unit])))
    if not all(isfinite(score) for score in scores):
        raise ScoringError(
            "The statistic of a re-drawn list is not a finite number, so it has no interval. "
            "Check the values, and that the statistic can do with any mixture of the rows."
        )
    scores.sort()
    tail = (1 - confidence) / 2
    return _quantile(scores, tail), _quantile(scores, 1 - tail)


def _units(values: Sequence[Any], groups: Sequence[Hashable] | None) -> list[list[Any]]:
    """What is drawn as a whole: each value alone, or the values of each group."""
    if groups is None:
        units = [[value] for value in values]
    elif len(groups) != len(values):
        raise ScoringError(
            f"There are {len(groups)} groups for {len(values)} values. "
            "Give the group of each value, in the same order."
        )
    else:
        members = defaultdict(list)
        for value, group in zip(values, groups, strict=True):
            members[group].append(value)
        units = list(members.values())
    if len(units) < 2:
        raise ScoringError(
            f"An interval needs at least two {'rows' if groups is None else 'groups'} to draw "
            f"from, and here are {len(units)}."
        )
    return units


def _quantile(ordered: list[float], share: float) -> float:
    """The value below which that share of the ordered list lies, in between two by a line."""
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ScoringError(
            f"The confidence {confidence} does not lie between 0 and 1. For 95 % write 0.95."
        )


def paired_test(first_correct: Sequence[bool], second_correct: Sequence[bool]) -> float:
    """Could chance alone make two methods differ this much on the same rows?

    Only rows count on which one method is right and the other wrong. Were both equally good, each
    such row would be a fair coin: the result is the probability that so many fair coins fall at
    least as unevenly as here, both ways together. Rows have to be independent.

    Args:
        first_correct, second_correct: for each row, whether that method was right (True or
            False, 1 or 0), in the same order.
    Returns:
        The p-value, above 0 and up to 1; 1.0 when the methods never differ.
    Raises:
        ScoringError: empty or unequal lists, an entry that is neither true nor false.
    Source: Q. McNemar, 1947; the exact form, with the binomial distribution.
    """
    check_pairs(first_correct, second_correct)
    for value in [*first_correct, *second_correct]:
        if value not in (0, 1):
            raise ScoringError(
                f"The paired test takes True or False for each row, whether the answer was right; "
                f"it got {value!r}. Compare the answers with the references first."
            )
    pairs = list(zip(first_correct, second_correct, strict=True))
    only_first = sum(1 for first, second in pairs if first and not second)
    only_second = sum(1 for first, second in pairs if second and not first)
    coins = only_first + only_second
    fewer = min(only_first, only_second)
    return min(1.0, 2 * sum(comb(coins, heads) for heads in range(fewer + 1)) / 2**coins)


# ---------------------------------------------------------------------------------------------
# The same scores through the evaluate library
# ---------------------------------------------------------------------------------------------


def load_metric(name: str) -> "evaluate.Metric":
    """One of the course's metrics (accuracy, macro_f1, rouge) as an object of `evaluate`.

    It is loaded from this repository by its path, never from a hub, so it needs no network and
    does not depend on the working folder. `evaluate` keeps a copy of the script in its cache
    (the environment variable HF_HOME says where).

    Raises:
        ScoringError: a name that is no metric of the course, a cache that cannot be written.
    """
    known = sorted(path.parent.name for path in METRICS.glob("*/*.py"))
    if name not in known:
        raise ScoringError(f"The course has no metric called {name!r}. It has {', '.join(known)}.")
    # evaluate takes seconds to import: only those who ask for a metric wait for it.
    try:
        import evaluate

        # In memory: two notebooks that score at the same time must not share a file.
        return evaluate.load(
            str(METRICS / name / f"{name}.py"), module_type="metric", keep_in_memory=True
        )
    except OSError as error:
        folder = os.environ.get("HF_HOME", "~/.cache/huggingface")
        raise ScoringError(
            f"The metric {name!r} could not be loaded, because its cache in {folder} cannot be "
            f"used ({error}). Make room there, or set HF_HOME to a folder that can be written, "
            "and restart the kernel."
        ) from error
