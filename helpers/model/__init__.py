"""The model: fetch and load it, save a new version, describe that, and see what has moved."""

from helpers.model.card import (
    by_layer,
    card_metadata,
    card_scores,
    differing_tensors,
    model_card,
    relative_change,
    weight_changes,
)
from helpers.model.export import publish, write_gguf
from helpers.model.load import (
    ModelError,
    affordable_model,
    load_model,
    prepare_starting_model,
    provenance,
    provenance_files,
    save_model,
)
