"""Macro-averaged F1 as a metric of the `evaluate` library."""

from helpers.evaluation import metrics
from helpers.evaluation.evaluate_modules import base


class MacroF1(base.TextMetric):
    """compute(predictions=..., references=..., labels=...) gives {"macro_f1": 0 to 1}.

    labels: all labels; those that occur in the references unless given.
    """

    # labels can be left out because evaluate.combine has no way to give them to one metric alone.
    def _compute(
        self, predictions: list[str], references: list[str], labels: list[str] | None = None
    ) -> dict[str, float]:
        labels = sorted(set(references)) if labels is None else labels
        return {"macro_f1": metrics.macro_f1(predictions, references, labels)}
