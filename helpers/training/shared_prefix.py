"""The prefix that all rows of a batch share goes through the model once, not once for each row.

A token attends only to itself and to those before it. So where rows begin with the same tokens
(the instruction of a template, say), the model computes the same there in each of them. Reading
the prefix once changes neither losses nor gradients; autograd adds up what comes back from all
rows. (With dropout all rows share what is dropped in the prefix.)

The batch becomes one line: the prefix, then the rest of each row, one row after the other. All of a
layer works on single tokens and does not mind, but for attention: there each row attends to the
prefix and to itself. transformers takes an attention function by its name; this module puts its own
under "sdpa", the name of PyTorch's attention, and that one does what it did wherever no `rows` are
named. So no model and no configuration has to be changed.
"""

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward

from helpers.data.tokenize import IGNORE

# Architectures whose attention is no more than what `_attention` computes.
SHARING = ("llama",)
# So many tokens of a row, behind the prefix, go through plain attention at most (16 bits only).
SHORT_ROW = 128


def can_share(model: PreTrainedModel) -> bool:
    """Whether this model can read a shared prefix once."""
    return model.config.model_type in SHARING and model.config._attn_implementation == "sdpa"


def shared_length(batch: dict[str, Tensor]) -> int:
    """How many tokens all rows begin with, up to the first position that predicts a labelled token.

    batch: input_ids and labels, each int64 of shape (batch, length), padded on the right. The last
    position is never among these tokens.
    """
    ids, targets = batch["input_ids"], batch["labels"][:, 1:]
    same = (ids[:, :-1] == ids[:1, :-1]).all(0) & (targets == IGNORE).all(0)
    return int(same.long().cumprod(0).sum())


def one_line(values: Tensor, shared: int) -> Tensor:
    """The first `shared` values of one row, then the rest of each row: of (batch, length) values,
    (1, shared + batch * (length - shared)) ones."""
    return torch.cat([values[0, :shared], values[:, shared:].flatten()])[None]


def in_one_line(ids: Tensor, shared: int) -> dict[str, Tensor]:
    """What the model is called with to read the first `shared` tokens of all rows once.

    ids: int64 of shape (batch, length), padded on the right, the same in all rows up to `shared`.
    """
    rows, length = ids.shape
    positions = torch.arange(length, device=ids.device).expand(rows, -1)
    # A token of a row sees the whole prefix, and of its own row what stands before it and itself.
    # Padding stands behind all, so no mask needs to hide it.
    seen = torch.ones(length - shared, length, dtype=torch.bool, device=ids.device).tril(shared)
    return {
        "input_ids": one_line(ids, shared),
        "position_ids": one_line(positions, shared),
        "attention_mask": seen[None, None],
        "rows": rows,
    }


def hidden_states_after_prefix(model: PreTrainedModel, ids: Tensor, shared: int) -> Tensor:
    """Last hidden states of all tokens but the first `shared` ones, which are read only once.

    model: one that `can_share`. ids: as for `in_one_line`.
    Returns (batch, length - shared, hidden size).
    """
    line = model.base_model(**in_one_line(ids, shared), use_cache=False).last_hidden_state
    return line[0, shared:].unflatten(0, (len(ids), -1))


def _attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    rows: int | None = None,
    **others: object,
) -> tuple[Tensor, None]:
    """Attention in the form that transformers asks for, each (1, heads, positions, head size)."""
    if rows is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **others)
    scaling, dropout = others["scaling"], others["dropout"]
    rest, length = attention_mask.shape[-2:]
    shared = length - rest
    seen = attention_mask if shared else None

    def of_rows(line: Tensor) -> Tensor:  # (rows, heads, rest, head size)
        return line[0, :, shared:].unflatten(1, (rows, rest)).transpose(0, 1)

    def with_prefix(line: Tensor) -> Tensor:  # (rows, heads, length, head size)
        return torch.cat([line[:, :, :shared].expand(rows, -1, -1, -1), of_rows(line)], 2)

    found = _attend(of_rows(query), with_prefix(key), with_prefix(value), seen, scaling, dropout)
    found = found.transpose(0, 1).flatten(1, 2)[None]
    if shared:
        prefix = [line[:, :, :shared] for line in (query, key, value)]
        found = torch.cat([_attend(*prefix, None, scaling, dropout), found], 2)
    return found.transpose(1, 2).contiguous(), None


def _attend(
    query: Tensor, key: Tensor, value: Tensor, seen: Tensor | None, scaling: float, dropout: float
) -> Tensor:
    """What each query finds among the keys that it may see: (rows, heads, queries, head size).

    seen: bool of shape (1, 1, queries, keys); None where each sees itself and those before it.
    """
    groups, device = query.shape[1] // key.shape[1], query.device.type
    key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    plain = device == "cpu" and torch.is_autocast_enabled(device) and not dropout
    if not (plain and query.shape[2] <= SHORT_ROW):
        causal = seen is None
        return scaled_dot_product_attention(query, key, value, seen, dropout, causal, scale=scaling)
    if seen is None:
        seen = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=device).tril()
    # PyTorch's fused attention is the slow part with 16-bit numbers on a processor. The plain one
    # is quicker while there are few queries; its memory grows with queries times keys.
    scores = (query * scaling) @ key.transpose(-1, -2)
    return scores.masked_fill(~seen, float("-inf")).softmax(-1, dtype=torch.float32) @ value


AttentionInterface.register("sdpa", _attention)
