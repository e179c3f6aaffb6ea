"""Ask the model: constrained answers (the likeliest of the allowed ones) and free answers.

What all prompts of a call begin with (the shots of a few-shot prompt, say) goes through the model
once, and its keys and values are kept for all of them.
"""

import copy
from dataclasses import dataclass
from os.path import commonprefix

import torch
from torch import Tensor
from transformers import Cache, PreTrainedModel, PreTrainedTokenizerBase

from helpers.encoding import joint
from helpers.errors import CourseError


class AnsweringError(CourseError):
    """A question that cannot be put to the model."""


@dataclass
class _State:
    """Where a batch stands: its rows, what the model keeps of them, and what comes next."""

    rows: list[int]
    cache: Cache
    mask: Tensor  # (batch, tokens so far), 0 over padding
    hidden: Tensor  # (batch, hidden size) at the last token


@torch.no_grad()
def score_choices(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[str],
    choices: tuple[str, ...],
    batch_size: int = 16,
) -> Tensor:
    """Log-probability (nats) of each choice as the continuation of each prompt.

    Returns float32 of shape (len(prompts), len(choices)): the sum over the choice's tokens, without
    the end token. The largest in a row is the constrained answer.
    Raises AnsweringError when a prompt does not fit into the context window.
    """
    tokens = _tokens_of(choices, prompts, tokenizer)
    scores = torch.zeros(len(prompts), len(choices))
    for state in _read(model, tokenizer, prompts, batch_size, _longest(tokens)):
        scores[state.rows] = _score(model, state, tokens)
    return scores


@torch.no_grad()
def generate_answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[str],
    max_new_tokens: int,
    batch_size: int = 16,
) -> list[str]:
    """What the model says when nobody constrains it: the likeliest token, again and again.

    An answer ends at the end token, at the end of its first line, or after max_new_tokens.
    Returns one stripped text for each prompt.
    Raises AnsweringError when prompt and answer do not fit into the context window.
    """
    answers: dict[int, str] = {}
    for state in _read(model, tokenizer, prompts, batch_size, max_new_tokens):
        answers |= _generate(model, tokenizer, state, max_new_tokens)
    return [answers[row] for row in range(len(prompts))]


@torch.no_grad()
def answer_both_ways(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[str],
    choices: tuple[str, ...],
    max_new_tokens: int,
    batch_size: int = 16,
) -> tuple[Tensor, list[str]]:
    """What score_choices and generate_answers return, with each prompt read only once.

    Reading takes most of the time, so this is nearly twice as fast as one after the other.
    """
    tokens = _tokens_of(choices, prompts, tokenizer)
    scores = torch.zeros(len(prompts), len(choices))
    answers: dict[int, str] = {}
    room = max(_longest(tokens), max_new_tokens)
    for state in _read(model, tokenizer, prompts, batch_size, room):
        scores[state.rows] = _score(model, state, tokens)
        answers |= _generate(model, tokenizer, state, max_new_tokens)
    return scores, [answers[row] for row in range(len(prompts))]


def _tokens_of(
    choices: tuple[str, ...], prompts: list[str], tokenizer: PreTrainedTokenizerBase
) -> list[list[int]]:
    """The tokens of each choice, as they would follow any of these prompts."""
    starts = {joint(prompt) for prompt in prompts}
    if len(starts) > 1:
        raise AnsweringError(
            "Some of these prompts end in white space and some do not, so the choices would be "
            "tokenized in two ways. Make all of them with one template."
        )
    (start,) = starts
    return [tokenizer(start + choice, add_special_tokens=False).input_ids for choice in choices]


def _longest(tokens: list[list[int]]) -> int:
    return max(len(ids) for ids in tokens)


def _score(model: PreTrainedModel, state: _State, tokens: list[list[int]]) -> Tensor:
    """Log-probability of each choice after each prompt of a batch: (batch, choices)."""
    first = _log_probabilities(model, state.hidden)
    scores = torch.zeros(len(state.rows), len(tokens))
    for column, ids in enumerate(tokens):
        total = first[:, ids[0]]
        if len(ids) > 1:
            rest = _Continuation(model, state).feed(ids[:-1])
            total = total + rest[:, range(len(ids) - 1), ids[1:]].sum(1)
        scores[:, column] = total.float().cpu()
    return scores


