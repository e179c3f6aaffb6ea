"""What a method without any learning gets: the score that a model has to beat."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from helpers.evaluation.metrics import UNSPACED, ScoringError, table_cell

if TYPE_CHECKING:
    from helpers.data.task import Task

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

    Cut at white space; in scripts without spaces, k characters. Raises ScoringError for k below 1.
    """
    if k < 1:
        raise ScoringError(f"A lead of {k} words was asked for. Ask for 1 or more.")
    ends = [piece.end() for piece in _PIECE.finditer(text)]
    return " ".join(text[: ends[min(k, len(ends)) - 1]].split()) if ends else ""


def baseline_predictions(
    task: "Task",
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
