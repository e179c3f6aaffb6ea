"""The training loop: every weight of the model is updated, and nothing is hidden.

One step: forward, cross-entropy on the supervised tokens, backward, clip, AdamW. On a fixed
schedule the model is validated, its best weights are kept, and a checkpoint is written from which
an interrupted run goes on.
"""

import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from helpers.encoding import IGNORE, Encoded, batches_by_length, pad_batch
from helpers.errors import CourseError

FINISHED = "history.json"


class TrainingError(CourseError):
    """Settings, data or a disk that training cannot go on with."""


@dataclass(frozen=True)
class TrainSettings:
    """Everything that decides a run, besides the model and the examples.

    epochs: how often each example is seen. batch_size: examples a step; micro_batch: examples that
    go through the model at once (their gradients add up to those of the whole batch).
    learning_rate: the largest of the run; warmup: share of the steps in which it rises.
    weight_decay: how strongly each step pulls the matrices towards zero. clip: largest gradient
    norm. validations: how many an epoch, evenly spaced. patience: stop after so many validations in
    a row without a lower loss; None: never. seed: decides the order of the examples.
    """

    epochs: int = 1
    batch_size: int = 8
    micro_batch: int = 8
    learning_rate: float = 2e-4
    weight_decay: float = 0.01
    warmup: float = 0.1
    clip: float = 1.0
    validations: int = 4
    patience: int | None = None
    seed: int = 0


@dataclass
class StepRecord:
    """One optimizer update. loss: nats per supervised token; tokens: real (unpadded) ones."""

    step: int
    loss: float
    learning_rate: float
    gradient_norm: float
    tokens: int
    seconds: float


@dataclass
class ValidationRecord:
    """One validation, after `step` updates. loss: nats per supervised token."""

    step: int
    loss: float
    accuracy: float | None
    seconds: float


@dataclass
class History:
    """What happened in a run; also what the live picture is drawn from.

    stopped: "running", "finished", "patience" or "interrupted".
    """

    total_steps: int
    steps_per_epoch: int
    steps: list[StepRecord] = field(default_factory=list)
    validations: list[ValidationRecord] = field(default_factory=list)
    stopped: str = "running"

    @property
    def best(self) -> ValidationRecord:
        """The validation with the lowest loss (the first of them if several are equal)."""
        return min(self.validations, key=lambda record: record.loss)

    @property
    def tokens_per_second(self) -> float:
        """Real tokens trained on, per second of training (validations not counted)."""
        seconds = sum(record.seconds for record in self.steps)
        return sum(record.tokens for record in self.steps) / seconds if seconds else 0.0

    @property
    def seconds_left(self) -> float:
        """Rough time to the end, from the mean step and the mean validation so far."""
        if not self.steps:
            return math.nan
        step = sum(record.seconds for record in self.steps) / len(self.steps)
        validation = sum(record.seconds for record in self.validations) / len(self.validations)
        share = len(self.validations) / len(self.steps)
        return (self.total_steps - len(self.steps)) * (step + share * validation)

    def to_json(self) -> str:
        """This history as JSON text."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "History":
        """The history that `to_json` wrote."""
        data = json.loads(text)
        data["steps"] = [StepRecord(**record) for record in data["steps"]]
        data["validations"] = [ValidationRecord(**record) for record in data["validations"]]
        return cls(**data)


def token_losses(model: PreTrainedModel, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Cross-entropy of each supervised token of a batch, and which tokens these are.

    The head, which turns each hidden vector into one score per word of the vocabulary, is applied
    only where a label counts: the same losses as with all scores, for much less work.

    batch: input_ids and labels, each int64 of shape (batch, length), padded on the right.
    Returns (float32 of shape (supervised tokens,) in nats, bool of shape (batch, length - 1) that
    is true at position t when the label at t + 1 counts).
    """
    # No attention mask: a token looks only at those before it, and the padding stands behind all.
    hidden = model.base_model(input_ids=batch["input_ids"], use_cache=False).last_hidden_state
    # The prediction made at position t is for the token at t + 1.
    targets = batch["labels"][:, 1:]
    counts = targets != IGNORE
    logits = model.get_output_embeddings()(hidden[:, :-1][counts])
    return cross_entropy(logits.float(), targets[counts], reduction="none"), counts


