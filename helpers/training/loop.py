"""The training loop: every weight of the model is updated, and nothing is hidden.

One step: forward, loss, backward, clip, step, zero. On a fixed schedule the model is evaluated on
the validation set, its best weights are kept, and a checkpoint is written from which an interrupted
or killed run goes on.
"""

import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from helpers.data.tokenize import IGNORE, check_tokenized, length_grouped_batches
from helpers.machine import give_memory_back
from helpers.training.checkpoint import RunFolder, fingerprint
from helpers.training.loss import (
    Collate,
    Rows,
    autocast,
    check_finite,
    evaluate_loss,
    evaluation_mode,
    labelled_tokens,
    loss_sum,
    to_device,
)
from helpers.training.low_memory import Adafactor, low_memory_step, training_memory
from helpers.training.processes import (
    first_process_first,
    process_index,
    share_of_process,
    sum_gradient,
    total_of,
    wait_for_all,
)
from helpers.training.settings import (
    EvaluationRecord,
    History,
    StepRecord,
    TrainingError,
    TrainSettings,
)


def train(
    model: PreTrainedModel,
    train_set: Rows,
    validation_set: Rows,
    settings: TrainSettings,
    collate: Collate,
    folder: Path,
    score: Callable[[PreTrainedModel], float] | None = None,
    watch: Callable[[History], None] | None = None,
) -> History:
    """Fine-tune all weights of `model` in place; at the end it has the best weights of the run.

    folder: for the best weights and the checkpoint (see checkpoint.py); if a checkpoint of the same
    run is there, the run goes on from it. score: accuracy on validation rows, called at each
    evaluation. watch: called after each step and each evaluation, to draw.

    An interrupt (the stop button of the notebook) ends the run early: the history so far is
    returned and the model has the best weights so far.

    Several processes (see processes.py) make the same run together, each with its part of every
    batch; the first one writes the files. All of them must see the same folder.

    Raises TrainingError for empty sets, a loss that is not finite (it names the rows of that step),
    a folder without space or permission or in use; and what `check_tokenized` raises.
    """
    _check_sets(model, train_set, validation_set)
    plan = batch_plan([len(row["input_ids"]) for row in train_set], settings)
    steps_per_epoch = len(plan) // settings.epochs
    evaluation_steps = _evaluation_steps(len(plan), steps_per_epoch, settings.evaluations)
    run = RunFolder(folder, fingerprint(model, train_set, validation_set, settings))
    optimizer = make_optimizer(model, settings)
    watch = watch or (lambda history: None)

    def evaluate(step: int) -> None:  # `history` is set below, before the first call
        begin = time.perf_counter()
        sizes = settings.rows_at_once, settings.precision
        loss = evaluate_loss(model, validation_set, collate, *sizes)
        with evaluation_mode(model, settings.precision):
            accuracy = score(model) if score else None
        if settings.low_memory:
            give_memory_back()
        seconds = time.perf_counter() - begin
        # Saved before it is noted: an interrupt never leaves a best step without weights.
        if not history.evaluations or loss < history.best.loss:
            run.save_best(model, step)
        history.evaluations.append(EvaluationRecord(step, loss, accuracy, seconds))
        run.save_checkpoint(model, optimizer, history)  # writes only if one is due
        watch(history)

    opened = run.opened(_disk_space(model, settings))
    with opened, training_memory(model, settings.low_memory):
        with first_process_first():
            history = run.resume(model, optimizer) or History(len(plan), steps_per_epoch)
        try:
            if not history.evaluations:
                evaluate(0)
            for step in range(len(history.steps), len(plan)):
                if should_stop_early([e.loss for e in history.evaluations], settings.patience):
                    history.stopped = "patience"
                    break
                begin = time.perf_counter()
                model.train()
                torch.manual_seed(settings.seed + step + 1_000_003 * process_index())  # for dropout
                rate = learning_rate_at(step, len(plan), settings)
                set_learning_rate(optimizer, rate)
                rows = [train_set[index] for index in plan[step]]
                try:
                    loss, norm = update(model, optimizer, rows, settings, collate)
                except TrainingError as error:
                    examples = ", ".join(map(str, plan[step]))
                    raise TrainingError(
                        f"Step {step + 1}, with the training examples at index {examples}: {error}"
                    ) from error
                tokens = sum(len(row["input_ids"]) for row in rows)
                seconds = time.perf_counter() - begin
                history.steps.append(StepRecord(step + 1, loss, rate, norm, tokens, seconds))
                watch(history)
                if step + 1 in evaluation_steps:
                    evaluate(step + 1)
            else:  # no break: it has not stopped early
                history.stopped = "finished"
        except KeyboardInterrupt:
            if not history.evaluations:
                raise
            history.stopped = "interrupted"
            print(
                f"Interrupted after step {len(history.steps)} of {len(plan)}. The history is kept, "
                f"and the model has the best weights so far (step {history.best.step}). To go on, "
                "load the starting model again and train with the same settings."
            )
            run.load_best(model, history)
            model.eval()
        else:  # no interrupt
            wait_for_all()  # the first process has written the best weights
            run.load_best(model, history)
            model.eval()
            wait_for_all()  # all have read them
            run.finish(history)
        watch(history)
    return history


