"""The exercises of notebook 04: loss mask, batch, loss of a guess, one step, the loop's order."""

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor

from helpers.data.tokenize import IGNORE, collate, make_labels
from helpers.exercises.exercise import Case, Exercise, altered, same_value, wrong_answers

# ---- The loss mask


MAKE_LABELS = Exercise(
    name="make_labels",
    notebook="04_fine_tune",
    title="The loss mask",
    minutes=4,
    difficulty=1,
    reference=make_labels,
    cases=(
        Case(([11], [21, 2]), "A prompt of one token, a completion of one token, and the end."),
        Case(([11, 12, 13], [21, 2]), "The prompt is longer than the completion."),
        Case(([11, 12], [21, 22, 23, 2]), "The completion has several tokens."),
        Case(([21, 2, 12], [21, 2]), "Ids of the completion also occur in the prompt."),
    ),
    mistakes=wrong_answers(
        lambda prompt, completion: prompt + completion,
        "Here every token is labelled, even those of the prompt. So the model would mostly "
        "learn to write prompts.",
        lambda prompt, completion: completion,
        "There have to be as many labels as tokens. The prompt's tokens need one, too: -100.",
        lambda prompt, completion: [IGNORE] * len(prompt) + completion[:-1] + [IGNORE],
        "The end token is not labelled here, so the model would never learn to stop.",
        lambda prompt, completion: [IGNORE] * (len(prompt) - 1) + prompt[-1:] + completion,
        "One position too early: the last token of the prompt is labelled as well.",
        lambda prompt, completion: [IGNORE] * (len(prompt) + 1) + completion[1:],
        "One position too late: the first token of the completion is not labelled, and "
        "often it is the whole answer.",
        lambda prompt, completion: [0] * len(prompt) + completion,
        "The prompt's labels are 0. But 0 is the id of a token, so the model would learn to "
        "say that token after each token of the prompt.",
        lambda prompt, completion: [IGNORE] * (len(prompt) - 1) + completion + [IGNORE],
        "The labels are shifted by one position. The loss function does that itself; if it "
        "happens twice, the model learns to skip a token.",
        lambda prompt, completion: [0] * len(prompt) + [1] * len(completion),
        "This says which tokens are labelled, but not with what. A label is the id itself.",
    ),
    hints=(
        "How many labels are there in all? As many as prompt and completion have tokens.",
        "A list can be repeated: `[7] * 3` is `[7, 7, 7]`.",
        "First comes one -100 for each token of the prompt, then the completion's ids as they "
        "are: `[-100] * len(prompt_ids) + completion_ids`.",
    ),
)


# ---- A batch


COLLATE_ANSWER = """
import torch


def collate(rows, pad_token_id):
    longest = max(len(row["input_ids"]) for row in rows)
    padding = {"input_ids": pad_token_id, "attention_mask": 0, "labels": -100}
    batch = {name: [] for name in padding}
    for row in rows:
        gap = longest - len(row["input_ids"])
        known = {**row, "attention_mask": [1] * len(row["input_ids"])}
        for name, filler in padding.items():
            batch[name].append(known[name] + [filler] * gap)
    return {name: torch.tensor(lists) for name, lists in batch.items()}
"""
collate_with = partial(altered, COLLATE_ANSWER)
_ONES = '[1] * len(row["input_ids"])'
PADDING_LABELLED = collate_with({'"labels": -100': '"labels": pad_token_id'})
PADDING_SEEN = collate_with({'"attention_mask": 0': '"attention_mask": 1'})


def labels_by_id(rows: list[dict], pad_token_id: int) -> dict:
    batch = collate(rows, pad_token_id)
    padding = batch["input_ids"] == pad_token_id
    return {**batch, "labels": batch["labels"].masked_fill(padding, IGNORE)}


def _same_numbers(got: Any, expected: dict[str, Tensor]) -> bool:
    """Whether a batch holds the same numbers: a mask may also be of truth values or floats."""
    if not isinstance(got, dict) or got.keys() != expected.keys():
        return False
    if not all(isinstance(tensor, Tensor) for tensor in got.values()):
        return False
    return all(same_value(got[name].long(), expected[name]) for name in expected)


def _batch_cases() -> list[Case]:
    short = {"input_ids": [5, 9, 2], "labels": [-100, 9, 2]}
    middle = {"input_ids": [5, 6, 9, 2], "labels": [-100, -100, 9, 2]}
    long = {"input_ids": [5, 6, 7, 8, 9, 4, 2], "labels": [-100] * 4 + [9, 4, 2]}
    return [
        Case(([short], 0), "One example alone needs no padding."),
        Case(([short, middle], 0), "The first example is one token shorter than the second."),
        Case(([long, short], 0), "The first example is the longest."),
        Case(([short, middle], 2), "The padding has the id of the end token."),
        Case(([middle, long, short], 2), "Three lengths, padded with the id of the end token."),
    ]


