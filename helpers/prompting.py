"""Few-shot prompts, and how many tokens of the context window they use up."""

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from transformers import PreTrainedTokenizerBase

from helpers.encoding import joint
from helpers.errors import CourseError
from helpers.templates import Example


def draw_shots(examples: Sequence[Example], k: int, seed: int) -> list[Example]:
    """Draw k examples to show in a prompt, in shuffled order.

    They are balanced over the completions: with as many of them as completions, each completion
    is shown once, as long as the examples last. The same examples and seed give the same shots,
    and a larger k keeps the shots of a smaller one and adds to them.

    Args:
        examples: what to draw from: training examples, never those that are scored.
    Raises:
        CourseError: k is negative, or larger than the number of examples.
    """
    if k < 0:
        raise CourseError(f"{k} shots were asked for. Ask for 0 (none) or more.")
    if k > len(examples):
        raise CourseError(
            f"{k} shots were asked for, but there are {len(examples)} examples to draw them from. "
            "Ask for fewer, or give more examples."
        )
    generator = random.Random(seed)
    by_completion = defaultdict(list)
    for example in generator.sample(examples, len(examples)):
        by_completion[example.completion].append(example)
    # Deal one example of each completion, then a second one of each, and so on.
    turns = [(turn, e) for group in by_completion.values() for turn, e in enumerate(group)]
    shots = [example for _, example in sorted(turns, key=lambda pair: pair[0])[:k]]
    generator.shuffle(shots)
    return shots


def prefix_of(shots: Sequence[Example]) -> str:
    """The text that stands before the question: each shot with its answer, then an empty line.

    It is the same for every question, so a model has to read it only once. Empty without shots.
    """
    return "".join(f"{shot.prompt}{joint(shot.prompt)}{shot.completion}\n\n" for shot in shots)


def few_shot_prompt(shots: Sequence[Example], target: Example) -> Example:
    """The target with the shots in front of its prompt; its completion stays as it is.

    For a chat model, make the few-shot prompt first and wrap the whole of it with
    templates.as_chat.

    Raises:
        CourseError: the target itself is among the shots, so its prompt would hold its answer.
    """
    # A table without review_id gives every row the id "": then only an equal example is the same.
    if any(shot == target or shot.row_id == target.row_id != "" for shot in shots):
        raise CourseError(
            f"Row {target.row_id!r} is both a shot and the question, so its prompt would hold its "
            "own answer. Draw the shots from the training split and ask about other rows."
        )
    return replace(target, prompt=prefix_of(shots) + target.prompt)


@dataclass(frozen=True)
class Budget:
    """How the tokens of a context window are shared out; shots + question + answer + free = window.

    shots: tokens of the shots and their answers.
    question: tokens that the question adds to them.
    answer: tokens kept for the answer.
    free: what is left over; negative when the prompt is too long.
    window: the most tokens that the model can take.
    """

    shots: int
    question: int
    answer: int
    free: int
    window: int

    @property
    def fits(self) -> bool:
        """Whether prompt and answer have room in the window."""
        return self.free >= 0


def prompt_budget(
    prefix: str, prompt: str, tokenizer: PreTrainedTokenizerBase, window: int, answer_tokens: int
) -> Budget:
    """Count the tokens of a few-shot prompt. It may be too long: see Budget.fits.

    Args:
        prefix: the shots, from prefix_of; empty for none.
        prompt: the prompt of the question alone.
        window: the most tokens that the model can take.
        answer_tokens: the most tokens that the answer may have.
    Raises:
        CourseError: a window or an answer of less than 1 token.
    """
    if window < 1 or answer_tokens < 1:
        raise CourseError(
            f"A window of {window} tokens with {answer_tokens} for the answer was asked for. "
            "Both have to be 1 or more."
        )
    shots = _count(prefix, tokenizer)
    question = _count(prefix + prompt, tokenizer) - shots
    return Budget(shots, question, answer_tokens, window - shots - question - answer_tokens, window)


def _count(text: str, tokenizer: PreTrainedTokenizerBase) -> int:
    # verbose=False: a text longer than the window is counted here and not fed to the model.
    return len(tokenizer(text, add_special_tokens=False, verbose=False).input_ids)


def fit_shots(
    shots: Sequence[Example],
    target: Example,
    tokenizer: PreTrainedTokenizerBase,
    window: int,
    answer_tokens: int,
) -> list[Example]:
    """As many of the last shots as fit into the window together with the question and its answer.

    Shots are dropped from the front, whole: a prompt that is cut at a token would begin in the
    middle of a review.

    Raises:
        CourseError: the question does not fit even without shots.
    """
    for start in range(len(shots) + 1):
        kept = list(shots[start:])
        budget = prompt_budget(prefix_of(kept), target.prompt, tokenizer, window, answer_tokens)
        if budget.fits:
            return kept
    raise CourseError(
        f"The prompt of row {target.row_id!r} does not fit, even without shots: it has "
        f"{budget.question} tokens and its answer may have {budget.answer}, but the window holds "
        f"{budget.window}. Use a shorter template, shorten the text, or allow a shorter answer."
    )