def batch_plan(lengths: list[int], settings: TrainSettings) -> list[list[int]]:
    """The indices of the examples of each step of a run. lengths: tokens of each example."""
    plan = []
    for epoch in range(settings.epochs):
        seed = 1_000_003 * settings.seed + epoch
        plan += length_grouped_batches(lengths, settings.batch_size, seed)
    return plan


def learning_rate_at(step: int, total: int, settings: TrainSettings) -> float:
    """Learning rate of step `step` (from 0): linear warm-up, then half a cosine down to 0.

    The same schedule as transformers' get_cosine_schedule_with_warmup.
    """
    warmup = math.ceil(settings.warmup_ratio * total)
    if step < warmup:
        return settings.learning_rate * step / warmup
    progress = (step - warmup) / max(1, total - warmup)
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Let the next step of the optimizer have this learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def make_optimizer(model: PreTrainedModel, settings: TrainSettings) -> torch.optim.Optimizer:
    """AdamW over every parameter; weight decay pulls on matrices only, as is usual.

    With low_memory it is Adafactor, which keeps one number for each row and column of a matrix
    where AdamW keeps two for each weight.
    Sources: Loshchilov and Hutter, Decoupled Weight Decay Regularization, arXiv 1711.05101; Shazeer
    and Stern, Adafactor, arXiv 1804.04235.
    """
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    if settings.low_memory:
        return Adafactor(groups, lr=settings.learning_rate)
    return torch.optim.AdamW(groups, lr=settings.learning_rate, fused=True)


def training_step(
    model: PreTrainedModel,
    optimizer: torch.optim.Optimizer,
    micro_batches: list[dict[str, Tensor]],
    settings: TrainSettings,
) -> tuple[float, float]:
    """One optimizer step. Returns (loss in nats per labelled token, gradient norm).

    The sum over all micro-batches is divided by all their labelled tokens, so that the gradient is
    that of the big batch, however it was cut.

    Raises TrainingError when no token is labelled, or when the loss or the gradient is not finite;
    the weights are then untouched.
    """
    here = sum(int(labelled_tokens(model, batch["labels"]).sum()) for batch in micro_batches)
    # Counted before any backward pass: each is divided by the count of the whole batch.
    (count,) = total_of(here)
    total = 0.0
    try:
        for batch in micro_batches:
            with autocast(model, settings.precision):
                summed, _ = loss_sum(model, batch)  # forward
            total += summed.item()
            # A count of 0 is refused below, by check_finite, so it must not fail here.
            (summed / max(1, count)).backward()  # loss, backward
        (total,) = total_of(total)
        for parameter in model.parameters():
            sum_gradient(parameter)
        # clip
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), settings.max_grad_norm).item()
        check_finite(total, count, norm)
        optimizer.step()  # step
    finally:  # also after an interrupt: the next step must not add to a part of this one
        optimizer.zero_grad()  # zero
    return total / count, norm


def update(
    model: PreTrainedModel,
    optimizer: torch.optim.Optimizer,
    rows: list[dict],
    settings: TrainSettings,
    collate: Collate,
) -> tuple[float, float]:
    """One step from these rows, as the settings ask for. Returns and raises what `training_step`
    does."""
    # A process for which no row is left takes part with one that has no labelled token.
    rows = share_of_process(rows) or [{**rows[0], "labels": [IGNORE] * len(rows[0]["labels"])}]
    if settings.low_memory:
        return low_memory_step(model, optimizer, to_device(collate(rows), model))
    size = settings.micro_batch_size
    parts = [rows[start : start + size] for start in range(0, len(rows), size)]
    micro_batches = [to_device(collate(part), model) for part in parts]
    return training_step(model, optimizer, micro_batches, settings)


def should_stop_early(losses: list[float], patience: int | None) -> bool:
    """Whether the last `patience` evaluations all failed to beat the best one before them.
    losses: of all evaluations so far. patience: None is endless."""
    if patience is None:
        return False
    return len(losses) - 1 - losses.index(min(losses)) >= patience


def _evaluation_steps(total: int, steps_per_epoch: int, evaluations: int) -> set[int]:
    """The steps after which to evaluate; the last one of each epoch is always among them."""
    every = max(1, steps_per_epoch // evaluations)
    inside = {min(steps_per_epoch, number * every) for number in range(1, evaluations)}
    inside.add(steps_per_epoch)
    return {begin + step for begin in range(0, total, steps_per_epoch) for step in inside}


def _disk_space(model: PreTrainedModel, settings: TrainSettings) -> int:
    """Bytes that the files of a run take at most: two of best weights (the last and the one before)
    and three checkpoints (these two and the one being written)."""
    # A checkpoint has the weights and, with AdamW, two more numbers for each weight.
    copies = 2 + 3 * (1 if settings.low_memory else 3)
    return copies * sum(p.numel() * p.element_size() for p in model.parameters())


def _check_sets(model: PreTrainedModel, train_set: Rows, validation_set: Rows) -> None:
    vocabulary = model.get_input_embeddings().num_embeddings
    for which, rows in (("training", train_set), ("validation", validation_set)):
        if not len(rows):
            raise TrainingError(
                f"The {which} set is empty, so there is nothing to train on or to choose by. Check "
                "the split and the filter that made it."
            )
        check_tokenized(rows, vocabulary, model.config.is_encoder_decoder)
