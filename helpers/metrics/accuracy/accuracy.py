"""Accuracy as a metric of the `evaluate` library."""

import evaluate

from helpers import scoring
from helpers.metrics import base


class Accuracy(base.TextMetric):
    """compute(predictions=..., references=...) gives {"accuracy": 0 to 1}."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Share of the predictions that equal their reference.",
            citation="",
            inputs_description="predictions, references: lists of texts, one a row.",
            features=base.FEATURES,
        )

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, float]:
        return {"accuracy": scoring.accuracy(predictions, references)}
