"""The training loop: every weight of the model is updated, and nothing is hidden.

One step: forward, cross-entropy on the supervised tokens, backward, clip, AdamW. On a fixed
schedule the model is validated, its best weights are kept, and a checkpoint is written from which
an interrupted or killed run goes on. Where memory is small, each weight is updated as soon as its
gradient is there.
"""

import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel
from transformers.optimization import Adafactor

from helpers.encoding import IGNORE, Encoded, batches_by_length, check_encoded, pad_batch
from helpers.errors import CourseError
from helpers.files import flush_to_disk, set_aside, write_whole
from helpers.machine import give_memory_back, keep_memory, memory_mode, native_precision
from helpers.shared_prefix import hidden_after, shared_length

FINISHED = "history.json"
FOREIGN = "belongs to a run with other settings or examples"
# A checkpoint is due when training has gone on for this many times as long as writing one takes.
TRAINING_PER_WRITING = 10
RANDOM_STATE = "random state"


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

    precision: "float32", or "bfloat16" to multiply with 16-bit numbers (weights, gradients and
    losses stay in 32 bits); by itself what this processor has instructions for.
    memory: "normal", or "small" for less than half of the memory (see `small_step`; precision,
    micro_batch and clip are then not used); by itself "small" where the process may use less than
    4 GB.
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
    precision: str = field(default_factory=native_precision)
    memory: str = field(default_factory=memory_mode)


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
    only where a label counts, and what all rows begin with is read once: the same losses as with
    all scores of all tokens, for much less work.

    batch: input_ids and labels, each int64 of shape (batch, length), padded on the right.
    Returns (float32 of shape (supervised tokens,) in nats, bool of shape (batch, length - 1) that
    is true at position t when the label at t + 1 counts).
    """
    shared = shared_length(batch)
    hidden = hidden_after(model, batch["input_ids"], shared)
    # The prediction made at position t is for the token at t + 1.
    targets = batch["labels"][:, 1:]
    counts = targets != IGNORE
    logits = model.get_output_embeddings()(hidden[:, :-1][counts[:, shared:]])
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


def make_optimizer(model: PreTrainedModel, settings: TrainSettings) -> torch.optim.Optimizer:
    """AdamW over every parameter; weight decay pulls on matrices only, as is usual.

    With memory="small" it is Adafactor, which keeps one number for each row and column of a matrix
    where AdamW keeps two for each weight.
    Sources: Loshchilov and Hutter, Decoupled Weight Decay Regularization, arXiv 1711.05101; Shazeer
    and Stern, Adafactor, arXiv 1804.04235.
    """
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    if settings.memory == "small":
        # Steps as large as the learning rate says, as in AdamW; not relative to each weight.
        absolute = {"scale_parameter": False, "relative_step": False}
        return Adafactor(groups, lr=settings.learning_rate, **absolute)
    return torch.optim.AdamW(groups, lr=settings.learning_rate, fused=True)


def training_step(
    model: PreTrainedModel,
    optimizer: torch.optim.Optimizer,
    micro_batches: list[dict[str, Tensor]],
    clip: float,
    precision: str = "float32",
) -> tuple[float, float]:
    """One update of every weight. Returns (loss in nats per supervised token, gradient norm).

    The sum over all micro-batches is divided by all their supervised tokens, so that the gradient
    is that of the big batch, however it was cut.

    Raises TrainingError when no token is supervised, or when the loss is not a finite number; the
    weights are then untouched.
    """
    supervised = sum(_supervised(batch) for batch in micro_batches)
    total = 0.0
    for batch in micro_batches:
        with torch.autocast(model.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            summed, _ = loss_sum(model, batch)
        total += summed.item()
        (summed / max(1, supervised)).backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
    try:
        _check_finite(total, supervised, norm.item())
    except TrainingError:
        optimizer.zero_grad()
        raise
    optimizer.step()
    optimizer.zero_grad()
    return total / supervised, norm.item()


def small_step(
    model: PreTrainedModel,
    optimizer: torch.optim.Optimizer,
    batch: dict[str, Tensor],
) -> tuple[float, float]:
    """One update of every weight in little memory. Returns the same as `training_step`.

    A weight is updated within the backward pass, as soon as its gradient is there, and the gradient
    is thrown away; so there are never more than a few gradients. The whole gradient's norm is known
    only afterwards, so it cannot be clipped; Adafactor limits each update by itself.
    Source: Lv et al., Full Parameter Fine-tuning for Large Language Models with Limited Resources,
    arXiv 2306.09782.

    Raises TrainingError as `training_step` does. (A gradient that is not finite in spite of a
    finite loss is found in the middle: the error then says that some weights have changed.)
    """
    supervised, squares = _supervised(batch), 0.0

    def update(parameter: Tensor) -> None:
        nonlocal squares
        norm = parameter.grad.norm().item()
        if not math.isfinite(norm):
            raise TrainingError(
                f"A gradient has the norm {norm} in spite of a finite loss. Some weights have "
                "changed in this step already: load the model again and train with a lower "
                "learning rate."
            )
        squares += norm**2
        optimizer.step()  # only this parameter has a gradient
        parameter.grad = None
        if parameter.ndim == 1:  # a norm's weights: there are two in each layer
            give_memory_back()

    hooks = []
    try:
        summed, _ = loss_sum(model, batch)
        _check_finite(summed.item(), supervised)
        hooks = [p.register_post_accumulate_grad_hook(update) for p in model.parameters()]
        (summed / supervised).backward()
    finally:
        for hook in hooks:
            hook.remove()
        optimizer.zero_grad()
    return summed.item() / supervised, math.sqrt(squares)


@contextmanager
def training_memory(model: PreTrainedModel, memory: str) -> Iterator[None]:
    """Arrange memory for training inside: the numbers stay the same, up to rounding.

    "normal": freed memory is kept for the next step. "small": of each layer only the input is
    kept, and the rest is computed again when it is needed.
    Source: Chen et al., Training Deep Nets with Sublinear Memory Cost, arXiv 1604.06174.
    """
    table = model.get_input_embeddings()
    # The gradient of looking tokens up is zero but for the tokens of the batch. Kept sparse, it is
    # added to the one of the head, which has the same weights, without a table full of zeros.
    tied = table.weight is model.get_output_embeddings().weight
    table.sparse = tied and table.weight.device.type == "cpu"
    if memory == "small":
        model.gradient_checkpointing_enable({"use_reentrant": False})
    try:
        with keep_memory() if memory == "normal" else nullcontext():
            yield
    finally:
        table.sparse = False
        if memory == "small":
            model.gradient_checkpointing_disable()
            model.disable_input_require_grads()  # transformers leaves that hook behind


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

    Raises TrainingError for empty sets, settings out of range, a loss that is not finite (it names
    the rows of that step), or a folder without space or permission; EncodingError for examples that
    this model cannot learn from.
    """
    _check(train_set, validation_set, settings)
    for encoded in (train_set, validation_set):
        check_encoded(encoded, model.get_input_embeddings().num_embeddings)
    folder = Path(folder)
    _check_space(model, folder, settings)
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
    resumed = _resume(model, optimizer, checkpoint, best, run)
    # When the last checkpoint was written, and how long that took.
    written, writing = time.perf_counter(), 0.0
    looks = _validation_steps(len(plan), steps_per_epoch, settings.validations)

    def validate(step: int) -> None:
        nonlocal written, writing
        start = time.perf_counter()
        loss = mean_loss(model, validation_set, pad_id)
        accuracy = score(model) if score else None
        seconds = time.perf_counter() - start
        # Saved before it is noted: an interrupt never leaves a best step without weights.
        better = not history.validations or loss < history.best.loss
        if better:
            # These weights are no longer those of a run that was finished here before.
            (folder / FINISHED).unlink(missing_ok=True)
            _save(best, dict(model.named_parameters()), {"run": run, "step": str(step)})
        history.validations.append(ValidationRecord(step, loss, accuracy, seconds))
        # With each new best, so that a checkpoint always finds the best weights that it speaks of;
        # not after the last step, when all is kept anyway.
        start = time.perf_counter()
        due = start - written >= TRAINING_PER_WRITING * writing
        if step < len(plan) and (better or due):
            _save_checkpoint(checkpoint, model, optimizer, history, run)
            written = time.perf_counter()
            writing = written - start
        if watch:
            watch(history)

    with training_memory(model, settings.memory):
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
                try:
                    loss, norm = _step(model, optimizer, chosen, settings, pad_id)
                except TrainingError as error:
                    rows = ", ".join(map(str, plan[step]))
                    raise TrainingError(
                        f"Step {step + 1}, with the training examples at index {rows}: {error}"
                    ) from error
                tokens = sum(len(one.input_ids) for one in chosen)
                seconds = time.perf_counter() - start
                rate = optimizer.param_groups[0]["lr"]
                history.steps.append(StepRecord(step + 1, loss, rate, norm, tokens, seconds))
                if watch:
                    watch(history)
                if step + 1 in looks:
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
                f"Interrupted after step {len(history.steps)} of {len(plan)}. The history is kept, "
                f"and the model has the best weights so far (step {history.best.step}). Train "
                "again with the same settings to go on from the last checkpoint."
            )
    _load_best(model, best, history, run)
    model.eval()
    if history.stopped != "interrupted":
        _finish(folder, run, history)
    if watch:
        watch(history)
    return history


