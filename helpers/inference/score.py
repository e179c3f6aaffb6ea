"""Constrained answers: the likeliest of the allowed ones."""

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from helpers.inference.batches import InferenceError, choice_tokens, read_prompts, score_tokens
from helpers.inference.generate import answer_form, generate_answers


def score_choices(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    choices: Sequence[str],
    chat: bool = False,
    batch_size: int = 16,
) -> Tensor:
    """Log-probability (nats) of each choice as the answer to each prompt: the sum over its tokens.

    Returns float32 of shape (len(prompts), len(choices)), on the CPU. The largest in a row is the
    constrained answer. When the tokens of one choice begin those of another ("home", "home
    garden"), the end token is scored with each of the choices; without it the longer one could
    never win. chat: whether each prompt is put as a user's message, in the tokenizer's chat
    template.

    Raises InferenceError for an empty prompt, and when prompt and choice do not fit into the
    context window.
    """
    scores = score_rows(model, tokenizer, prompts, [choices] * len(prompts), chat, batch_size)
    return scores.reshape(len(prompts), len(choices))  # without prompts, they are (0, 0)


@torch.no_grad()
def score_rows(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    choices: Sequence[Sequence[str]],
    chat: bool = False,
    batch_size: int = 16,
) -> Tensor:
    """As score_choices, with choices of its own for each prompt; -inf where a row has fewer."""
    tokens = choice_tokens(tokenizer, prompts, choices, chat)
    room = max((len(ids) for of_row in tokens for ids in of_row), default=0)
    scores = torch.full((len(prompts), max(map(len, choices), default=0)), -torch.inf)
    for batch in read_prompts(model, tokenizer, prompts, room, chat, batch_size):
        of_batch = score_tokens(model, batch, [tokens[row] for row in batch.rows])
        scores[batch.rows, : of_batch.shape[1]] = of_batch
    return scores


def pick_choices(scores: Iterable[Iterable[float]], choices: Sequence[str]) -> list[str]:
    """The best-scoring choice of each row. The share of these that is right is the constrained
    accuracy.

    scores: n rows of len(choices) numbers, in the order of the choices; a tensor, an array or
    lists. Higher is better; of equal scores the first column wins.
    Raises InferenceError for a row of another width, and for a score that is not a number.
    """
    answers = []
    for number, row in enumerate(scores):
        values = [float(value) for value in row]
        if len(values) != len(choices):
            raise InferenceError(
                f"Row {number} has {len(values)} scores for {len(choices)} choices. "
                "Give one score for each choice, in the order of the choices."
            )
        if any(map(math.isnan, values)):
            raise InferenceError(
                f"Row {number} holds a score that is not a number (NaN), so no choice is the "
                "best. Look for a division by zero or for weights that training has destroyed."
            )
        answers.append(choices[values.index(max(values))])
    return answers


def pick_own_choices(scores: Tensor, choices: Sequence[Sequence[str]]) -> list[str]:
    """As pick_choices, for the scores and choices of score_rows."""
    # Chosen among column numbers, since each row has texts of its own.
    columns = pick_choices(scores, range(scores.shape[1]))
    return [of_row[column] for of_row, column in zip(choices, columns, strict=True)]


def predict_answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Iterable[dict],
    max_new_tokens: int | None = None,
    offsets: Sequence[float] | None = None,
    chat: bool = False,
    batch_size: int = 16,
) -> list[str]:
    """One answer for each example: constrained if every example has choices, else all generated.

    examples: rows of task.render; choices is a list of texts in each row, or is missing.
    max_new_tokens: for generated answers; by default as many as the longest right answer needs. A
    generated answer is one line, unless a right answer has several.
    offsets: for each choice, what is taken off its log-probability (calibration).
    batch_size: how many prompts are read at once.
    Raises InferenceError for offsets that do not fit the choices, and as score_choices does.
    """
    examples = list(examples)
    if not examples:
        return []
    prompts = [example["prompt"] for example in examples]
    choices = [example.get("choices") for example in examples]
    if not all(choices):
        form = answer_form(examples, tokenizer, max_new_tokens)
        return generate_answers(model, tokenizer, prompts, chat=chat, batch_size=batch_size, **form)
    scores = score_rows(model, tokenizer, prompts, choices, chat, batch_size)
    if offsets is not None:
        if any(of_row != choices[0] for of_row in choices) or len(offsets) != len(choices[0]):
            raise InferenceError(
                f"There are {len(offsets)} offsets. Give one for each choice; all rows of the "
                "task must have the same choices."
            )
        scores = scores - torch.tensor(offsets)
    return pick_own_choices(scores, choices)


def choice_accuracy(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Iterable[dict],
    batch_size: int = 16,
) -> float:
    """Share of examples, from 0 to 1, whose likeliest choice is the right one."""
    examples = list(examples)
    answers = predict_answers(model, tokenizer, examples, batch_size=batch_size)
    right = sum(said == example["answer"] for said, example in zip(answers, examples, strict=True))
    return right / len(examples)