COLLATE = Exercise(
    name="collate",
    notebook="04_fine_tune",
    title="A batch out of examples",
    minutes=8,
    difficulty=2,
    reference=collate,
    cases=_batch_cases(),
    same=_same_numbers,
    mistakes=wrong_answers(
        PADDING_LABELLED,
        "The padding is labelled with its own id, so it counts in the loss: the model would "
        "mostly learn to write padding.",
        collate_with({'"labels": -100': '"labels": 0'}),
        "The padding's labels are 0, and 0 is the id of a token. Which label does the loss ignore?",
        collate_with({"known[name] + [filler] * gap": "[filler] * gap + known[name]"}),
        "You pad on the left. A model can be trained that way, too, but here the real tokens "
        "should begin at position 0.",
        PADDING_SEEN,
        "The attention mask is 1 everywhere, so padding is taken for text.",
        collate_with({_ONES: '[int(i != pad_token_id) for i in row["input_ids"]]'}),
        "You find the padding by its id. When padding and end token share one id, the real "
        "end gets a 0 in the attention mask, too. Go by the lengths.",
        labels_by_id,
        "Every position with the padding's id loses its label. When padding and end token "
        "share one id, the model never learns to stop.",
        collate_with({"{**row,": '{**row, "labels": row["input_ids"],'}),
        "Your labels are the ids, and only the padding is not labelled. So the prompt is "
        "labelled as well. Each example comes with its own labels.",
        collate_with({"max(": "min(", "known[name] + [filler] * gap": "known[name][:longest]"}),
        "You cut all examples to the length of the shortest, and lose answers that way. Pad "
        "them to the longest instead.",
    ),
    hints=(
        "How long is the longest example, and how many tokens does each one lack?",
        "Fill up with `[pad_token_id] * gap`, `[0] * gap` and `[-100] * gap`, all on the right.",
        "Collect the lines of each tensor in a list, and make it a tensor with "
        "`torch.tensor(lines)`.",
    ),
    answer=COLLATE_ANSWER,
)


# ---- The loss of a guess


def loss_of_guessing(k: int) -> float:
    """Loss in nats when each of k tokens gets the same probability, and one of them is right."""
    return -math.log(1 / k)


LOSS_OF_GUESSING = Exercise(
    name="loss_of_guessing",
    notebook="04_fine_tune",
    title="Predict the loss before training",
    minutes=3,
    difficulty=1,
    reference=loss_of_guessing,
    cases=(
        Case((1,), "With one token to choose from, nothing can go wrong."),
        Case((2,), "Two tokens: each has a probability of one half."),
        Case((5,), "Five tokens."),
        Case((50_000,), "A whole vocabulary."),
    ),
    mistakes=wrong_answers(
        lambda k: math.log2(k),
        "This is in bits. Nats use the natural logarithm.",
        lambda k: math.log10(k),
        "The base is 10 here. Nats use the natural logarithm.",
        lambda k: math.log(1 / k),
        "The logarithm of a probability is never above zero, and a loss is never below it. A "
        "minus sign is missing.",
        lambda k: 1 / k,
        "This is the probability. Compute the loss from it.",
        lambda k: math.log(k) / k,
        "You weight the logarithm by the model's own probability. The weight should be the "
        "label's probability, which is 1 for the right token.",
        lambda k: 1 - 1 / k,
        "This is how often a guess is wrong. Cross-entropy takes a logarithm.",
    ),
    hints=(
        "What probability does the right token get, when all k get the same?",
        "The loss is minus the natural logarithm of that: `-math.log(1 / k)`, with `import math` "
        "above.",
    ),
)


# ---- One step


def one_step(weights: Tensor, gradient: Tensor, rate: float, max_norm: float) -> Tensor:
    """The weights after one step of plain gradient descent with a clipped gradient."""
    norm = gradient.norm()
    if norm > max_norm:
        gradient = gradient * (max_norm / norm)
    return weights - rate * gradient


def _step_clipped(weights: Tensor, gradient: Tensor, rate: float, max_norm: float) -> Tensor:
    step = rate * gradient
    return weights - step * min(1.0, max_norm / max(1e-12, float(step.norm())))


def _same_weights(got: Any, expected: Tensor) -> bool:
    """Within a ten-thousandth: PyTorch's own clipping adds a tiny number to the norm."""
    if not isinstance(got, Tensor) or got.shape != expected.shape:
        return False
    return torch.allclose(got.detach().float(), expected.float(), rtol=1e-4, atol=1e-5)


def _step_cases() -> list[Case]:
    def tensors(weights: list, gradient: list) -> tuple[Tensor, Tensor]:
        return torch.tensor(weights), torch.tensor(gradient)

    return [
        Case((*tensors([1.0], [0.5]), 0.5, 1.0), "One weight, and a norm below `max_norm`."),
        Case((*tensors([1.0, 2.0], [0.0, 0.0]), 0.5, 1.0), "The gradient is zero: nothing moves."),
        Case((*tensors([1.0, 2.0], [3.0, -4.0]), 0.5, 1.0), "The gradient norm is 5."),
        Case((*tensors([0.0, 0.0], [0.5, 6.0]), 0.1, 2.0), "Only one of the numbers is large."),
        Case((*tensors([[0.5, -1.0], [2.0, 0.0]], [[2.0] * 2] * 2), 0.2, 1.0), "A matrix."),
    ]


