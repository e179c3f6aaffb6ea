"""The scores that a model has to beat: of methods without learning, and of simple learners."""

import operator
import re
import warnings
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from itertools import product
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np

from helpers.data.table import share_of_common_words
from helpers.data.task import Task
from helpers.evaluation.metrics import UNSPACED, ScoringError, table_cell
from helpers.evaluation.uncertainty import groups_of

if TYPE_CHECKING:
    from scipy.sparse import spmatrix
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

# What TF-IDF may count, and how freely the logistic regression may fit the training rows (C).
# In scikit-learn's own pattern a word has two characters or more; in Chinese, many have one.
_GRAMS = {
    "single words": {"token_pattern": r"\w+"},
    "words and word pairs": {"token_pattern": r"\w+", "ngram_range": (1, 2)},
    "pieces of 2 to 5 characters": {"analyzer": "char_wb", "ngram_range": (2, 5)},
}
_STRENGTHS = (1.0, 10.0, 100.0)
_FOLDS = 5

# What stands between white space; in scripts without spaces, each character with its marks.
_PIECE = re.compile(rf"[{UNSPACED}][^\w\s]*|[^\s{UNSPACED}]+")


def majority_label(train_labels: Sequence[str]) -> str:
    """The commonest label; of equally common ones the first in the alphabet.

    Raises ScoringError when there are no labels.
    """
    if len(train_labels) == 0:
        raise ScoringError("There is no commonest label, because the list of labels is empty.")
    return _by_frequency(train_labels)[0]


def _by_frequency(labels: Iterable[str]) -> list[str]:
    counts = Counter(labels)
    return sorted(counts, key=lambda label: (-counts[label], label))


def _lead_words(text: str, k: int) -> str:
    """The first k words of a text, a baseline for summaries.

    k: from 1. Cut at white space; in scripts without spaces, k characters.
    """
    ends = [piece.end() for piece in _PIECE.finditer(text)]
    return " ".join(text[: ends[min(k, len(ends)) - 1]].split()) if ends else ""


def baseline_predictions(
    task: Task,
    train_examples: Iterable[Mapping[str, Any]],
    examples: Iterable[Mapping[str, Any]],
) -> list[str]:
    """Answers from the training rows alone, one for each example.

    With choices: the commonest training answer (of those that the row allows). For texts: the
    first words of the column that holds the longest texts, among those that the prompt shows; as
    many as a training answer has on average. Without such a column, the commonest answer.

    Raises ScoringError when there are no training rows.
    """
    train_examples = list(train_examples)
    answers = [row["answer"] for row in train_examples]
    commonest = majority_label(answers)
    if task.kind == "classification":
        ranked = _by_frequency(answers)
        return [
            next((label for label in ranked if label in row["choices"]), row["choices"][0])
            for row in examples
        ]
    texts = {}
    for field in sorted(task.wording.prompt_fields):
        cells = [table_cell(row, field) or "" for row in train_examples]
        if all(isinstance(cell, str) for cell in cells):
            texts[field] = sum(map(len, cells))
    if not texts:
        return [commonest for _ in examples]
    longest = max(texts, key=texts.__getitem__)
    k = max(1, round(fmean(len(_PIECE.findall(answer)) for answer in answers)))
    return [_lead_words(table_cell(row, longest) or "", k) for row in examples]


def _prompt_texts(task: Task, examples: Iterable[Mapping[str, Any]]) -> list[str]:
    """What the prompt of the tuned template shows of each row, and nothing else of it.

    So a rival gets the same text as the language model. The columns stand one below the other, in
    alphabetical order; the instruction, which is the same for all rows, is left out.
    """
    fields = sorted(task.wording.prompt_fields)
    return ["\n".join(str(table_cell(row, field) or "") for field in fields) for row in examples]


def _nearest_answers(
    task: Task, train_examples: Sequence[Mapping[str, Any]], examples: Sequence[Mapping[str, Any]]
) -> list[str]:
    """For each example, the answer of the training row that has most words in common with it.

    Nearest neighbour (1-NN), with the Dice coefficient of the words; of equally similar rows the
    first. With choices, only training rows whose answer the example allows are asked.
    """
    answers = [row["answer"] for row in train_examples]
    known = list(zip(_prompt_texts(task, train_examples), answers, strict=True))
    found = []
    for text, row in zip(_prompt_texts(task, examples), examples, strict=True):
        allowed = row.get("choices") or answers
        near = max(
            (pair for pair in known if pair[1] in allowed),
            key=lambda pair: share_of_common_words(text, pair[0]),
            default=("", allowed[0]),
        )
        found.append(near[1])
    return found


