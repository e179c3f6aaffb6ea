"""What the course's metrics share: a clear error where `evaluate` alone gives an IndexError.

The metric scripts import this module and not the class: `evaluate` takes the first metric class
that it finds among the names of a script.
"""

from collections.abc import Sequence

import datasets
import evaluate

from helpers.evaluation.metrics import ScoringError, check_pairs

_TEXT = datasets.Value("string")
ONE = datasets.Features({"predictions": _TEXT, "references": _TEXT})
SEVERAL = datasets.Features({"predictions": _TEXT, "references": datasets.Sequence(_TEXT)})


class TextMetric(evaluate.Metric):
    """A metric whose predictions and references are texts, one each for every row."""

    takes = ONE  # what it takes in; with SEVERAL, a row may have a list of references

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=type(self).__doc__,
            citation="",
            inputs_description="predictions, references: lists of texts, one a row.",
            features=self.takes,
        )

    def compute(self, *, predictions=None, references=None, **settings) -> dict[str, float]:
        """The scores of all rows given here and added before.

        Raises:
            ScoringError: no rows at all, and as add_batch.
        """
        if predictions is None and references is None and self.writer is None:
            raise ScoringError(
                "There is nothing to score: no rows were given and none were added. Pass "
                "predictions and references, or call add_batch with them first."
            )
        return super().compute(predictions=predictions, references=references, **settings)

    def add(self, *, prediction: str | None = None, reference: str | list | None = None) -> None:
        """Take in one row; see add_batch."""
        self.add_batch(predictions=[prediction], references=[reference])

    def add_batch(
        self, *, predictions: Sequence | None = None, references: Sequence | None = None, **unknown
    ) -> None:
        """Take in rows; add() and compute() pass through here as well.

        Raises:
            ScoringError: empty lists, lists of unequal length, a row that is no text. A
                prediction may be None: no answer.
        """
        check_pairs(predictions, references)
        for name, values in (("prediction", predictions), ("reference", references)):
            for number, value in enumerate(values):
                several = isinstance(value, list) and name == "reference"
                if several and isinstance(self.takes, list):
                    fits = bool(value) and all(isinstance(text, str) for text in value)
                else:
                    fits = isinstance(value, str) or (value is None and name == "prediction")
                if not fits:
                    raise ScoringError(
                        f"The {name} of row {number} is {value!r}, which is no text. "
                        "Give the texts of the answers, not their numbers."
                    )
        # `evaluate` cannot take None as a text. No right answer is empty, so "" is wrong as well.
        answers = ["" if prediction is None else prediction for prediction in predictions]
        super().add_batch(predictions=answers, references=list(references), **unknown)