def loss_sum(model: PreTrainedModel, batch: dict[str, Tensor]) -> tuple[Tensor, int]:
    """Cross-entropy summed over the supervised tokens of a batch, and how many these are.

    batch: as for `token_losses`. Returns (float32 scalar in nats, count).
    """
    losses, counts = token_losses(model, batch)
    return losses.sum(), int(counts.sum())


def learning_rate_at(step: int, total: int, settings: TrainSettings) -> float:
    """Learning rate of update `step` (from 0): linear warm-up, then half a cosine down to 0.

    The same schedule as transformers' get_cosine_schedule_with_warmup.
    """
    warmup = math.ceil(settings.warmup * total)
    if step < warmup:
        return settings.learning_rate * step / warmup
    progress = (step - warmup) / max(1, total - warmup)
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


def make_optimizer(model: PreTrainedModel, settings: TrainSettings) -> torch.optim.AdamW:
    """AdamW over every parameter; weight decay pulls on matrices only, as is usual.

    Source: Loshchilov and Hutter, Decoupled Weight Decay Regularization, arXiv 1711.05101.
    """
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, fused=True)


def training_step(
    model: PreTrainedModel,
    optimizer: torch.optim.Optimizer,
    micro_batches: list[dict[str, Tensor]],
    clip: float,
) -> tuple[float, float]:
    """One update of every weight. Returns (loss in nats per supervised token, gradient norm).

    The sum over all micro-batches is divided by all their supervised tokens, so that the gradient
    is that of the big batch, however it was cut.

    Raises TrainingError when the loss is not a finite number; the weights are then untouched.
    """
    supervised = sum(int((batch["labels"][:, 1:] != IGNORE).sum()) for batch in micro_batches)
    total = 0.0
    for batch in micro_batches:
        summed, _ = loss_sum(model, batch)
        total += summed.item()
        (summed / supervised).backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
    if not math.isfinite(total) or not torch.isfinite(norm):
        optimizer.zero_grad()
        raise TrainingError(
            f"The loss of this step is {total / supervised} and its gradient norm {norm.item()}: "
            "no update can be made from that, and the weights were left as they are. Try a lower "
            "learning rate, and look at the texts of this batch."
        )
    optimizer.step()
    optimizer.zero_grad()
    return total / supervised, norm.item()


@torch.no_grad()
def mean_loss(
    model: PreTrainedModel, encoded: list[Encoded], pad_id: int, batch_size: int = 16
) -> float:
    """Mean cross-entropy of a set, in nats per supervised token (not a mean of batch means)."""
    model.eval()
    ordered = sorted(encoded, key=lambda one: len(one.input_ids))
    total, supervised = 0.0, 0
    for start in range(0, len(ordered), batch_size):
        batch = _to_device(pad_batch(ordered[start : start + batch_size], pad_id), model)
        summed, count = loss_sum(model, batch)
        total += summed.item()
        supervised += count
    return total / supervised


