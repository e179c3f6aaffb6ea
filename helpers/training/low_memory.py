"""Training in little memory, and what else is arranged in a model while it is trained."""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from helpers.machine import give_memory_back
from helpers.training.loss import check_finite, labelled_tokens, loss_sum
from helpers.training.processes import process_count, sum_gradient, total_of
from helpers.training.settings import TrainingError

# So many rows of a matrix are squared at once, so that no second matrix of its size is needed.
SQUARED_AT_ONCE = 4096


class Adafactor(torch.optim.Optimizer):
    """Adafactor with steps as large as the learning rate says, without momentum: it keeps one
    number for each row and column of a matrix.

    The same numbers as transformers' Adafactor(scale_parameter=False, relative_step=False), but
    without temporary tensors of a parameter's size: the update takes the gradient's place, so a
    gradient can be used only once.
    Source: Shazeer and Stern, Adafactor, arXiv 1804.04235.
    """

    def __init__(self, groups: Iterable[dict], lr: float) -> None:
        super().__init__(groups, {"lr": lr, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Update every parameter that has a gradient, and overwrite the gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group["lr"], group["weight_decay"])

    def _update(self, parameter: Tensor, rate: float, decay: float) -> None:
        state, update = self.state[parameter], parameter.grad
        state["step"] = state.get("step", 0) + 1
        kept = 1.0 - state["step"] ** -0.8  # 0 in the first step

        def running_mean(name: str, now: Tensor) -> Tensor:
            before = state.setdefault(name, torch.zeros_like(now))
            return before.mul_(kept).add_(now, alpha=1.0 - kept)

        if parameter.ndim > 1:
            some = torch.empty_like(update[..., :SQUARED_AT_ONCE, :])
            rows, columns = [], 0.0
            for part in update.split(SQUARED_AT_ONCE, -2):
                squares = torch.pow(part, 2, out=some[..., : part.shape[-2], :]).add_(1e-30)
                rows.append(squares.mean(-1))
                columns += squares.sum(-2)
            row = running_mean("exp_avg_sq_row", torch.cat(rows, -1))
            column = running_mean("exp_avg_sq_col", columns / update.shape[-2])
            of_row = (row / row.mean(-1, keepdim=True)).rsqrt_().unsqueeze(-1)
            of_column = column.unsqueeze(-2).rsqrt()
            parts = update.split(SQUARED_AT_ONCE, -2), of_row.split(SQUARED_AT_ONCE, -2)
            for part, of_rows in zip(*parts, strict=True):
                factors = torch.mul(of_rows, of_column, out=some[..., : part.shape[-2], :])
                part.mul_(factors)
        else:
            update.mul_(running_mean("exp_avg_sq", (update**2).add_(1e-30)).rsqrt())
        root_mean_square = update.norm() / update.numel() ** 0.5
        update.div_(root_mean_square.clamp_(min=1.0)).mul_(rate)
        parameter.add_(parameter, alpha=-decay * rate)
        parameter.sub_(update)


@contextmanager
def training_memory(model: PreTrainedModel, low_memory: bool) -> Iterator[None]:
    """Arrange memory for training inside: the numbers stay the same, up to rounding.

    low_memory: of each layer only the input is kept; the backward pass computes the rest again.
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
    # What transformers calls it from 5.2x on, and what it called it before.
    new = hasattr(model, "activation_checkpointing_enable")
    name = "activation_checkpointing" if new else "gradient_checkpointing"
    if recompute:
        getattr(model, f"{name}_enable")({"use_reentrant": False})
    try:
        yield
    finally:
        table.sparse = False
        if recompute:
            getattr(model, f"{name}_disable")()
            model.disable_input_require_grads()  # transformers leaves that hook behind


@contextmanager
def _table_last(model: PreTrainedModel) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Leave the gradient of a table that look-ups and head share out of a backward pass inside.

    It would wait for its second share through the whole pass, as large as the table. Yields a list
    to which the pass appends what went into the head and then what was looked up, each with the
    gradient of what came out: see `_gradient_of_table`.
    """
    table, head = model.get_input_embeddings(), model.get_output_embeddings()
    uses: list[tuple[Tensor, Tensor]] = []

    def note(_: torch.nn.Module, given: tuple[Tensor], found: Tensor) -> None:
        # Detached: the graph would lead back to this hook, and the step's tensors would never go.
        into = given[0].detach()
        found.requires_grad_().register_hook(lambda gradient: uses.append((into, gradient)))

    hooks = [module.register_forward_hook(note) for module in (table, head)]
    table.weight.requires_grad_(False)
    try:
        yield uses
    finally:
        table.weight.requires_grad_()
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def _gradient_of_table(table: torch.nn.Embedding, uses: list[tuple[Tensor, Tensor]]) -> Tensor:
    """The gradient that `_table_last` left out: (vocabulary, hidden size)."""
    (hidden, of_scores), (ids, of_embeddings) = uses
    gradient = of_scores.flatten(0, -2).T @ hidden.flatten(0, -2)
    ids, of_embeddings = ids.flatten(), of_embeddings.flatten(0, -2)
    if table.padding_idx is not None:  # PyTorch gives its look-ups none
        learns = ids != table.padding_idx
        ids, of_embeddings = ids[learns], of_embeddings[learns]
    return gradient.index_add_(0, ids, of_embeddings)


def low_memory_step(
    model: PreTrainedModel, optimizer: torch.optim.Optimizer, batch: dict[str, Tensor]
) -> tuple[float, float]:
    """One optimizer step in little memory. Returns the same as `training_step`.

    A weight is updated within the backward pass, as soon as its gradient is there, and the gradient
    is thrown away; so there is one gradient at a time. (Inside `training_memory`, a table that
    look-ups and head share comes last, after the pass.) The whole gradient's norm is known
    only afterwards, so it cannot be clipped; Adafactor limits each update by itself.
    Source: Lv et al., Full Parameter Fine-tuning for Large Language Models with Limited Resources,
    arXiv 2306.09782.

    Raises TrainingError as `training_step` does. (A gradient that is not finite in spite of a
    finite loss is found in the middle: the error then says that some weights have changed.)
    """
    table, squares = model.get_input_embeddings(), 0.0

    def update(parameter: Tensor) -> None:
        nonlocal squares
        sum_gradient(parameter)
        norm = parameter.grad.norm().item()
        if not math.isfinite(norm):
            raise TrainingError(
                f"A gradient has the norm {norm} although the loss is finite. Some weights have "
                "already changed in this step: load the model again and train with a lower "
                "learning rate."
            )
        squares += norm**2
        optimizer.step()  # step: only this parameter has a gradient
        parameter.grad = None
        if parameter.ndim == 1:  # a norm's weights: there are two in each layer
            give_memory_back()

    (count,) = total_of(int(labelled_tokens(model, batch["labels"]).sum()))
    layers = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
    hooks = [layer.register_forward_hook(lambda *_: give_memory_back()) for layer in layers]
    # Not a table that does more than to look up (Gemma's scales, too).
    shared = table.sparse and type(table) is torch.nn.Embedding
    try:
        with _table_last(model) if shared else nullcontext() as uses:
            summed, _ = loss_sum(model, batch)  # forward
            (total,) = total_of(summed.item())
            check_finite(total, count)
            weights = (p for p in model.parameters() if p.requires_grad)
            hooks += [p.register_post_accumulate_grad_hook(update) for p in weights]
            (summed / count).backward()  # loss, backward; steps happen within it, without clip
        if shared:
            table.weight.grad = _gradient_of_table(table, uses)
            update(table.weight)
    finally:
        for hook in hooks:
            hook.remove()
        optimizer.zero_grad()  # zero
    return total / count, math.sqrt(squares)
