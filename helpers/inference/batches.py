"""Prompts in batches that the model has read: what scores and free answers both go on from.

What all prompts of a call begin with (the shots of a few-shot prompt, say) goes through the model
once, and its keys and values are kept for all of them.
"""

import copy
import functools
import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations
from os.path import commonprefix

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import Cache, DynamicCache, PreTrainedModel, PreTrainedTokenizerBase
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer
from transformers.modeling_outputs import BaseModelOutput

from helpers.data.tokenize import as_chat, beyond_window, completion_ids, prompt_ids, separator
from helpers.errors import CourseError


class InferenceError(CourseError):
    """A question that cannot be put to the model."""


@dataclass
class Batch:
    """Prompts, and what the model keeps of them; None for what a model of its kind has not got."""

    rows: list[int]  # their indices among all prompts of the call
    input_ids: Tensor  # int64 (batch, length)
    attention_mask: Tensor  # the same
    cache: Cache | None = None  # keys and values of the prompts
    next_token: Tensor | None = None  # log-probabilities after each: float32 (batch, 1, vocabulary)
    encoded: BaseModelOutput | None = None  # the prompts as an encoder returns them


def read_prompts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    room: int,
    chat: bool,
    batch_size: int,
) -> Iterator[Batch]:
    """Put the prompts through the model in batches of similar length.

    room: tokens that an answer may need.
    Raises InferenceError for an empty prompt, and when prompt and answer do not fit into the
    context window.
    """
    if not prompts:
        return
    for row, prompt in enumerate(prompts):
        if not prompt.strip():
            raise InferenceError(
                f"Prompt number {row} is empty: there is nothing to answer. Write a question."
            )
    ids = [prompt_ids(prompt, tokenizer, model.config, chat=chat) for prompt in prompts]
    lengths = [len(one) for one in ids]
    if problem := beyond_window(max(lengths), room, model.config):
        raise InferenceError(
            f"Prompt number {lengths.index(max(lengths))} {problem}. Use fewer shots, a shorter "
            "text or a shorter answer."
        )
    model.eval()
    encodes = model.config.is_encoder_decoder
    reuses = not encodes and _reuses_cache(model, max(lengths) + room)
    if not encodes and not reuses:
        batch_size = 1  # so without padding, which not every such model can see through
    # One token at least stays outside the shared start: what follows on it is what we are after.
    shared = commonprefix([one[:-1] for one in ids]) if reuses and len(ids) > 1 else []
    start = torch.tensor([shared], dtype=torch.int64, device=model.device)
    prefix = _read(model, start, torch.ones_like(start), None, last=1)[1] if shared else None
    order = sorted(range(len(ids)), key=lambda row: lengths[row])
    for first in range(0, len(order), batch_size):
        rows = order[first : first + batch_size]
        rest = [ids[row][len(shared) :] for row in rows]
        new, mask = _pad(rest, model.device, side="right" if encodes else "left")
        if encodes:
            encoded = model.get_encoder()(input_ids=new, attention_mask=mask)
            yield Batch(rows, new, mask, encoded=encoded)
        elif not reuses:
            yield Batch(rows, new, mask)
        else:
            before = start.expand(len(rows), -1)
            mask = torch.cat([torch.ones_like(before), mask], 1)
            cache = copy.deepcopy(prefix)
            if cache:
                cache.batch_repeat_interleave(len(rows))
            next_token, cache = _read(model, new, mask, cache, last=1)
            yield Batch(rows, torch.cat([before, new], 1), mask, cache, next_token)


def _reuses_cache(model: PreTrainedModel, length: int) -> bool:
    """Whether keys and values of prompts can be repeated, cropped, and padded in the middle.

    Not the states of Mamba and its like; not where a distance counts padding as well (BLOOM takes
    no position_ids); not when attention has a window that is shorter than prompt and answer.
    """
    if model._is_stateful or "position_ids" not in inspect.signature(model.forward).parameters:
        return False
    layers = DynamicCache(config=model.config).layers
    if any(type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers):
        return False
    windows = [layer.sliding_window for layer in layers if layer.is_sliding]
    if model.config.model_type == "gpt_neo":  # has a window of which its cache does not know
        windows.append(model.config.window_size)
    return length < min(windows, default=length + 1)


