"""ROUGE as a metric of the `evaluate` library."""

from statistics import fmean

from helpers.evaluation import metrics
from helpers.evaluation.evaluate_modules import base


class Rouge(base.TextMetric):
    """compute(predictions=..., references=...) gives rouge1, rouge2 and rougeL: means, 0 to 1.

    references: one text a row, or a list of several, of which the best counts.
    """

    takes = [base.ONE, base.SEVERAL]

    def _compute(self, predictions: list[str], references: list) -> dict[str, float]:
        rows = [metrics.rouge(p, r) for p, r in zip(predictions, references, strict=True)]
        return {name: fmean(row[name] for row in rows) for name in rows[0]}
