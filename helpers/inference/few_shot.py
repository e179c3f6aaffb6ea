"""Few-shot prompts, and how many tokens of the context window they use up.

An example is a row of `task.render`: a dict with prompt, completion, answer and row_id.
"""

import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from helpers.data.tokenize import prompt_ids
from helpers.errors import CourseError

# Only here do prompt and answer share one window; an encoder's prompt has a window of its own.
DECODER = PreTrainedConfig(is_encoder_decoder=False)


def draw_shots(examples: Iterable[dict], k: int, seed: int) -> list[dict]:
    """Draw k examples to show in a prompt, in shuffled order.

    They are balanced over the answers: with as many of them as different answers, each answer is
    shown once, as long as the examples last. The same examples and seed give the same shots, and a
    larger k keeps the shots of a smaller one and adds to them.

    examples: training examples, never those that are scored.
    Raises CourseError when k is negative, or larger than the number of examples.
    """
    examples = list(examples)
    if not 0 <= k <= len(examples):
        raise CourseError(
            f"{k} shots were asked for, but there are {len(examples)} examples to draw them from. "
            f"Ask for 0 (none) to {len(examples)}, or give more examples."
        )
    generator = random.Random(seed)
    by_answer = defaultdict(list)
    for example in generator.sample(examples, len(examples)):
        by_answer[example["answer"]].append(example)
    # Deal one example of each answer, then a second one of each, and so on.
    turns = [(turn, e) for group in by_answer.values() for turn, e in enumerate(group)]
    shots = [example for _, example in sorted(turns, key=lambda pair: pair[0])[:k]]
    generator.shuffle(shots)
    return shots


def shots_prefix(shots: Iterable[dict]) -> str:
    """The text that stands before the question: each shot with its answer, then an empty line.

    It is the same for every question, so a model has to read it only once. Empty without shots.
    """
    return "".join(f"{shot['prompt']}{shot['completion']}\n\n" for shot in shots)


def few_shot_prompt(shots: Sequence[dict], example: dict) -> dict:
    """The same example with the shots in front of its prompt.

    Raises CourseError when the example is among the shots, or has the prompt of one of them: its
    new prompt would hold an answer to itself.
    """
    for shot in shots:
        same = shot["row_id"] == example["row_id"]
        if same or shot["prompt"] == example["prompt"]:
            twin = "" if same else f" (as a shot: row {shot['row_id']!r})"
            raise CourseError(
                f"Row {example['row_id']!r} is both a shot and the question{twin}, so its prompt "
                "would hold its own answer. Draw the shots from the training split, ask about "
                "other rows, and drop rows that repeat a text."
            )
    return {**example, "prompt": shots_prefix(shots) + example["prompt"]}


@dataclass(frozen=True)
class Budget:
    """How the tokens of a context window are shared out; the other four add up to the window."""

    shots: int  # tokens of the shots and their answers
    question: int  # that the question adds to them
    answer: int  # kept for the answer
    free: int  # left over; negative when the prompt is too long
    window: int  # the most that the model can take

    @property
    def fits(self) -> bool:
        """Whether prompt and answer have room in the window."""
        return self.free >= 0


def prompt_budget(
    prefix: str, prompt: str, tokenizer: PreTrainedTokenizerBase, window: int, answer_tokens: int
) -> Budget:
    """Count the tokens of a few-shot prompt. It may be too long: see Budget.fits.

    prefix: the shots, from shots_prefix; empty for none. prompt: that of the question alone.
    window: the most tokens that the model can take, prompt and answer together. answer_tokens: the
    most that the answer may have.
    """
    shots = len(prompt_ids(prefix, tokenizer, DECODER)) if prefix else 0
    question = len(prompt_ids(prefix + prompt, tokenizer, DECODER)) - shots
    return Budget(shots, question, answer_tokens, window - shots - question - answer_tokens, window)


def fit_shots(
    shots: Sequence[dict],
    example: dict,
    tokenizer: PreTrainedTokenizerBase,
    window: int,
    answer_tokens: int,
) -> list[dict]:
    """As many of the last shots as fit into the window together with the question and its answer.

    Shots are dropped from the front, whole: a prompt that is cut at a token would begin in the
    middle of a text. Raises CourseError when the question does not fit even without shots.
    """
    for start in range(len(shots) + 1):
        prefix = shots_prefix(shots[start:])
        budget = prompt_budget(prefix, example["prompt"], tokenizer, window, answer_tokens)
        if budget.fits:
            return list(shots[start:])
    raise CourseError(
        f"The prompt of row {example['row_id']!r} does not fit, even without shots: it has "
        f"{budget.question} tokens and its answer may have {budget.answer}, but the window holds "
        f"{budget.window}. Use a shorter template, shorten the text, or allow a shorter answer."
    )