def train(
    model: PreTrainedModel,
    train_set: list[Encoded],
    validation_set: list[Encoded],
    settings: TrainSettings,
    pad_id: int,
    folder: Path,
    score: Callable[[PreTrainedModel], float] | None = None,
    watch: Callable[[History], None] | None = None,
) -> History:
    """Fine-tune all weights of `model` in place; at the end it has the best weights of the run.

    folder: for best.safetensors (kept) and checkpoint.safetensors (kept until the run is finished).
    If a checkpoint of the same run is there, the run goes on from it.
    score: accuracy on validation rows, called at each validation. watch: called after each step
    and each validation, to draw.

    An interrupt (the stop button of the notebook) ends the run early: the history so far is
    returned and the model has the best weights so far.

    Raises TrainingError for empty sets, settings out of range, a loss that is not finite, or a
    folder without space or permission.
    """
    _check(train_set, validation_set, settings)
    folder = Path(folder)
    _check_space(model, folder)
    plan = [
        batch
        for epoch in range(settings.epochs)
        for batch in batches_by_length(
            [len(one.input_ids) for one in train_set],
            settings.batch_size,
            seed=1_000_003 * settings.seed + epoch,
        )
    ]
    steps_per_epoch = len(plan) // settings.epochs
    optimizer = make_optimizer(model, settings)
    history = History(total_steps=len(plan), steps_per_epoch=steps_per_epoch)
    run = _fingerprint(model, train_set, settings)
    checkpoint, best = folder / "checkpoint.safetensors", folder / "best.safetensors"
    resumed = _resume(model, optimizer, checkpoint, run)
    due = _validation_steps(len(plan), steps_per_epoch, settings.validations)

    def validate(step: int) -> None:
        start = time.perf_counter()
        loss = mean_loss(model, validation_set, pad_id)
        accuracy = score(model) if score else None
        seconds = time.perf_counter() - start
        # Saved before it is noted: an interrupt never leaves a best step without weights.
        if not history.validations or loss < history.best.loss:
            # These weights are no longer those of a run that was finished here before.
            (folder / FINISHED).unlink(missing_ok=True)
            _save(best, dict(model.named_parameters()), {"step": str(step)})
        history.validations.append(ValidationRecord(step, loss, accuracy, seconds))
        _save_checkpoint(checkpoint, model, optimizer, history, run)
        if watch:
            watch(history)

    try:
        if resumed:
            history = resumed
            print(f"Going on from the checkpoint of step {len(history.steps)} in {folder}.")
        else:
            validate(0)
        for step in range(len(history.steps), len(plan)):
            start = time.perf_counter()
            model.train()
            for group in optimizer.param_groups:
                group["lr"] = learning_rate_at(step, len(plan), settings)
            chosen = [train_set[index] for index in plan[step]]
            loss, norm = training_step(
                model, optimizer, _micro_batches(chosen, settings, pad_id, model), settings.clip
            )
            tokens = sum(len(one.input_ids) for one in chosen)
            seconds = time.perf_counter() - start
            rate = optimizer.param_groups[0]["lr"]
            history.steps.append(StepRecord(step + 1, loss, rate, norm, tokens, seconds))
            if watch:
                watch(history)
            if step + 1 in due:
                validate(step + 1)
                losses = [look.loss for look in history.validations]
                if out_of_patience(losses, settings.patience):
                    history.stopped = "patience"
                    break
        else:
            history.stopped = "finished"
    except KeyboardInterrupt:
        history.stopped = "interrupted"
        if not history.validations:
            raise
        print(
            f"Interrupted after step {len(history.steps)} of {len(plan)}. The history is kept, and "
            f"the model has the best weights so far (step {history.best.step}). Train again with "
            "the same settings to go on from the last checkpoint."
        )
    _load_weights(model, load_file(best))
    model.eval()
    if history.stopped != "interrupted":
        _write_finished(folder, run, history)
        checkpoint.unlink(missing_ok=True)
    if watch:
        watch(history)
    return history


def load_finished(
    model: PreTrainedModel, train_set: list[Encoded], settings: TrainSettings, folder: Path
) -> History | None:
    """Give `model` the best weights of a finished run, if `folder` has one with these settings.

    Returns the run's history, or None (and the model unchanged) if there is no such run.
    """
    try:
        kept = json.loads((Path(folder) / FINISHED).read_text(encoding="utf-8"))
        if kept["run"] != _fingerprint(model, train_set, settings):
            return None
        weights = load_file(Path(folder) / "best.safetensors")
        history = History.from_json(kept["history"])
    except (OSError, ValueError, KeyError, TypeError, SafetensorError):
        # Missing or damaged: the same as no run.
        return None
    _load_weights(model, weights)
    return history


def _write_finished(folder: Path, run: str, history: History) -> None:
    part = folder / f"{FINISHED}.part"
    part.write_text(json.dumps({"run": run, "history": history.to_json()}), encoding="utf-8")
    os.replace(part, folder / FINISHED)


def _to_device(batch: dict[str, Tensor], model: PreTrainedModel) -> dict[str, Tensor]:
    return {name: tensor.to(model.device) for name, tensor in batch.items()}


def _micro_batches(
    chosen: list[Encoded], settings: TrainSettings, pad_id: int, model: PreTrainedModel
) -> list[dict[str, Tensor]]:
    size = settings.micro_batch
    return [
        _to_device(pad_batch(chosen[i : i + size], pad_id), model)
        for i in range(0, len(chosen), size)
    ]


