"""Accuracy as a metric of the `evaluate` library."""

from helpers.evaluation import metrics
from helpers.evaluation.evaluate_modules import base


class Accuracy(base.TextMetric):
    """compute(predictions=..., references=...) gives {"accuracy": 0 to 1}."""

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, float]:
        return {"accuracy": metrics.accuracy(predictions, references)}
