"""The model: fetch and load it, save a new version, describe that, and see what has moved."""

from helpers.model.card import (
    by_layer,
    card_scores,
    differing_tensors,
    model_card,
    relative_change,
    weight_changes,
)
from helpers.model.load import (
    PROVENANCE,
    ModelError,
    load_model,
    prepare_starting_model,
    provenance,
    save_model,
)

__all__ = [
    "PROVENANCE",
    "ModelError",
    "by_layer",
    "card_scores",
    "differing_tensors",
    "load_model",
    "model_card",
    "prepare_starting_model",
    "provenance",
    "relative_change",
    "save_model",
    "weight_changes",
]