def _read(
    model: PreTrainedModel, new: Tensor, mask: Tensor, cache: Cache | None, last: int
) -> tuple[Tensor, Cache]:
    """Log-probabilities (batch, last, vocabulary) after the last of the new tokens, and the cache.

    mask: over the tokens in the cache and the new ones.
    """
    out = model(
        input_ids=new,
        attention_mask=mask,
        position_ids=(mask.cumsum(1) - 1).clamp(min=0)[:, -new.shape[1] :],
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=last,
    )
    return out.logits[:, -last:].float().log_softmax(-1), out.past_key_values


def choice_tokens(
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    choices: Sequence[Sequence[str]],
    chat: bool,
) -> list[list[list[int]]]:
    """The tokens of each choice of each row, as training would make them after the row's prompt.

    The end token is among them only where the tokens of one choice begin those of another.
    """
    chat_prompt = as_chat("a", tokenizer) if chat else None  # all end in the same way

    @functools.cache
    def made(gap: str, of_row: tuple[str, ...]) -> list[list[int]]:
        if not of_row:
            raise InferenceError("There are no choices to score. Give one or more for each prompt.")
        ended = [completion_ids(gap + choice, tokenizer) for choice in of_row]
        bare = [ids[:-1] for ids in ended]
        alike = any(other[: len(ids)] == ids for ids, other in permutations(bare, 2))
        return ended if alike else bare

    pairs = zip(prompts, choices, strict=True)
    return [made(separator(chat_prompt or prompt), tuple(of_row)) for prompt, of_row in pairs]


def score_tokens(model: PreTrainedModel, batch: Batch, tokens: list[list[list[int]]]) -> Tensor:
    """Log-probability (nats) of each choice of each row of a batch, from choice_tokens.

    Returns float32 (batch, most choices of a row), on the CPU; -inf where a row has fewer.
    """
    scores = torch.full((len(tokens), max(map(len, tokens))), -torch.inf)
    for column in range(scores.shape[1]):
        has = [column < len(of_row) for of_row in tokens]
        ids = [of_row[column if h else 0] for of_row, h in zip(tokens, has, strict=True)]
        new, mask = _pad(ids, model.device, side="right")
        each = _log_probabilities(model, batch, new).gather(-1, new[..., None])[..., 0]
        scores[has, column] = each.masked_fill(mask == 0, 0.0).sum(1).cpu()[has]
    return scores


def _log_probabilities(model: PreTrainedModel, batch: Batch, new: Tensor) -> Tensor:
    """Log-probabilities (batch, new tokens, vocabulary) at the position of each new token.

    new: (batch, new tokens), which follow the prompts; padding on their right does not matter.
    """
    if batch.encoded is not None:
        out = model(encoder_outputs=batch.encoded, attention_mask=batch.attention_mask, labels=new)
        return out.logits.float().log_softmax(-1)
    if batch.cache is None:
        out = model(input_ids=torch.cat([batch.input_ids, new], 1))
        return out.logits[:, -new.shape[1] - 1 : -1].float().log_softmax(-1)
    fed = new[:, :-1]
    if not fed.shape[1]:
        return batch.next_token
    mask = torch.cat([batch.attention_mask, torch.ones_like(fed)], 1)
    rest, cache = _read(model, fed, mask, batch.cache, last=fed.shape[1])
    cache.crop(-fed.shape[1])
    return torch.cat([batch.next_token, rest], 1)


def _pad(ids: list[list[int]], device: torch.device, side: str) -> tuple[Tensor, Tensor]:
    """Stack lists of tokens; the mask is 0 over padding. Both are int64 (lists, longest)."""
    rows = [torch.tensor(one, dtype=torch.int64) for one in ids]
    padded = pad_sequence(rows, batch_first=True, padding_side=side)
    mask = pad_sequence([torch.ones_like(row) for row in rows], True, padding_side=side)
    return padded.to(device), mask.to(device)
