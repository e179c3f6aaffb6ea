"""ROUGE as a metric of the `evaluate` library."""

from statistics import fmean

import evaluate

from helpers import scoring
from helpers.metrics import base


class Rouge(base.TextMetric):
    """compute(predictions=..., references=...) gives rouge1, rouge2 and rougeL, each 0 to 1."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="ROUGE F-measures of each row, averaged over the rows.",
            citation='C.-Y. Lin, "ROUGE: A Package for Automatic Evaluation of Summaries", 2004',
            inputs_description="predictions, references: lists of texts, one a row.",
            features=base.FEATURES,
        )

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, float]:
        rows = [
            scoring.rouge(prediction, reference)
            for prediction, reference in zip(predictions, references, strict=True)
        ]
        return {name: fmean(row[name] for row in rows) for name in rows[0]}
