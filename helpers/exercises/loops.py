"""The training loop as an exercise: with gaps in notebook 05, from memory in notebook 09."""

import inspect
from collections.abc import Callable

import torch
from torch import Tensor

from helpers.exercises.exercise import Exercise, altered, same_value, wrong_answers


def train_loop(model, optimizer, batches: list, loss_of) -> list[float]:
    """One step for each batch; returns the losses as Python numbers."""
    losses = []
    for batch in batches:
        loss = loss_of(model, batch)  # forward, loss
        loss.backward()  # backward
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)  # clip
        optimizer.step()  # step
        optimizer.zero_grad()  # zero
        losses.append(loss.item())
    return losses


def _judge_loop(attempt: Callable) -> str | None:
    def run(loop: Callable) -> tuple[list[float], Tensor, int]:
        torch.manual_seed(0)
        model, backwards = torch.nn.Linear(3, 1), []
        model.weight.register_hook(lambda gradient: backwards.append(gradient))
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
        numbers = torch.Generator().manual_seed(1)
        batches = [torch.randn(4, 3, generator=numbers) for _ in range(6)]
        losses = loop(model, optimizer, batches, lambda net, x: 9 * (net(x) - 2).pow(2).mean())
        return losses, model.weight.detach(), len(backwards)

    with torch.random.fork_rng(devices=[]):
        expected, weights, _ = run(train_loop)
        losses, moved, backwards = run(attempt)
    if backwards != 6:
        return f"for six batches, gradients were computed {backwards} times"
    if not isinstance(losses, list) or len(losses) != len(expected):
        return f"for six batches it gives {losses!r}, expected a list of six losses"
    if not all(isinstance(loss, int | float) for loss in losses):
        return "the losses are no Python numbers; expected loss.item(), with its parentheses"
    if same_value(losses, expected) and same_value(moved, weights):
        return None
    given, wanted = (", ".join(f"{loss:.3f}" for loss in row) for row in (losses, expected))
    return f"the losses are {given}; expected {wanted}"


_BACKWARD, _STEP, _ZERO = "loss.backward()", "optimizer.step()", "optimizer.zero_grad()"
_CLIP = "torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)"
# In both exercises.
_LINE_MISSING = (
    altered(train_loop, {_BACKWARD: ""}),
    "No gradient is ever computed, so the optimizer has nothing to follow: backward is missing, or "
    "its parentheses are.",
    altered(train_loop, {_STEP: ""}),
    "No weight moves: step is missing, or it comes after zero, which throws the gradients away.",
    altered(train_loop, {_ZERO: ""}),
    "The gradients of all batches pile up: zero is missing.",
)


TRAIN_LOOP = Exercise(
    name="train_loop",
    notebook="09_bug_museum",
    title="The loop, from memory",
    minutes=8,
    difficulty=2,
    judge=_judge_loop,
    answer="import torch\n\n\n" + inspect.getsource(train_loop),
    mistakes=wrong_answers(
        *_LINE_MISSING,
        altered(train_loop, {_CLIP: ""}),
        "clip is missing or in the wrong place: the step uses a gradient that is not clipped. "
        "Clip after backward and before the step; afterwards is too late.",
        lambda *given: train_loop(*given)[-1:],
        "The training is right. But return the loss of every step.",
    ),
    hints=(
        "Six words, in this order: forward, loss, backward, clip, step, zero.",
        "`loss = loss_of(model, batch)`, `loss.backward()`, "
        "`torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)`, `optimizer.step()`, "
        "`optimizer.zero_grad()`; and `loss.item()` is a number.",
    ),
)


def _judge_gaps(attempt: Callable) -> str | None:
    code = getattr(attempt, "__code__", None)
    given = {*train_loop.__code__.co_names} - {"backward", "step", "zero_grad"}
    if code and {*code.co_names} <= given:
        raise NotImplementedError  # the three gaps are still there
    return _judge_loop(attempt)


LOOP_WITH_GAPS = Exercise(
    name="loop_with_gaps",
    notebook="05_validate",
    title="The loop with gaps",
    minutes=4,
    difficulty=1,
    judge=_judge_gaps,
    answer="import torch\n\n\n"
    + inspect.getsource(train_loop).replace("def train_loop", "def loop_with_gaps"),
    mistakes=wrong_answers(
        *_LINE_MISSING,
        altered(train_loop, {_CLIP: "", _ZERO: f"{_ZERO}; {_CLIP}"}),
        "The clipping was in the right place: between backward and step.",
    ),
    hints=(
        "The loss knows how to compute gradients; the optimizer knows how to step and to zero.",
        "`loss.backward()`, then `optimizer.step()`, then `optimizer.zero_grad()`.",
    ),
)