def load_finished(
    model: PreTrainedModel, train_set: list[Encoded], settings: TrainSettings, folder: Path
) -> History | None:
    """Give `model` the best weights of a finished run, if `folder` has one with these settings.

    Returns the run's history, or None (and the model unchanged) if there is no such run. A damaged
    file is kept aside, which is printed.
    """
    finished = Path(folder) / FINISHED
    try:
        kept = json.loads(finished.read_text(encoding="utf-8"))
        if kept["sha256"] != _history_digest(kept["run"], kept["history"]):
            raise ValueError("its content does not have the hash that was noted")
        if kept["run"] != _fingerprint(model, train_set, settings):
            return None
        history = History.from_json(kept["history"])
    except OSError:  # no such run
        return None
    except (ValueError, KeyError, TypeError) as error:
        _keep_aside(finished, f"is damaged ({error})")
        return None
    try:
        _load_best(model, Path(folder) / "best.safetensors", history, kept["run"])
    except TrainingError:
        return None
    return history


def _supervised(batch: dict[str, Tensor]) -> int:
    return int((batch["labels"][:, 1:] != IGNORE).sum())


def _check_finite(total: float, supervised: int, norm: float = 0.0) -> None:
    if not supervised:
        raise TrainingError(
            "No token of this batch has a label that counts, so it has no loss. Look for "
            "completions that were cut off or masked."
        )
    if not math.isfinite(total) or not math.isfinite(norm):
        raise TrainingError(
            f"The loss of this step is {total / supervised} and its gradient norm {norm}: no "
            "update can be made from that, and the weights were left as they are. Try a lower "
            "learning rate, and look at the texts of this batch."
        )


