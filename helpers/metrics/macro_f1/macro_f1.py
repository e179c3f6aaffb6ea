"""Macro-averaged F1 as a metric of the `evaluate` library."""

import evaluate

from helpers import scoring
from helpers.metrics import base


class MacroF1(base.TextMetric):
    """compute(predictions=..., references=..., labels=...) gives {"macro_f1": 0 to 1}."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="F1 of each label, averaged so that every label weighs the same.",
            citation="",
            inputs_description=(
                "predictions, references: lists of texts, one a row. "
                "labels: all labels; those that occur in the references unless given."
            ),
            features=base.FEATURES,
        )

    # labels can be left out because evaluate.combine has no way to give them to one metric alone.
    def _compute(
        self,
        predictions: list[str],
        references: list[str],
        labels: list[str] | None = None,
    ) -> dict[str, float]:
        labels = sorted(set(references)) if labels is None else labels
        return {"macro_f1": scoring.macro_f1(predictions, references, labels)}