def _generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    state: _State,
    max_new_tokens: int,
) -> dict[int, str]:
    """Row → free answer, for each prompt of a batch."""
    continuation = _Continuation(model, state)
    scores = _log_probabilities(model, state.hidden)
    said: list[list[int]] = [[] for _ in state.rows]
    for _ in range(max_new_tokens):
        chosen = scores.argmax(-1)
        for ids, token in zip(said, chosen.tolist(), strict=True):
            ids.append(token)
        # What would follow the last token is not asked for.
        full = len(said[0]) == max_new_tokens
        if full or all(_ended(ids, tokenizer) for ids in said):
            break
        scores = continuation.feed(chosen[:, None])[:, -1]
    answers = {}
    for row, ids in zip(state.rows, said, strict=True):
        if tokenizer.eos_token_id in ids:
            ids = ids[: ids.index(tokenizer.eos_token_id)]
        lines = tokenizer.decode(ids, skip_special_tokens=True).strip().splitlines()
        answers[row] = lines[0].strip() if lines else ""
    return answers


def _ended(ids: list[int], tokenizer: PreTrainedTokenizerBase) -> bool:
    return tokenizer.eos_token_id in ids or "\n" in tokenizer.decode(ids).lstrip()


def _log_probabilities(model: PreTrainedModel, hidden: Tensor) -> Tensor:
    return model.get_output_embeddings()(hidden).float().log_softmax(-1)


class _Continuation:
    """Tokens fed after a batch of prompts, on a copy of what the model keeps of these."""

    def __init__(self, model: PreTrainedModel, state: _State) -> None:
        self.model, self.mask, self.cache = model, state.mask, copy.deepcopy(state.cache)

    def feed(self, tokens: Tensor | list[int]) -> Tensor:
        """Log-probabilities (batch, new tokens, vocabulary) after each of the new tokens.

        tokens: (batch, new tokens), or one list for all rows.
        """
        new = torch.as_tensor(tokens, device=self.mask.device).expand(len(self.mask), -1)
        seen = self.mask.sum(1, keepdim=True)
        self.mask = torch.cat([self.mask, torch.ones_like(new)], 1)
        hidden = self.model.base_model(
            input_ids=new,
            attention_mask=self.mask,
            position_ids=seen + torch.arange(new.shape[1], device=seen.device),
            past_key_values=self.cache,
            use_cache=True,
        ).last_hidden_state
        return _log_probabilities(self.model, hidden)


def _read(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[str],
    batch_size: int,
    room: int,
):
    """Put the prompts through the model in batches of similar length, padded on the left."""
    if not prompts:
        return
    model.eval()
    # verbose=False: what is too long is refused below, in words that help.
    ids = tokenizer(prompts, add_special_tokens=False, verbose=False).input_ids
    window = model.config.max_position_embeddings
    longest = max(range(len(ids)), key=lambda i: len(ids[i]))
    if len(ids[longest]) + room > window:
        raise AnsweringError(
            f"Prompt number {longest} has {len(ids[longest])} tokens and its answer needs up to "
            f"{room}, but the context window holds {window}. Use fewer shots or a shorter text."
        )
    # One token at least stays outside, since its hidden vector is what we are after.
    shared = commonprefix([one[:-1] for one in ids])
    prefix = None
    if shared and len(ids) > 1:
        prefix = model.base_model(
            input_ids=torch.tensor([shared], device=model.device), use_cache=True
        ).past_key_values
    skip = len(shared) if prefix else 0
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        yield _read_batch(model, [ids[row][skip:] for row in rows], rows, prefix, skip)


def _read_batch(
    model: PreTrainedModel,
    ids: list[list[int]],
    rows: list[int],
    prefix: Cache | None,
    skip: int,
) -> _State:
    longest = max(len(one) for one in ids)
    padded = torch.tensor([[0] * (longest - len(one)) + one for one in ids], device=model.device)
    mask = torch.tensor(
        [[1] * skip + [0] * (longest - len(one)) + [1] * len(one) for one in ids],
        device=model.device,
    )
    cache = None
    if prefix:
        cache = copy.deepcopy(prefix)
        cache.batch_repeat_interleave(len(rows))
    out = model.base_model(
        input_ids=padded,
        attention_mask=mask,
        position_ids=(mask.cumsum(1) - 1).clamp(min=0)[:, skip:],
        past_key_values=cache,
        use_cache=True,
    )
    return _State(rows, out.past_key_values, mask, out.last_hidden_state[:, -1])
