"""What all rows of a batch begin with goes through the model once, not once for each row.

A token looks only at itself and those before it. So where rows begin with the same tokens (the
instruction of a template, say), the model computes the same there in each of them. Reading it once
changes neither losses nor gradients; autograd adds up what comes back from all rows. (With dropout,
which the course's model has not, all rows would share what is dropped there.)

The batch becomes one line: the prefix, then what is left of each row, one row after the other. All
of a layer works on single tokens and does not mind, but for attention: each row looks at the prefix
and at itself.
"""

import torch
from torch import Tensor
from torch.nn.functional import dropout as drop_out
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from helpers.encoding import IGNORE

NAME = "shared_prefix"
# Architectures whose attention is no more than what `_attention` computes.
SHARING = ("llama",)
# So many tokens of a row, behind the prefix, go through plain attention at most (16 bits only).
SHORT_ROW = 128


def shared_length(batch: dict[str, Tensor]) -> int:
    """How many tokens all rows begin with, up to the first place where a prediction counts.

    batch: input_ids and labels, each int64 of shape (batch, length), padded on the right. The last
    place is never among these tokens.
    """
    ids, targets = batch["input_ids"], batch["labels"][:, 1:]
    same = (ids[:, :-1] == ids[:1, :-1]).all(0) & (targets == IGNORE).all(0)
    return int(same.long().cumprod(0).sum())


def hidden_after(model: PreTrainedModel, ids: Tensor, shared: int) -> Tensor:
    """Last hidden vectors at all places but the first `shared` ones, which are read only once.

    The model gets the attention of this module and keeps it: PyTorch's, but for such batches.

    ids: int64 of shape (batch, length), padded on the right, the same in all rows up to `shared`.
    Returns (batch, length - shared, hidden size).
    """
    if model.config.model_type not in SHARING:
        return model.base_model(input_ids=ids, use_cache=False).last_hidden_state[:, shared:]
    if model.config._attn_implementation != NAME:
        model.set_attn_implementation(NAME)
    rows, length = ids.shape
    places = torch.arange(length, device=ids.device)
    # A token of a row sees the whole prefix, and of its own row what stands before it and itself.
    # Padding stands behind all, so no mask needs to hide it.
    seen = torch.ones(length - shared, length, dtype=torch.bool, device=ids.device).tril(shared)
    hidden = model.base_model(
        input_ids=_in_line(ids[:1, :shared], ids[:, shared:]),
        position_ids=_in_line(places[None, :shared], places[None, shared:].expand(rows, -1)),
        attention_mask=seen[None, None],
        rows=rows,
        use_cache=False,
    ).last_hidden_state
    return hidden[0, shared:].unflatten(0, (rows, -1))


def _in_line(prefix: Tensor, rests: Tensor) -> Tensor:
    return torch.cat([prefix[0], rests.flatten()])[None]


def _attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    rows: int | None = None,
    **others: object,
) -> tuple[Tensor, None]:
    """Attention in the form that transformers asks for, each (1, heads, places, head size).

    Without `rows` it is PyTorch's, as transformers calls it.
    """
    if rows is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **others
        )
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
        first = [line[:, :, :shared] for line in (query, key, value)]
        found = torch.cat([_attend(*first, None, scaling, dropout), found], 2)
    return found.transpose(1, 2).contiguous(), None


def _attend(
    query: Tensor, key: Tensor, value: Tensor, seen: Tensor | None, scaling: float, dropout: float
) -> Tensor:
    """What each query finds among the keys that `seen` lets it see: (rows, heads, places, size).

    seen: bool of shape (1, 1, queries, keys); None where each sees itself and those before it.
    """
    groups, device = query.shape[1] // key.shape[1], query.device.type
    key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    short = query.shape[2] <= SHORT_ROW and device == "cpu"
    if not (short and torch.is_autocast_enabled(device)):
        return scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=seen,
            is_causal=seen is None,
            dropout_p=dropout,
            scale=scaling,
        )
    if seen is None:
        seen = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=device).tril()
    # PyTorch's fused attention is the slow part with 16-bit numbers on a processor. The plain one
    # is quicker while there are few queries; its memory grows with queries times keys.
    scores = (query * scaling) @ key.transpose(-1, -2)
    weights = scores.masked_fill(~seen, float("-inf")).softmax(-1, dtype=torch.float32)
    return drop_out(weights, dropout) @ value


AttentionInterface.register(NAME, _attention)
# The masks that transformers makes by itself are those of PyTorch's attention, too.
AttentionMaskInterface.register(NAME, sdpa_mask)
