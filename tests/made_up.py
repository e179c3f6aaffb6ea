"""Tokenized examples that are made up, and what the tests of training compare."""

import random
from functools import partial

import torch

from helpers.data.tokenize import IGNORE, collate
from helpers.training.settings import History, TrainSettings
from tests.tiny import tiny_model

PAD = 1
COLLATE = partial(collate, pad_token_id=PAD)


def made_up(count: int, seed: int, instruction: int = 0, apart: bool = False) -> list[dict]:
    """Rows of random ids; a completion repeats the end of its prompt, so it can be learnt.

    instruction: how many tokens all of them begin with. apart: labels for an encoder-decoder.
    """
    draw, rows = random.Random(seed), []
    for _ in range(count):
        prompt = [*range(40, 40 + instruction)]
        prompt += [draw.randrange(2, 40) for _ in range(draw.randint(4, 16))]
        completion = prompt[-draw.randint(1, 3) :]
        ids = prompt if apart else prompt + completion
        labels = completion if apart else [IGNORE] * len(prompt) + completion
        rows.append({"input_ids": ids, "labels": labels})
    return rows


TRAIN, VALIDATION = made_up(40, seed=0), made_up(12, seed=1)
# The same arithmetic on every machine.
SETTINGS = TrainSettings(
    epochs=2,
    batch_size=8,
    micro_batch_size=4,
    learning_rate=1e-2,
    evaluations=2,
    precision="float32",
    low_memory=False,
)
BATCH = COLLATE(TRAIN[:8])


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A copy of all weights."""
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def same_bits(ours: dict, theirs: dict) -> bool:
    """Whether two models have the same weights, to the last bit."""
    return ours.keys() == theirs.keys() and all(torch.equal(ours[n], theirs[n]) for n in theirs)


def losses(history: History) -> list[tuple[int, float]]:
    """Step and loss of each record of a run."""
    return [(one.step, one.loss) for one in history.steps + history.evaluations]


def interrupt_at(step: int):
    """A `watch` that presses the stop button after that step."""

    def watch(history: History) -> None:
        if len(history.steps) == step and history.stopped == "running":
            raise KeyboardInterrupt

    return watch


def untouched(model: torch.nn.Module) -> bool:
    """Whether it has the weights of the tiny model as it is made."""
    return same_bits(weights(model), weights(tiny_model()))


def hooks(model) -> int:
    """How many hooks there are on the modules and weights of a model."""
    on_modules = sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks) + len(module._backward_hooks)
        for module in model.modules()
    )
    return on_modules + sum(
        len(parameter._post_accumulate_grad_hooks or ()) for parameter in model.parameters()
    )


def as_it_was(model) -> bool:
    """Whether nothing of a training is left in the model."""
    recomputing = any(getattr(m, "gradient_checkpointing", False) for m in model.modules())
    return not (hooks(model) or recomputing or model.get_input_embeddings().sparse)