def _linear_answers(
    task: Task, train_examples: Sequence[Mapping[str, Any]], examples: Sequence[Mapping[str, Any]]
) -> list[str]:
    """The answers of TF-IDF with logistic regression, for a task with choices.

    N-grams and C are chosen by cross-validation inside the training rows: five folds, each with
    whole groups and about the same share of each answer. The examples have no part in that. Each
    example gets the likeliest of its own choices.

    Source: scikit-learn's TfidfVectorizer, LogisticRegression and StratifiedGroupKFold.
    """
    answers = [row["answer"] for row in train_examples]
    texts, asked = _prompt_texts(task, train_examples), _prompt_texts(task, examples)
    allowed = [row["choices"] for row in examples]
    if len(set(answers)) < 2:  # nothing to learn
        return [majority_label(answers) if answers[0] in some else some[0] for some in allowed]
    groups = groups_of(task, train_examples) or range(len(answers))
    choices = [row["choices"] for row in train_examples]
    folds = _folds(answers, list(groups))
    hits: Counter[tuple[str, float]] = Counter({(next(iter(_GRAMS)), _STRENGTHS[0]): 0})
    for (known, held_out), grams in product(folds, _GRAMS):
        counter = _counter(grams)
        seen = counter.fit_transform(_at(texts, known))
        unseen = counter.transform(_at(texts, held_out))
        for strength in _STRENGTHS:
            learner = _regression(strength).fit(seen, _at(answers, known))
            said = _likeliest(learner, unseen, _at(choices, held_out))
            right = map(operator.eq, said, _at(answers, held_out))
            hits[grams, strength] += sum(right)
    (grams, strength), _ = hits.most_common(1)[0]
    counter = _counter(grams)
    learner = _regression(strength).fit(counter.fit_transform(texts), answers)
    return _likeliest(learner, counter.transform(asked), allowed)


def rival_answers(
    task: Task, train_examples: Sequence[Mapping[str, Any]], examples: Sequence[Mapping[str, Any]]
) -> dict[str, list[str]]:
    """Name of each rival → its answers. All get the same training rows and the same text.

    With choices: the majority label, nearest neighbour, and TF-IDF with logistic regression. For
    free text: the lead words (see baseline_predictions) and nearest neighbour.
    Raises ScoringError when there are no training rows.
    """
    train_examples, examples = list(train_examples), list(examples)
    simple = baseline_predictions(task, train_examples, examples)
    nearest = _nearest_answers(task, train_examples, examples)
    if task.kind != "classification":
        return {"lead words": simple, "nearest neighbour": nearest}
    linear = _linear_answers(task, train_examples, examples)
    return {"majority": simple, "nearest neighbour": nearest, "TF-IDF + regression": linear}


def _counter(grams: str) -> "TfidfVectorizer":
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(sublinear_tf=True, **_GRAMS[grams])


def _regression(strength: float) -> "LogisticRegression":
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=strength, max_iter=1000, tol=1e-3)


def _folds(answers: list[str], groups: list[Hashable]) -> list[tuple[list[int], list[int]]]:
    """(rows to learn from, rows to ask), without those folds that leave one answer to learn."""
    from sklearn.model_selection import StratifiedGroupKFold

    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    count = min(_FOLDS, len(numbers), max(Counter(answers).values()))
    if count < 2:
        return []
    splitter = StratifiedGroupKFold(count, shuffle=True, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a rare answer is in fewer rows than folds
        parts = list(splitter.split(answers, answers, [numbers[group] for group in groups]))
    folds = [(known.tolist(), held_out.tolist()) for known, held_out in parts]
    return [fold for fold in folds if len({*_at(answers, fold[0])}) > 1 and fold[1]]


def _at(values: list, rows: list[int]) -> list:
    return [values[row] for row in rows]


def _likeliest(
    learner: "LogisticRegression", counts: "spmatrix", allowed: list[Sequence[str]]
) -> list[str]:
    """The likeliest answer that each row allows; its first choice where none was ever seen."""
    ranked = np.argsort(-learner.predict_proba(counts), axis=1, kind="stable")
    return [
        next((answer for answer in order if answer in some), some[0])
        for order, some in zip(learner.classes_[ranked].tolist(), allowed, strict=True)
    ]
