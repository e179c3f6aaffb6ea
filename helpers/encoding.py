"""From examples to token ids: labels, the loss mask, and batches of similar length."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from helpers.errors import CourseError
from helpers.templates import Example

# The label that PyTorch's cross-entropy skips (its default `ignore_index`).
IGNORE = -100


class EncodingError(CourseError):
    """An example that cannot be turned into token ids without losing something."""


@dataclass(frozen=True)
class Encoded:
    """One example as token ids.

    input_ids: prompt, completion and end token.
    labels: same length; IGNORE over the prompt, the token's own id over completion and end token.
        They are not shifted: the loss compares position t's prediction with label t + 1.
    """

    input_ids: list[int]
    labels: list[int]


def joint(prompt: str) -> str:
    """What stands between a prompt and its completion: a space, unless white space is there."""
    return "" if prompt[-1:].isspace() else " "


def encode(example: Example, tokenizer: PreTrainedTokenizerBase, window: int) -> Encoded:
    """Encode one example; only the completion and the end token are supervised.

    Prompt and completion are tokenized apart, so the prompt's ids are the very ids that the model
    sees when it has to answer, and no token straddles the boundary.

    window: the most tokens that the model can take.
    Raises EncodingError for an empty completion, or when the example does not fit into the window.
    """
    if not example.completion.strip():
        raise EncodingError(
            f"Row {example.row_id!r} has an empty completion: there is nothing to learn from it. "
            "Fill the column that the template's completion names, or leave this row out."
        )
    prompt = tokenizer(example.prompt, add_special_tokens=False).input_ids
    text = joint(example.prompt) + example.completion
    # A review that holds "<|im_end|>" holds ten characters, and no end token.
    completion = tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids
    completion += [tokenizer.eos_token_id]
    length = len(prompt) + len(completion)
    if length > window:
        raise EncodingError(
            f"Row {example.row_id!r} needs {length} tokens (prompt {len(prompt)}, completion and "
            f"end {len(completion)}), but the window holds {window}. Cutting it would cut labels "
            "away in silence. Use a shorter template, shorten the text, or leave this row out."
        )
    return Encoded(prompt + completion, make_labels(prompt, completion))


def make_labels(prompt_ids: list[int], completion_ids: list[int]) -> list[int]:
    """The loss mask of an example: a label for each token of the prompt and of the completion.

    completion_ids: with the end token. Only the completion's tokens have a label that counts.
    """
    return [IGNORE] * len(prompt_ids) + completion_ids


def encode_all(
    examples: list[Example], tokenizer: PreTrainedTokenizerBase, window: int
) -> list[Encoded]:
    """Encode a list of examples; see `encode`."""
    return [encode(example, tokenizer, window) for example in examples]


def check_encoded(encoded: Sequence[Encoded], vocabulary: int) -> None:
    """Refuse examples from which a model with this vocabulary cannot learn.

    vocabulary: number of token ids that the model knows (rows of its embedding).
    Raises EncodingError: as many labels as tokens are not there, a token id or a label that the
    model does not know, no label that counts. (The first label never counts: nothing stands before
    it from which it could be predicted.)
    """
    for index, one in enumerate(encoded):
        if len(one.labels) != len(one.input_ids):
            raise EncodingError(
                f"The example at index {index} has {len(one.input_ids)} tokens and "
                f"{len(one.labels)} labels. Each token needs one label; {IGNORE} where the loss "
                "does not look."
            )
        known = range(vocabulary)
        strange = [token for token in one.input_ids if token not in known]
        strange += [label for label in one.labels if label not in known and label != IGNORE]
        if strange:
            raise EncodingError(
                f"The example at index {index} has the token id {strange[0]}, but the model knows "
                f"only 0 to {vocabulary - 1}. It was encoded with the tokenizer of another model; "
                "encode it again with the one that was loaded with this model."
            )
        if all(label == IGNORE for label in one.labels[1:]):
            raise EncodingError(
                f"The example at index {index} has no label that counts: all are {IGNORE}, so "
                "there is nothing to learn from it. Mask the prompt only, or leave this row out."
            )


def pad_batch(encoded: list[Encoded], pad_id: int) -> dict[str, Tensor]:
    """Stack examples into one rectangle, padded on the right.

    Returns int64 tensors of shape (batch, longest): input_ids (padded with `pad_id`),
    attention_mask (0 over padding) and labels (IGNORE over padding, whatever `pad_id` is).
    """
    longest = max(len(one.input_ids) for one in encoded)
    ids, mask, labels = [], [], []
    for one in encoded:
        gap = longest - len(one.input_ids)
        ids.append(one.input_ids + [pad_id] * gap)
        mask.append([1] * len(one.input_ids) + [0] * gap)
        labels.append(one.labels + [IGNORE] * gap)
    return {
        "input_ids": torch.tensor(ids),
        "attention_mask": torch.tensor(mask),
        "labels": torch.tensor(labels),
    }


def batches_by_length(
    lengths: list[int], batch_size: int, seed: int, pool: int = 8
) -> list[list[int]]:
    """Cut one epoch into batches of similar length; each index appears exactly once.

    The order is shuffled, cut into pools of `pool` batches, sorted by length within a pool, cut
    into batches, and the batches are shuffled: little padding, and still a new mixture each epoch.
    The same seed gives the same batches.
    """
    draw = random.Random(seed)
    order = list(range(len(lengths)))
    draw.shuffle(order)
    batches = []
    for start in range(0, len(order), pool * batch_size):
        part = sorted(order[start : start + pool * batch_size], key=lambda i: lengths[i])
        batches += [part[i : i + batch_size] for i in range(0, len(part), batch_size)]
    draw.shuffle(batches)
    return batches
