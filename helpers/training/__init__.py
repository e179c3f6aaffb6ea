"""Train all weights of a model: the loss, the loop, its checkpoints, and what it costs."""

from helpers.training.checkpoint import load_finished
from helpers.training.footprint import PARTS, measured, predicted, predicted_cost, train_apart
from helpers.training.loop import (
    batch_plan,
    learning_rate_at,
    make_optimizer,
    set_learning_rate,
    should_stop_early,
    train,
    training_step,
    update,
)
from helpers.training.loss import (
    autocast,
    evaluate_loss,
    evaluation_mode,
    loss_of_each,
    loss_sum,
    per_token_loss,
)
from helpers.training.low_memory import training_memory
from helpers.training.processes import (
    join_processes,
    process_index,
    share_of_process,
    total_of,
)
from helpers.training.run import TunedModel, load_or_train, train_task
from helpers.training.settings import EvaluationRecord, History, StepRecord, TrainSettings
from helpers.training.shared_prefix import hidden_states_after_prefix, shared_length
