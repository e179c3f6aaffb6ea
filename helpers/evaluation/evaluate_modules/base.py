"""What the course's metrics have in common as metrics of the `evaluate` library.

The metric scripts import this module and not the class: `evaluate` takes the first metric class
that it finds among the names of a script.
"""

from collections.abc import Sequence

import datasets
import evaluate

from helpers.evaluation.metrics import check_pairs

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

    def add_batch(
        self, *, predictions: Sequence | None = None, references: Sequence | None = None, **unknown
    ) -> None:
        """Take in rows; compute() passes through here as well. A prediction may be None: no answer.

        Raises ScoringError: empty lists, lists of unequal length.
        """
        check_pairs(predictions, references)
        # `evaluate` cannot take None as a text. No right answer is empty, so "" is wrong as well.
        answers = ["" if prediction is None else prediction for prediction in predictions]
        super().add_batch(predictions=answers, references=list(references), **unknown)
