"""Free answers: what the model writes when nobody constrains it."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteria,
)

from helpers.data.tokenize import completion_ids
from helpers.inference.batches import Batch, choice_tokens, read_prompts, score_tokens


@torch.no_grad()
def generate_answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    max_new_tokens: int,
    chat: bool = False,
    batch_size: int = 16,
    first_line: bool = True,
) -> list[str]:
    """Let the model answer each prompt with the likeliest token, again and again (greedily).

    An answer ends at an end token, after max_new_tokens, or, with first_line, where its first line
    ends. Without first_line only a space before it and blank lines around it are taken off.
    chat: whether each prompt is put as a user's message, in the tokenizer's chat template.
    Raises InferenceError for an empty prompt, and when prompt and answer do not fit into the
    context window.
    """
    answers: dict[int, str] = {}
    for batch in read_prompts(model, tokenizer, prompts, max_new_tokens, chat, batch_size):
        answers |= _write(model, tokenizer, batch, max_new_tokens, first_line)
    return [answers[row] for row in range(len(prompts))]


@torch.no_grad()
def answer_both_ways(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    choices: Sequence[str],
    max_new_tokens: int,
    chat: bool = False,
    batch_size: int = 16,
) -> tuple[Tensor, list[str]]:
    """What score_choices and generate_answers return, with each prompt read only once.

    Reading takes most of the time, so this is nearly twice as fast as one after the other.
    """
    tokens = choice_tokens(tokenizer, prompts, [choices] * len(prompts), chat)
    room = max([max_new_tokens, *(len(ids) for of_row in tokens for ids in of_row)])
    scores = torch.zeros(len(prompts), len(choices))
    answers: dict[int, str] = {}
    for batch in read_prompts(model, tokenizer, prompts, room, chat, batch_size):
        scores[batch.rows] = score_tokens(model, batch, [tokens[row] for row in batch.rows])
        answers |= _write(model, tokenizer, batch, max_new_tokens, first_line=True)
    return scores, [answers[row] for row in range(len(prompts))]


def answer_length(examples: Iterable[dict], tokenizer: PreTrainedTokenizerBase) -> int:
    """How many tokens the longest right answer takes, with its end token: for max_new_tokens."""
    return max(len(completion_ids(example["completion"], tokenizer)) for example in examples)


def answer_form(
    examples: Sequence[dict], tokenizer: PreTrainedTokenizerBase, max_new_tokens: int | None = None
) -> dict[str, int]:
    """With these arguments, generate_answers has room for each right answer, to its last line.

    max_new_tokens: a bound of one's own, in place of the longest right answer's length.
    """
    if max_new_tokens is None:
        max_new_tokens = answer_length(examples, tokenizer)
    one_line = not any("\n" in example["answer"] for example in examples)
    return {"max_new_tokens": max_new_tokens, "first_line": one_line}


def _write(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    batch: Batch,
    max_new_tokens: int,
    first_line: bool,
) -> dict[int, str]:
    """Row → free answer, for each prompt of a batch; uses up the batch's cache."""
    begin = batch.input_ids.shape[1]
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    if batch.cache is not None:
        batch.cache.crop(-1)  # generate wants to see the last token for itself
        inputs["past_key_values"] = batch.cache
    if batch.encoded is not None:
        begin = 1  # the decoder begins with a start token in place of the prompt
        inputs["encoder_outputs"] = batch.encoded
    stop = [_FirstLineEnds(tokenizer, begin)] if first_line else []
    own = model.generation_config
    ends = {tokenizer.eos_token_id}
    for known in (own.eos_token_id, model.config.eos_token_id):
        ends.update(known if isinstance(known, list) else [known])
    ends = sorted(ends - {None})
    # It takes the place of the model's own settings for a while. Handed to generate it would not be
    # enough: what it leaves open, such as penalties, generate takes from model.generation_config.
    greedy = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        eos_token_id=ends,
        pad_token_id=ends[0],  # behind an end token, so it is cut off with it
        decoder_start_token_id=own.decoder_start_token_id,
    )
    model.generation_config = greedy
    try:
        written = model.generate(**inputs, generation_config=greedy, stopping_criteria=stop)
    finally:
        model.generation_config = own
    answers = {}
    for row, ids in zip(batch.rows, written[:, begin:].tolist(), strict=True):
        end = next((i for i, token in enumerate(ids) if token in ends), None)
        text = tokenizer.decode(
            ids[:end], skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        if first_line:
            answers[row] = (text.strip().splitlines() or [""])[0].strip()
        else:
            answers[row] = text.removeprefix(" ").strip("\r\n").rstrip()
    return answers


class _FirstLineEnds(StoppingCriteria):
    """Ends an answer with its first line. begin: where answers begin in the rows of tokens."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, begin: int) -> None:
        self.tokenizer, self.begin = tokenizer, begin

    def __call__(self, input_ids: Tensor, scores: Tensor, **_) -> Tensor:
        texts = self.tokenizer.batch_decode(input_ids[:, self.begin :])
        return torch.tensor(["\n" in text.lstrip() for text in texts], device=input_ids.device)
