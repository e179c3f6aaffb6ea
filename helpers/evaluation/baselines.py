"""The scores that a model has to beat: of methods without learning, and of simple learners."""

import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from statistics import fmean

import numpy as np
import pandas

from helpers.data.table import longest_text, share_of_common_words
from helpers.data.task import Task
from helpers.evaluation.metrics import UNSPACED, Rows, ScoringError, table_cell
from helpers.evaluation.uncertainty import groups_of

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


def _first_allowed(ranked: Iterable[str], choices: Sequence[str]) -> str:
    """The first of the answers that the choices allow; the first choice if they allow none."""
    return next((answer for answer in ranked if answer in choices), choices[0])


def _lead_words(text: str, k: int) -> str:
    """The first k words of a text (k from 1); in scripts without spaces, its first k characters."""
    ends = [piece.end() for piece in _PIECE.finditer(text)]
    return " ".join(text[: ends[min(k, len(ends)) - 1]].split()) if ends else ""


def baseline_predictions(task: Task, train_examples: Rows, examples: Rows) -> list[str]:
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
        return [_first_allowed(ranked, row["choices"]) for row in examples]
    shown = sorted(task.wording.shown_fields)
    cells = {field: [table_cell(row, field) for row in train_examples] for field in shown}
    longest = longest_text(pandas.DataFrame(cells), shown)
    if longest is None:
        return [commonest for _ in examples]
    k = max(1, round(fmean(len(_PIECE.findall(answer)) for answer in answers)))
    return [_lead_words(table_cell(row, longest) or "", k) for row in examples]


def _prompt_texts(task: Task, examples: Rows) -> list[str]:
    """What the prompt of the tuned template shows of each row, and nothing else of it.

    So a rival gets the same text as the language model. The columns stand one below the other, in
    alphabetical order; the instruction, which is the same for all rows, is left out.
    """
    fields = sorted(task.wording.shown_fields)
    cells = [[table_cell(row, field) for field in fields] for row in examples]
    return ["\n".join("" if cell is None else str(cell) for cell in row) for row in cells]


def _nearest_answers(task: Task, train_examples: Rows, examples: Rows) -> list[str]:
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


def _linear_answers(task: Task, train_examples: Rows, examples: Rows) -> list[str]:
    """The answers of TF-IDF with logistic regression, for a task with choices.

    N-grams and C are chosen by cross-validation inside the training rows: five folds, each with
    whole groups and about the same share of each answer. The examples have no part in that.
    """
    if len({row["answer"] for row in train_examples}) < 2:  # nothing to learn
        return baseline_predictions(task, train_examples, examples)
    hits = Counter({(next(iter(_GRAMS)), _STRENGTHS[0]): 0})
    for (known, held_out), grams in product(_folds(task, train_examples), _GRAMS):
        answers = _learned_answers(task, known, held_out, grams, _STRENGTHS)
        for strength, said in zip(_STRENGTHS, answers, strict=True):
            pairs = zip(said, held_out, strict=True)
            hits[grams, strength] += sum(answer == row["answer"] for answer, row in pairs)
    (grams, strength), _ = hits.most_common(1)[0]
    return next(_learned_answers(task, train_examples, examples, grams, [strength]))


def _learned_answers(
    task: Task, known: Rows, asked: Rows, grams: str, strengths: Iterable[float]
) -> Iterator[list[str]]:
    """For each strength: the likeliest answer to each row asked, of those that the row allows."""
    # scikit-learn takes seconds to import: only those who ask for this rival wait for it.
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    counter = TfidfVectorizer(sublinear_tf=True, **_GRAMS[grams])
    seen = counter.fit_transform(_prompt_texts(task, known))
    unseen = counter.transform(_prompt_texts(task, asked))
    for strength in strengths:
        learner = LogisticRegression(C=strength, max_iter=1000, tol=1e-3)
        learner.fit(seen, [row["answer"] for row in known])
        order = np.argsort(-learner.predict_proba(unseen), axis=1, kind="stable")
        ranked = learner.classes_[order].tolist()
        pairs = zip(ranked, asked, strict=True)
        yield [_first_allowed(of_row, row["choices"]) for of_row, row in pairs]


def _folds(task: Task, rows: Rows) -> list[tuple[Rows, Rows]]:
    """(rows to learn from, rows to ask), without those folds that leave one answer to learn."""
    from sklearn.model_selection import StratifiedGroupKFold

    answers = [row["answer"] for row in rows]
    groups = groups_of(task, rows) or range(len(rows))
    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    count = min(_FOLDS, len(numbers), max(Counter(answers).values()))
    if count < 2:
        return []
    splitter = StratifiedGroupKFold(count, shuffle=True, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a rare answer is in fewer rows than folds
        parts = list(splitter.split(answers, answers, [numbers[group] for group in groups]))
    folds = [([rows[i] for i in known], [rows[i] for i in held_out]) for known, held_out in parts]
    return [
        (known, held_out)
        for known, held_out in folds
        if held_out and len({row["answer"] for row in known}) > 1
    ]


def rival_answers(task: Task, train_examples: Rows, examples: Rows) -> dict[str, list[str]]:
    """Name of each rival → its answers. All get the same training rows and the same text.

    With choices: the majority label, nearest neighbour, and TF-IDF with logistic regression. For
    free text: the lead words (see baseline_predictions) and nearest neighbour.
    """
    train_examples, examples = list(train_examples), list(examples)
    simple = baseline_predictions(task, train_examples, examples)
    nearest = _nearest_answers(task, train_examples, examples)
    if task.kind != "classification":
        return {"lead words": simple, "nearest neighbour": nearest}
    linear = _linear_answers(task, train_examples, examples)
    return {"majority": simple, "nearest neighbour": nearest, "TF-IDF + regression": linear}