def _to_device(batch: dict[str, Tensor], model: PreTrainedModel) -> dict[str, Tensor]:
    return {name: tensor.to(model.device) for name, tensor in batch.items()}


def _step(
    model: PreTrainedModel,
    optimizer: torch.optim.Optimizer,
    chosen: list[Encoded],
    settings: TrainSettings,
    pad_id: int,
) -> tuple[float, float]:
    """One update from these examples, in the way that the settings ask for."""
    if settings.memory == "small":
        batch = _to_device(pad_batch(chosen, pad_id), model)
        return small_step(model, optimizer, batch)
    parts = _micro_batches(chosen, settings, pad_id, model)
    return training_step(model, optimizer, parts, settings.clip, settings.precision)


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
        if not 0 < getattr(settings, name) < math.inf:
            raise TrainingError(
                f"TrainSettings.{name} is {getattr(settings, name)}; it must be a number more than "
                "0."
            )
    for name, known in (("precision", ("float32", "bfloat16")), ("memory", ("normal", "small"))):
        if getattr(settings, name) not in known:
            raise TrainingError(
                f"TrainSettings.{name} is {getattr(settings, name)!r}; it can be "
                f"{' or '.join(map(repr, known))}."
            )


def _check_space(model: PreTrainedModel, folder: Path, settings: TrainSettings) -> None:
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
    # Best weights and checkpoint, each with the one before it and a new one being written. A
    # checkpoint has the weights, and of AdamW two numbers more for each.
    copies = 2 + 3 * (1 if settings.memory == "small" else 3)
    needed = copies * sum(p.numel() * p.element_size() for p in model.parameters())
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


def _previous(path: Path) -> Path:
    """Where the file that was written before this one is kept."""
    return path.with_suffix(".previous.safetensors")


def _save(path: Path, tensors: dict[str, Tensor], notes: dict[str, str]) -> None:
    """Write a safetensors file under its name only when it is whole, with a hash of all in it.

    It is flushed to the disk before it takes the name, and the file that had the name before is
    kept as the previous one.
    """
    part = path.with_suffix(".part")
    tensors = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    try:
        hashed = _digest(sorted(tensors.items()), notes)
        save_file(tensors, part, metadata={**notes, "sha256": hashed})
        flush_to_disk(part)
        if path.exists():
            os.replace(path, _previous(path))
        os.replace(part, path)
        flush_to_disk(path.parent)
    except (OSError, SafetensorError) as error:
        part.unlink(missing_ok=True)
        raise TrainingError(
            f"{path.name} could not be written to {path.parent}: {error}. What was written there "
            "before is unharmed. Free some space and train again with the same settings: the run "
            "goes on from its last checkpoint."
        ) from error


