"""Training in little memory, and what else is arranged in a model while it is trained."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from transformers import PreTrainedModel

from helpers.machine import give_memory_back
from helpers.training.loss import check_finite, labelled_tokens, loss_sum
from helpers.training.processes import process_count, sum_gradient, total_of
from helpers.training.settings import TrainingError


@contextmanager
def training_memory(model: PreTrainedModel, low_memory: bool) -> Iterator[None]:
    """Arrange memory for training inside: the numbers stay the same, up to rounding.

    low_memory: of each layer only the input is kept, and the rest is computed again when the
    backward pass needs it.
    Source: Chen et al., Training Deep Nets with Sublinear Memory Cost, arXiv 1604.06174.
    """
    table = model.get_input_embeddings()
    # The gradient of looking tokens up is zero but for the tokens of the batch. Kept sparse, it is
    # added to the one of the head, which has the same weights, without a table full of zeros.
    tied = table.weight is model.get_output_embeddings().weight
    decoder_only = not model.config.is_encoder_decoder
    # (Sparse ones cannot be summed over processes.)
    alone = process_count() == 1
    table.sparse = tied and decoder_only and alone and table.weight.device.type == "cpu"
    recompute = low_memory and model.supports_gradient_checkpointing
    if recompute:
        _recompute(model, "enable", {"use_reentrant": False})
    try:
        yield
    finally:
        table.sparse = False
        if recompute:
            _recompute(model, "disable")
            model.disable_input_require_grads()  # transformers leaves that hook behind


def _recompute(model: PreTrainedModel, what: str, *how: dict) -> None:
    """transformers' activation checkpointing, which has a new name from 5.2x on."""
    name = f"activation_checkpointing_{what}"
    if not hasattr(model, name):
        name = f"gradient_checkpointing_{what}"
    getattr(model, name)(*how)


def low_memory_step(
    model: PreTrainedModel, optimizer: torch.optim.Optimizer, batch: dict[str, Tensor]
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
    squares = 0.0

    def update(parameter: Tensor) -> None:
        nonlocal squares
        sum_gradient(parameter)
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
    (count,) = total_of(int(labelled_tokens(model, batch["labels"]).sum()))
    try:
        summed, _ = loss_sum(model, batch)
        (total,) = total_of(summed.item())
        check_finite(total, count)
        hooks = [p.register_post_accumulate_grad_hook(update) for p in model.parameters()]
        (summed / count).backward()
    finally:
        for hook in hooks:
            hook.remove()
        optimizer.zero_grad()
    return total / count, math.sqrt(squares)
