"""How good are the answers? One score for each row, and the scores of whole lists."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from helpers.data.task import METRICS, MOVED, Task
from helpers.errors import CourseError

if TYPE_CHECKING:
    import evaluate

Rows = Sequence[Mapping[str, Any]]  # what Task.render makes: a Dataset, or a list of its rows
# Scripts written without spaces between words: Thai, Lao, Burmese, Khmer, Japanese, Chinese.
UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0003ffff"
)
# Within a run of letters, digits and marks, all that is not \w is a mark: it goes with its letter.
_WORD = re.compile(rf"[{UNSPACED}]\W*|[^{UNSPACED}]+")


class ScoringError(CourseError):
    """Answers that cannot be scored: none at all, unequal numbers, labels that do not fit."""


def _split_words(text: str) -> list[str]:
    """The words of a text in any script, without case.

    A word is a run of letters and digits with the accents and vowel signs written around them; in
    scripts without spaces, each letter is a word. Spaces, punctuation and "_" only separate.
    For ASCII text: the runs of a-z and 0-9 in lower case, as in the rouge-score package.
    """
    # NFKC: an accented letter may be written as one character or as two, and 2 as ₂.
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    # A mark is neither letter nor digit for Python, but without its marks a word is another one.
    runs = "".join(c if c.isalnum() or unicodedata.category(c)[0] == "M" else " " for c in text)
    return [word for run in runs.split() for word in _WORD.findall(run)]


# ---- free answers


def read_answer(text: str, choices: Sequence[str]) -> str | None:
    """The choice that a free answer begins with, or None.

    The words of the choice have to be the first words of the answer; of two such choices ("home"
    and "home garden") the longer one counts. A choice further on ("It is good") does not count: to
    look for it there would also find it in "not good".

    Raises ScoringError: a choice without a letter or digit, or two choices with the same words.
    """
    by_words = {tuple(_split_words(choice)): choice for choice in choices}
    if () in by_words or len(by_words) < len(choices):
        raise ScoringError(
            f"Of the choices {list(choices)}, one holds no letter and no digit, or two differ "
            "only in case or punctuation. A free answer is compared with their words, so rename "
            "these."
        )
    answer = tuple(_split_words(text))
    begun = [words for words in by_words if answer[: len(words)] == words]
    return by_words[max(begun, key=len)] if begun else None


def holds_answer(text: str, answers: Sequence[str]) -> bool:
    """Whether a free answer holds one of the right ones, anywhere in it, as whole words: "8" is not
    found in "18". Meant for short right answers, and a model that speaks in sentences.
    """
    # Words have no spaces, so one at either end of each makes "8" differ from "18".
    found = f" {' '.join(_split_words(text))} "
    wanted = [" ".join(_split_words(answer)) for answer in answers]
    return any(words and f" {words} " in found for words in wanted)


# ---- scores of lists


def check_pairs(predictions: Sequence, references: Sequence) -> None:
    """Raise ScoringError unless both are lists of the same length, and not empty."""
    for name, values in (("predictions", predictions), ("references", references)):
        if isinstance(values, str) or not hasattr(values, "__len__"):
            raise ScoringError(
                f"The {name} have to be a list with one answer for each row, but they are of type "
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


def _comparable(
    predictions: Sequence, references: Sequence, labels: Sequence | None = None
) -> tuple[list, list]:
    """Both as plain lists, all of texts or all of numbers, so that == means what it seems to."""
    check_pairs(predictions, references)
    # NumPy and PyTorch hold numbers of their own types, and a tensor has no useful hash.
    both = [v.tolist() if hasattr(v, "tolist") else list(v) for v in (predictions, references)]
    if len({isinstance(value, str) for value in [*both[0], *both[1]] if value is not None}) > 1:
        raise ScoringError(
            "These answers mix texts and numbers. A text never equals a number, so such a row "
            "would always count as wrong. Turn all of them into texts with str()."
        )
    unknown = [r for r in both[1] if r is None or (labels is not None and r not in labels)]
    if unknown:
        raise ScoringError(
            f"The reference {unknown[0]!r} is not a label to compare with"
            f"{f': the labels are {list(labels)}' if labels else ''}. Give every label that the "
            "references use, and a reference for every row."
        )
    return both[0], both[1]


def accuracy(predictions: Sequence[str | None], references: Sequence[str]) -> float:
    """Share of predictions that equal their reference, from 0 to 1. None (no answer) is wrong.

    Raises ScoringError: empty or unequal lists, texts beside numbers, a reference that is None.
    """
    pairs = zip(*_comparable(predictions, references), strict=True)
    return fmean(prediction == reference for prediction, reference in pairs)


def macro_f1(
    predictions: Sequence[str | None], references: Sequence[str], labels: Sequence[str]
) -> float:
    """F1 of each label, averaged so that a rare label weighs as much as a common one; 0 to 1.

    F1 is the harmonic mean of precision and recall: 2 * right / (times predicted + times in the
    references). A label that is never predicted rightly has F1 = 0; so has a label that occurs in
    neither list, as in scikit-learn. A prediction outside the labels, such as None, costs the
    recall of the label it missed.

    Raises ScoringError: as accuracy; a reference outside the labels.
    """
    predictions, references = _comparable(predictions, references, labels)
    right = Counter(p for p, r in zip(predictions, references, strict=True) if p == r)
    predicted, wanted = Counter(predictions), Counter(references)
    return fmean(
        2 * right[label] / (predicted[label] + wanted[label]) if right[label] else 0.0
        for label in labels
    )


def rouge(prediction: str, reference: str | Sequence[str]) -> dict[str, float]:
    """Overlap of two texts in words (rouge1), pairs of words (rouge2) and order (rougeL); 0 to 1.

    Each is an F-measure, 2 * shared / (units of the prediction + units of the reference). Shared
    are the words or pairs that both have, each counted as often as both have it, and for rougeL
    the length of the longest common subsequence. Words are those of _split_words, not stemmed. Of
    several references, the best counts, for each of the three by itself.

    Raises ScoringError: no reference, or a prediction or reference that is not a text.
    Source: C.-Y. Lin, "ROUGE: A Package for Automatic Evaluation of Summaries", 2004.
    """
    references = [reference] if isinstance(reference, str) else list(reference)
    if not references or not all(isinstance(text, str) for text in (prediction, *references)):
        raise ScoringError(
            f"ROUGE compares one text with another one, or with a list of texts, and not "
            f"{prediction!r} with {reference!r}."
        )
    ours = _split_words(prediction)
    scores = [_rouge_of(ours, _split_words(text)) for text in references]
    return {name: max(one[name] for one in scores) for name in scores[0]}


def _rouge_of(ours: list[str], theirs: list[str]) -> dict[str, float]:
    def f_measure(shared: int, units: int) -> float:
        return 2 * shared / units if shared else 0.0

    pairs, their_pairs = (Counter(zip(text, text[1:], strict=False)) for text in (ours, theirs))
    words = len(ours) + len(theirs)
    return {
        "rouge1": f_measure((Counter(ours) & Counter(theirs)).total(), words),
        "rouge2": f_measure((pairs & their_pairs).total(), words - 2),
        "rougeL": f_measure(_common_subsequence(ours, theirs), words),
    }


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


# ---- the scores of a task


def table_cell(row: Mapping[str, Any], column: str) -> Any:
    """A cell of the table in a rendered row: a column "answer" of the table is "table_answer" there
    (see Task.render).
    """
    moved = f"table_{column}"
    return row[moved if column in MOVED and moved in row else column]


def right_answers(task: Task, row: Mapping[str, Any]) -> list[str]:
    """The right answers of a rendered row: its answer, and what the cells of the task's reference
    columns hold (each a text or a number, a list of these, or empty).
    """
    cells = [row["answer"], *(table_cell(row, column) for column in task.references)]
    found = [one for cell in cells for one in (cell if isinstance(cell, list) else [cell])]
    texts = ["" if one is None else str(one).strip() for one in found]
    return [text for text in texts if text]


def _pairs(
    task: Task, predictions: Sequence[str | None], examples: Rows
) -> list[tuple[str | None, list[str]]]:
    """Each prediction with the right answers of its row."""
    check_pairs(predictions, examples)
    for prediction in predictions:
        if not isinstance(prediction, str | None):
            raise ScoringError(
                f"The prediction {prediction!r} is not a text. Give the texts of the answers, not "
                "their numbers."
            )
    rights = (right_answers(task, row) for row in examples)
    return list(zip(predictions, rights, strict=True))


def row_scores(task: Task, predictions: Sequence[str | None], examples: Rows) -> list[float]:
    """One number for each row, from 0 to 1, whatever the task: the course's meaning of a score.

    With choices it is 1 for a right answer and 0 for a wrong one, so that its mean is the accuracy;
    for texts it is ROUGE-1. Of several right answers the best fitting one counts. None (no answer)
    scores 0.

    Raises ScoringError: empty or unequal lists, a prediction that is neither a text nor None.
    """
    pairs = _pairs(task, predictions, examples)
    if task.kind == "classification":
        return [float(text in right) for text, right in pairs]
    return [rouge(text or "", right)["rouge1"] for text, right in pairs]


def main_metric(task: Task) -> str:
    """What the mean of row_scores is called: "accuracy" or "ROUGE-1"."""
    return "accuracy" if task.kind == "classification" else "ROUGE-1"


def score_all(task: Task, predictions: Sequence[str | None], examples: Rows) -> dict[str, float]:
    """The metrics that the task's file names, over all rows: {metric: value from 0 to 1}.

    accuracy: share of rows with one of their right answers. macro_f1: over the choices that occur,
    as the right answer or as the one given; it knows one right answer a row. rouge: three means,
    rouge1, rouge2 and rougeL.

    Raises ScoringError: as row_scores.
    """
    pairs = _pairs(task, predictions, examples)
    result = {}
    for name in task.metrics:
        if name == "accuracy":
            result[name] = fmean(text in right for text, right in pairs)
        elif name == "macro_f1":
            answers = [row["answer"] for row in examples]
            there = {*answers, *predictions}
            labels = [one for one in task.choices or sorted({*answers}) if one in there]
            result[name] = macro_f1(predictions, answers, labels)
        else:
            result |= _mean_rouge(pairs)
    return result


def _mean_rouge(pairs: Iterable[tuple[str | None, str | Sequence[str]]]) -> dict[str, float]:
    rows = [rouge(text or "", right) for text, right in pairs]
    return {name: fmean(row[name] for row in rows) for name in rows[0]}


# ---- the same scores through the evaluate library


def load_metric(name: str) -> "evaluate.Metric":
    """One of the course's metrics (accuracy, macro_f1, rouge) as an object of `evaluate`.

    Its compute takes predictions, texts or None, and references, texts; for rouge, a row may have a
    list of references. macro_f1 also takes `labels`: those that occur in the references unless
    given. It needs no network.

    Raises ScoringError: a name that is no metric of the course.
    """
    if name not in METRICS:
        raise ScoringError(
            f"The course has no metric called {name!r}. It has {', '.join(METRICS)}."
        )
    # evaluate takes seconds to import: only those who ask for a metric wait for it.
    import evaluate
    from datasets import Features, Value
    from datasets import Sequence as ListOf

    class CourseMetric(evaluate.Metric):
        def _info(self) -> evaluate.MetricInfo:
            text = Value("string")
            references = [text, ListOf(text)] if name == "rouge" else [text]
            return evaluate.MetricInfo(
                description=f"{name}, as in helpers/evaluation/metrics.py",
                citation="",
                inputs_description="predictions, references: lists of texts, one a row.",
                features=[Features({"predictions": text, "references": r}) for r in references],
            )

        def add_batch(
            self, *, predictions: Sequence = (), references: Sequence = (), **unknown
        ) -> None:
            """Take in rows; compute passes through here as well."""
            check_pairs(predictions, references)
            # `evaluate` cannot take None as a text. No right answer is empty, so "" is wrong, too.
            answers = ["" if prediction is None else prediction for prediction in predictions]
            super().add_batch(predictions=answers, references=list(references), **unknown)

        # labels can be left out because evaluate.combine cannot give them to one metric alone.
        def _compute(
            self, predictions: list[str], references: list, labels: Sequence[str] | None = None
        ) -> dict[str, float]:
            if name == "rouge":
                return _mean_rouge(zip(predictions, references, strict=True))
            if name == "macro_f1":
                labels = sorted({*references}) if labels is None else labels
                return {name: macro_f1(predictions, references, labels)}
            return {name: accuracy(predictions, references)}

    # In memory: two notebooks that score at the same time must not share a file.
    metric = CourseMetric(keep_in_memory=True)
    metric.info.module_name = name
    return metric