def _digest(tensors: Iterable[tuple[str, Tensor]], notes: dict[str, str]) -> str:
    """SHA-256 of notes, names, shapes, kinds of number and bytes; names in alphabetical order."""
    digest = hashlib.sha256(json.dumps(notes, sort_keys=True).encode())
    for name, tensor in tensors:
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.cpu().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _tensors(path: Path) -> Iterator[tuple[str, Tensor]]:
    """Names and tensors of a safetensors file, in alphabetical order.

    The file is opened anew for each, so that no more of it is in memory than one tensor.
    """
    with safe_open(path, framework="pt") as file:
        names = sorted(file.keys())
    for name in names:
        with safe_open(path, framework="pt") as file:
            yield name, file.get_tensor(name)


def _read_notes(path: Path) -> dict[str, str] | None:
    """The notes of a file that `_save` wrote and that is as it was written; None if there is none.

    A damaged file, or one of something else, is kept aside under another name, which is printed.
    """
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            notes = dict(file.metadata() or {})
        hashed = notes.pop("sha256", None)
        if hashed is None:
            _keep_aside(path, "was not written by this course")
        elif hashed != _digest(_tensors(path), notes):
            _keep_aside(path, "is damaged (its content does not have the hash that was noted)")
        else:
            return notes
    except (SafetensorError, OSError) as error:
        _keep_aside(path, f"is damaged ({error})")
    return None


def _keep_aside(path: Path, why: str) -> None:
    print(f"{path} {why}; it is not used, and kept as {set_aside(path).name}.")


def _save_checkpoint(
    path: Path,
    model: PreTrainedModel,
    optimizer: torch.optim.Optimizer,
    history: History,
    run: str,
) -> None:
    tensors: dict[str, Tensor] = {RANDOM_STATE: torch.get_rng_state()}
    for name, parameter in model.named_parameters():
        tensors[f"weight {name}"] = parameter
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{key} {name}"] = torch.as_tensor(value)
    _save(path, tensors, {"run": run, "history": history.to_json()})


def _resume(
    model: PreTrainedModel,
    optimizer: torch.optim.Optimizer,
    checkpoint: Path,
    best: Path,
    run: str,
) -> History | None:
    """Take up the run of the last checkpoint that can be used; None if there is none."""
    for path in (checkpoint, _previous(checkpoint)):
        notes = _read_notes(path)
        if notes is None:
            continue
        if notes.get("run") != run:
            _keep_aside(path, FOREIGN)
            continue
        history = History.from_json(notes["history"])
        if not _find_best(best, history, run):
            _keep_aside(path, f"has lost its best weights, those of step {history.best.step}")
            continue
        _take_up(model, optimizer, path)
        return history
    return None


def _find_best(best: Path, history: History, run: str) -> bool:
    """Whether the best weights of this history are there, whole; they then have their name.

    A kill or an interrupt may have put newer ones on top of them.
    """
    for path in (best, _previous(best)):
        notes = _read_notes(path)
        if notes is not None and notes.get("run") != run:
            _keep_aside(path, FOREIGN)
        elif notes is not None and notes["step"] == str(history.best.step):
            if path != best:
                os.replace(path, best)
            return True
    return False


@torch.no_grad()
def _take_up(model: PreTrainedModel, optimizer: torch.optim.Optimizer, path: Path) -> None:
    """Set weights, optimizer and random state as this checkpoint has them."""
    parameters = dict(model.named_parameters())
    for key, tensor in _tensors(path):
        kind, _, name = key.partition(" ")
        if key == RANDOM_STATE:
            torch.set_rng_state(tensor)
        elif kind == "weight":
            parameters[name].copy_(tensor)
        else:
            moved = tensor if kind == "step" else tensor.to(model.device)
            optimizer.state[parameters[name]][kind] = moved.clone()


@torch.no_grad()
def _load_best(model: PreTrainedModel, best: Path, history: History, run: str) -> None:
    if not _find_best(best, history, run):
        raise TrainingError(
            f"The best weights of this run, those of step {history.best.step}, are not in {best} "
            "any more. Load the starting model again and train anew."
        )
    parameters = dict(model.named_parameters())
    for name, tensor in _tensors(best):
        parameters[name].copy_(tensor)


def _finish(folder: Path, run: str, history: History) -> None:
    """Note that the run is finished; what was only kept to go on from is then not needed."""
    text = history.to_json()
    kept = {"run": run, "history": text, "sha256": _history_digest(run, text)}
    write_whole(folder / FINISHED, json.dumps(kept))
    checkpoint, best = folder / "checkpoint.safetensors", folder / "best.safetensors"
    # The best weights before the last ones go last: a checkpoint may still need them.
    for path in (_previous(checkpoint), checkpoint, _previous(best)):
        path.unlink(missing_ok=True)


def _history_digest(run: str, history: str) -> str:
    return hashlib.sha256(f"{run} {history}".encode()).hexdigest()
