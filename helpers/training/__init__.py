"""Train all weights of a model: the loss, the loop, its checkpoints, and what it costs."""

from helpers.training.checkpoint import load_finished
from helpers.training.footprint import PARTS, FootprintError, measured, predicted, train_apart
from helpers.training.loop import (
    batch_plan,
    learning_rate_at,
    make_optimizer,
    set_learning_rate,
    should_stop_early,
    train,
    training_step,
)
from helpers.training.loss import (
    autocast,
    evaluate_loss,
    evaluation_mode,
    loss_of_each,
    loss_sum,
    per_token_loss,
)
from helpers.training.low_memory import low_memory_step, training_memory
from helpers.training.run import TunedModel, load_or_train
from helpers.training.settings import (
    EvaluationRecord,
    History,
    StepRecord,
    TrainingError,
    TrainSettings,
)
from helpers.training.shared_prefix import hidden_states_after_prefix, shared_length

__all__ = [
    "EvaluationRecord",
    "FootprintError",
    "History",
    "PARTS",
    "StepRecord",
    "TrainSettings",
    "TrainingError",
    "TunedModel",
    "autocast",
    "batch_plan",
    "evaluate_loss",
    "evaluation_mode",
    "hidden_states_after_prefix",
    "learning_rate_at",
    "load_finished",
    "load_or_train",
    "loss_of_each",
    "loss_sum",
    "low_memory_step",
    "make_optimizer",
    "measured",
    "per_token_loss",
    "predicted",
    "set_learning_rate",
    "shared_length",
    "should_stop_early",
    "train",
    "train_apart",
    "training_memory",
    "training_step",
]
