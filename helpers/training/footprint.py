"""How much memory a training takes, and for what: predicted, and measured in its own process.

Only in a process of its own is the most memory that it ever had that of the training.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from datasets import Dataset, DatasetDict
from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from helpers.data.tokenize import collate, tokenize
from helpers.errors import CourseError
from helpers.inference.score import predict_answers
from helpers.machine import matrix_speed, peak_memory
from helpers.model.load import load_model
from helpers.profiles import ROOT
from helpers.training.loop import batch_plan, make_optimizer, training_step
from helpers.training.loss import loss_sum
from helpers.training.low_memory import low_memory_step, training_memory
from helpers.training.processes import process_count
from helpers.training.run import train_task
from helpers.training.settings import TrainSettings
from helpers.training.shared_prefix import shared_length

PARTS = ("weights", "gradients", "optimizer state", "activations")
# Of the speed at which a machine multiplies matrices, what whole training steps reach: 0.5 to 0.66
# on the machines of docs/what_we_tried.md. What the process takes without a model, in bytes.
SHARE_OF_SPEED, PROCESS = 0.6, 600_000_000

# What configurations call the width of an MLP; where GPT-2's and others' say None, it is four times
# the hidden size.
WIDTHS = ("intermediate_size", "n_inner", "d_ff", "ffn_dim", "encoder_ffn_dim")


def predicted(
    model: PreTrainedModel, low_memory: bool, rows: int, length: int, shared: int
) -> dict[str, int]:
    """Bytes of each of PARTS that arithmetic alone expects during a step, in 32-bit numbers.

    rows, length: of the batch with its padding; shared: tokens that all rows begin with, which are
    read once.
    The activations are those of a Llama-like layer, as transformers computes it: what the backward
    pass needs of its two norms, its attention and its MLP. Each row has its own copy of the keys
    and values that it attends to, with those of the shared prefix. With a LoRA adapter on all
    matrices of the layers (without low_memory) only the adapter has gradients and optimizer state.
    """
    shapes = [parameter.shape for parameter in model.parameters()]
    count = sum(shape.numel() for shape in shapes)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    config = model.config
    positions = shared + rows * (length - shared)
    found = (getattr(config, name, None) for name in WIDTHS)
    inner = next(filter(None, found), 4 * config.hidden_size)
    layer = (9 * config.hidden_size + 4 * inner) * positions
    layer += 2 * config.hidden_size * (rows * length + shared)
    if not low_memory:  # a gradient and AdamW's two means for each weight that is trained
        if trained < count:  # a frozen norm needs no input of its own for the backward pass
            layer -= 2 * config.hidden_size * positions
        # What the first of an adapter's two matrices gives to the second.
        between = sum(len(p) for name, p in model.named_parameters() if "lora_A" in name)
        kept = config.num_hidden_layers * layer + between * positions
        numbers = (count, trained, 2 * trained, kept)
    else:
        # A number for each row and column of a matrix; one for each weight of a vector.
        state = sum(shape.numel() if len(shape) < 2 else sum(shape) for shape in shapes)
        # What goes into each layer; one layer at a time is computed again.
        kept = config.num_hidden_layers * config.hidden_size * positions + layer
        numbers = (count, max(shape.numel() for shape in shapes), state, kept)
    return {part: 4 * number for part, number in zip(PARTS, numbers, strict=True)}


@dataclass(frozen=True)
class Cost:
    """What a training will take. seconds: of the steps; evaluating: of the evaluations. memory: of
    the whole process, in bytes, at its largest."""

    seconds: float
    evaluating: float
    memory: int

    def __str__(self) -> str:
        minutes = (self.seconds + self.evaluating) / 60
        return (
            f"about {minutes:.1f} minutes ({self.evaluating / 60:.1f} of them for evaluations) and "
            f"{self.memory / 1e9:.1f} GB of memory"
        )


def predicted_cost(
    model: PreTrainedModel,
    train_lengths: Sequence[int],
    validation_lengths: Sequence[int],
    settings: TrainSettings,
    answers: bool,
) -> Cost:
    """What `train` will take here, before anything runs; times are right within a factor of two.

    train_lengths, validation_lengths: tokens of each example. answers: whether each evaluation
    also has the model answer (tasks with choices). The machine's speed is measured for two seconds.

    Arithmetic: 2 operations for each weight and token forward, 4 backward, 2 more where the
    low-memory mode computes activations again; weights that are only looked up do not count.
    Source: Kaplan et al., "Scaling Laws for Neural Language Models", 2020 (section 2.1).
    """
    plan = batch_plan(list(train_lengths), settings)
    weights = model.num_parameters() - model.get_input_embeddings().weight.numel()
    dtype = getattr(torch, settings.precision)
    # Several processes measure at the same time, each what the others leave to it.
    speed = SHARE_OF_SPEED * 1e9 * matrix_speed(2.0, dtype, model.device) * process_count()

    shapes = [(len(rows), max(train_lengths[i] for i in rows)) for rows in plan]
    padded = sum(map(prod, shapes))
    evaluations = settings.epochs * settings.evaluations + 1
    seconds = (8 if settings.low_memory else 6) * weights * padded / speed
    readings = evaluations * (2 if answers else 1)  # for the loss, and for the answers
    evaluating = readings * 2 * weights * sum(validation_lengths) / speed
    parts = predicted(model, settings.low_memory, *max(shapes, key=prod), shared=0)
    return Cost(seconds, evaluating, PROCESS + sum(parts.values()))


def measured(model: PreTrainedModel, batch: dict[str, Tensor], low_memory: bool) -> dict[str, int]:
    """Bytes of each of PARTS at its largest in one real step. The step is taken: weights change.

    batch: as for `per_token_loss`.
    """
    settings = TrainSettings(low_memory=low_memory, precision="float32")
    optimizer, gradients = make_optimizer(model, settings), []

    def count(*_: object) -> None:
        gradients.append(sum(p.grad.nbytes for p in model.parameters() if p.grad is not None))

    optimizer.register_step_pre_hook(count)
    model.train()
    activations = _activations(model, batch, low_memory)
    with training_memory(model, low_memory):
        if low_memory:
            low_memory_step(model, optimizer, batch)
        else:
            training_step(model, optimizer, [batch], settings)
    kept = [value for state in optimizer.state.values() for value in state.values()]
    weights = sum(parameter.nbytes for parameter in model.parameters())
    states = sum(value.nbytes for value in kept if torch.is_tensor(value))
    return dict(zip(PARTS, (weights, max(gradients), states, activations), strict=True))


def _activations(model: PreTrainedModel, batch: dict[str, Tensor], low_memory: bool) -> int:
    """Bytes that the forward pass keeps for the backward pass; weights are not counted."""
    kept: dict[int, Tensor] = {}  # held until all is counted, so that no address comes twice
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

    def note(tensor: Tensor) -> Tensor:
        kept.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    def bytes_of(tensors: Iterable[Tensor]) -> int:
        storages = [tensor.untyped_storage() for tensor in tensors]
        return sum(one.nbytes() for one in storages if one.data_ptr() not in weights)

    layers = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
    inputs: list[Tensor] = []
    hooks = [m.register_forward_pre_hook(lambda _, given: inputs.append(given[0])) for m in layers]
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        summed, _ = loss_sum(model, batch)
    for hook in hooks:
        hook.remove()
    whole = bytes_of(kept.values())
    del summed
    # With checkpointing only each layer's input is kept; one layer at a time is computed again.
    return bytes_of(inputs) + whole // len(layers) if low_memory else whole


def train_apart(
    examples: Mapping[str, Iterable[dict]], low_memory: bool, model: str | None = None
) -> dict:
    """Train a model on these examples in a process of its own, in 32-bit numbers.

    examples: "train" and "validation", as `load_examples` returns them. model: for `load_model`.
    Returns {"before": bytes of memory with everything imported and no model yet, "peak": most bytes
    of the whole training, "tokens_per_second", "predictions": the tuned model's answer to each
    validation row, "shape": rows, length and shared tokens of one more step, on the first eight
    rows, "parts": what `measured` returned for it}.
    Raises CourseError when that process did not come to its end.
    """
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    rows = {name: list(map(_needed, examples[name])) for name in ("train", "validation")}
    done = subprocess.run(
        [sys.executable, "-c", "from helpers.training.footprint import _train_here; _train_here()"],
        input=json.dumps({"examples": rows, "low_memory": low_memory, "name": model}),
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it was ended by the system"])[-1]
        raise CourseError(
            f"The training in a process of its own did not finish: {last}. If the memory "
            "ran out, restart this notebook's kernel and run only the cells that this one needs."
        )
    return json.loads(done.stdout.splitlines()[-1])


def _needed(row: dict) -> dict:
    """What a training needs of a rendered row: other columns may hold what JSON has no form for."""
    names = ("row_id", "prompt", "completion", "answer", "choices")
    return {name: row[name] for name in names if name in row}


def _most_memory() -> int:
    on_gpu = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    return peak_memory() + on_gpu


def _train_here() -> None:
    """What `train_apart` starts: it reads its arguments as JSON and prints its result as JSON."""
    result = {"before": _most_memory()}
    given = json.load(sys.stdin)
    examples, low_memory = given["examples"], given["low_memory"]
    model, tokenizer = load_model(given["name"])
    rows = DatasetDict({part: Dataset.from_list(some) for part, some in examples.items()})
    sets = tokenize(rows, tokenizer, model.config)
    settings = TrainSettings(evaluations=1, precision="float32", low_memory=low_memory)
    with tempfile.TemporaryDirectory() as folder:
        history = train_task(model, tokenizer, rows["validation"], sets, settings, Path(folder))
    result["tokens_per_second"] = history.tokens_per_second
    result["predictions"] = predict_answers(
        model, tokenizer, rows["validation"], batch_size=settings.rows_at_once
    )
    result["peak"] = _most_memory()
    batch = collate(list(sets["train"])[:8], tokenizer.pad_token_id)
    result["shape"] = [*batch["input_ids"].shape, shared_length(batch)]
    result["parts"] = measured(model, batch, low_memory)
    print(json.dumps(result))