ONE_STEP = Exercise(
    name="one_step",
    notebook="04_fine_tune",
    title="One step, by hand",
    minutes=8,
    difficulty=2,
    reference=one_step,
    cases=_step_cases(),
    same=_same_weights,
    mistakes=wrong_answers(
        altered(one_step, {"weights - rate": "weights + rate"}),
        "You move along the gradient, and there the loss grows. Move against it.",
        altered(one_step, {"norm > max_norm": "False"}),
        "A gradient with a large norm is not scaled down yet.",
        lambda weights, gradient, rate, most: weights - rate * gradient.clamp(-most, most),
        "You clip each number by itself, and that changes the direction. Scale the whole "
        "gradient, so that it keeps its direction.",
        altered(one_step, {"norm > max_norm": "norm > 0"}),
        "Here a gradient whose norm is small enough is scaled up to `max_norm`. It should "
        "stay as it is.",
        _step_clipped,
        "You clip the step. Clip the gradient instead, before the learning rate comes in.",
        altered(one_step, {"rate * gradient": "gradient"}),
        "The learning rate is missing: the step is far too long.",
        altered(one_step, {"weights - rate": "-rate"}),
        "This is only the change. Return the weights after it.",
    ),
    hints=(
        "Scale the gradient down if its norm is too large. Then move the weights against it.",
        "`norm = gradient.norm()` is its norm. If it is larger than `max_norm`, and only then: "
        "`gradient = gradient * (max_norm / norm)`.",
        "New weights, as a new tensor: `return weights - rate * gradient`.",
    ),
)


# ---- The order of the loop's lines

# The letters under which notebook 04 shows the shuffled lines, and the word for each.
_WORDS = {
    "a": "step",
    "b": "backward",
    "c": "forward",
    "e": "zero",
    "f": "the batch",
    "h": "loss",
    "i": "clip",
}
# The lines that do not belong there, and what is wrong with them.
_STRANGE = {
    "d": "Line d makes a new optimizer in every step: it has forgotten AdamW's running means.",
    "g": "Line g divides by all positions, also by those without a label. The loss is the mean "
    "over the labelled tokens.",
}
# Pairs of lines of which the first has to come before the second.
_BEFORE = ("fc", "ch", "hb", "bi", "ia")


def _broken_rule(order: str) -> str | None:
    """The first rule that an order of the letters breaks: a pair, or "e"; None when it is right.

    zero may stand anywhere but between backward and step: as the last line, or before.
    """
    place = order.index
    for pair in _BEFORE:
        if place(pair[0]) > place(pair[1]):
            return pair
    return "e" if place("b") < place("e") < place("a") else None


def _letters(order: object) -> str:
    return "".join(filter(str.isalpha, order.lower())) if isinstance(order, str) else ""


def _complete(letters: str) -> bool:
    return sorted(letters) == sorted(_WORDS)


def _judge_order(order: object) -> str | None:
    letters = _letters(order)
    strange = [says for letter, says in _STRANGE.items() if letter in letters]
    if strange:
        return strange[0]
    if not _complete(letters):
        return (
            f"Write the letters of {len(_WORDS)} lines, each once, as one string: "
            f'"abc…". Two of the {len(_WORDS) + len(_STRANGE)} lines do not belong there.'
        )
    broken = _broken_rule(letters)
    if broken is None:
        return None
    if broken == "e":
        return "zero stands between backward and step."
    return f"{_WORDS[broken[1]]} stands before {_WORDS[broken[0]]}."


def _same_rule(got: object, expected: str) -> bool:
    """Whether two wrong orders break the same rule."""
    letters = _letters(got)
    return _complete(letters) and _broken_rule(letters) == _broken_rule(expected)


LOOP_ORDER = Exercise(
    name="loop_order",
    notebook="04_fine_tune",
    title="The loop in the right order",
    minutes=4,
    difficulty=1,
    judge=_judge_order,
    same=_same_rule,
    answer='loop_order = "fchbiae"  # batch, forward, loss, backward, clip, step, zero',
    mistakes=wrong_answers(
        "cfhbiae",
        "forward needs a batch to read.",
        "fhcbiae",
        "loss is the mean of the losses that forward computes.",
        "fcbhiae",
        "backward starts at the loss, so loss has to come first.",
        "fchibae",
        "There is no gradient of this batch to clip before backward has made one: step would use "
        "it as it is.",
        "fchbaie",
        "step would use the gradient as it is. To clip it afterwards changes nothing.",
        "fchbeia",
        "zero throws the gradient away, so step has nothing to go by and no weight moves. "
        "It belongs after step, or before backward.",
    ),
    hints=(
        "The six words are forward, loss, backward, clip, step, zero. What has to be there "
        "before the forward pass? What must not be made anew in each step, and by what is the "
        "summed loss divided?",
        "It begins with `fchb`: batch, forward, loss, backward. Then come clip, step and zero.",
    ),
)