def _validation_steps(total: int, steps_per_epoch: int, validations: int) -> set[int]:
    """The updates after which to validate; the last one is always among them."""
    every = max(1, steps_per_epoch // validations)
    epochs = total // steps_per_epoch
    inside = {
        epoch * steps_per_epoch + min(steps_per_epoch, k * every)
        for epoch in range(epochs)
        for k in range(1, validations)
    }
    return inside | {(epoch + 1) * steps_per_epoch for epoch in range(epochs)}


def out_of_patience(losses: list[float], patience: int | None) -> bool:
    """Whether the last `patience` validations all failed to beat the best one before them.

    losses: of all validations so far. patience: None is endless.
    """
    if patience is None:
        return False
    return len(losses) - 1 - losses.index(min(losses)) >= patience


def _check(
    train_set: list[Encoded], validation_set: list[Encoded], settings: TrainSettings
) -> None:
    if not train_set or not validation_set:
        which = "training" if not train_set else "validation"
        raise TrainingError(
            f"The {which} set is empty, so there is nothing to train or to choose by. Check the "
            "split and the filter that made it."
        )
    for name in ("epochs", "batch_size", "micro_batch", "learning_rate", "validations", "clip"):
        if getattr(settings, name) <= 0:
            raise TrainingError(
                f"TrainSettings.{name} is {getattr(settings, name)}; it must be more than 0."
            )


def _check_space(model: PreTrainedModel, folder: Path) -> None:
    """Refuse before training what could not be kept after it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".writable").touch()
        (folder / ".writable").unlink()
    except OSError as error:
        raise TrainingError(
            f"The folder {folder} cannot be written to: {error}. Choose another folder for the "
            "run, or set COURSE_RUNS to one that you may write to. Nothing was trained."
        ) from error
    # best weights, and a checkpoint of weights and two optimizer states that is written anew
    # before the old one goes: 1 + 2 × 3 copies of the model.
    needed = 7 * sum(p.numel() * p.element_size() for p in model.parameters())
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise TrainingError(
            f"The disk of {folder} has {free / 1e9:.1f} GB free, and a run needs up to "
            f"{needed / 1e9:.1f} GB for its checkpoints. Free some space, or set COURSE_RUNS to a "
            "folder on another disk. Nothing was trained."
        )


def _fingerprint(model: PreTrainedModel, train_set: list[Encoded], settings: TrainSettings) -> str:
    """Tells runs apart, so that a checkpoint is never taken for that of another run."""
    facts = [asdict(settings), model.num_parameters(), [asdict(one) for one in train_set]]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _save(path: Path, tensors: dict[str, Tensor], notes: dict[str, str]) -> None:
    """Write a safetensors file under its name only when it is whole."""
    part = path.with_suffix(".part")
    try:
        save_file({k: v.detach().contiguous() for k, v in tensors.items()}, part, metadata=notes)
        os.replace(part, path)
    except (OSError, SafetensorError) as error:
        part.unlink(missing_ok=True)
        raise TrainingError(
            f"{path.name} could not be written to {path.parent}: {error}. What was written there "
            "before is unharmed. Free some space and train again with the same settings: the run "
            "goes on from its last checkpoint."
        ) from error


def _save_checkpoint(
    path: Path,
    model: PreTrainedModel,
    optimizer: torch.optim.Optimizer,
    history: History,
    run: str,
) -> None:
    tensors: dict[str, Tensor] = {"random state": torch.get_rng_state()}
    for name, parameter in model.named_parameters():
        tensors[f"weight {name}"] = parameter
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{key} {name}"] = value
    _save(path, tensors, {"run": run, "history": history.to_json()})


def _resume(
    model: PreTrainedModel, optimizer: torch.optim.Optimizer, path: Path, run: str
) -> History | None:
    """Take up the run of this checkpoint; None if there is none, or it is of another run."""
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            notes = file.metadata() or {}
            if notes.get("run") != run:
                print(f"{path} belongs to a run with other settings; it is not used.")
                return None
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        aside = path.with_suffix(".damaged")
        os.replace(path, aside)
        print(f"{path} is damaged ({error}); it is kept as {aside.name}, and training starts anew.")
        return None
    torch.set_rng_state(tensors.pop("random state"))
    parameters = dict(model.named_parameters())
    weights = {}
    for key, tensor in tensors.items():
        kind, name = key.split(" ", 1)
        if kind == "weight":
            weights[name] = tensor
        else:
            moved = tensor if kind == "step" else tensor.to(model.device)
            optimizer.state[parameters[name]][kind] = moved
    _load_weights(model, weights)
    return History.from_json(notes["history"])


@torch.no_grad()
def _load_weights(model: PreTrainedModel, weights: dict[str, Tensor]) -> None:
    for name, parameter in model.named_parameters():
        parameter.copy_(weights[name])
