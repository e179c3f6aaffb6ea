"""Cross-entropy on the labelled tokens: of each token, of a batch, of a whole set."""

import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from helpers.data.tokenize import IGNORE
from helpers.training.processes import share_of_process, total_of
from helpers.training.settings import ROWS_AT_ONCE, TrainingError
from helpers.training.shared_prefix import can_share, in_one_line, one_line, shared_length

# The most that an evaluation reads at once, besides ROWS_AT_ONCE: tokens (padding included), and
# labelled tokens, each of which needs a score for every token of the vocabulary.
TOKENS_AT_ONCE, LABELLED_AT_ONCE = 4096, 1024

Rows = Sequence[dict]  # a datasets.Dataset, or a list of its rows: input_ids and labels
Collate = Callable[[list[dict]], dict[str, Tensor]]


def labelled_tokens(model: PreTrainedModel, labels: Tensor) -> Tensor:
    """Which tokens the loss counts: bool, of the same shape as labels, (batch, length).

    A decoder-only model predicts each token from those before it, so never the first one. The
    labels of an encoder-decoder model are its decoder's whole text, and each counts.
    """
    labelled = labels != IGNORE
    if not model.config.is_encoder_decoder:
        labelled[:, 0] = False
    return labelled


def per_token_loss(model: PreTrainedModel, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Cross-entropy of each labelled token of a batch, and which tokens these are.

    The head, which turns each hidden state into one score per word of the vocabulary, is applied
    only where a labelled token is predicted, and a prefix that all rows share is read once: the
    same losses for much less work.

    batch: input_ids, labels and perhaps attention_mask, each int64 of shape (batch, length); the
    labels of an encoder-decoder model have a length of their own.
    Returns (float32 of shape (labelled tokens,) in nats, bool of the shape of the labels).
    """
    labels = batch["labels"]
    labelled = labelled_tokens(model, labels)
    if model.config.is_encoder_decoder:
        logits = model(**batch, use_cache=False).logits[labelled]
    else:
        logits = _logits_before(model, batch, labelled)
    return cross_entropy(logits.float(), labels[labelled], reduction="none"), labelled


def _logits_before(model: PreTrainedModel, batch: dict[str, Tensor], labelled: Tensor) -> Tensor:
    """The logits that predict the labelled tokens: (labelled tokens, vocabulary)."""
    # The token at t + 1 is predicted at t. (Nothing wraps around: column 0 is never labelled.)
    predicting = labelled.roll(-1, 1)
    inputs, mask = {"input_ids": batch["input_ids"]}, batch.get("attention_mask")
    # Padding must be masked where it stands before a row. Behind it, it is never seen.
    if mask is not None and not mask[:, 0].all():
        inputs["attention_mask"] = mask
        if "position_ids" in inspect.signature(model.forward).parameters:  # as when it is asked
            inputs["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
    elif can_share(model):  # the shared prefix once, then all rows, as a batch of one line
        shared = shared_length(batch)
        inputs = in_one_line(batch["input_ids"], shared)
        predicting = one_line(predicting, shared)
    # The model makes its logits by itself, since some scale or cap them after the head; the hook
    # only hands the head fewer hidden states: (1, labelled tokens, hidden size). (logits_to_keep
    # would not do: it keeps the same positions in every row.)
    head = model.get_output_embeddings()
    hook = head.register_forward_pre_hook(lambda _, given: (given[0][predicting][None],))
    try:
        return model(**inputs, use_cache=False).logits[0]
    finally:
        hook.remove()


def loss_sum(model: PreTrainedModel, batch: dict[str, Tensor]) -> tuple[Tensor, int]:
    """Cross-entropy summed over the labelled tokens of a batch (float32, in nats), and how many
    these are. batch: as for `per_token_loss`."""
    losses, labelled = per_token_loss(model, batch)
    return losses.sum(), int(labelled.sum())


def check_finite(total: float, count: int, norm: float = 0.0) -> None:
    """Raise TrainingError for a step that must not change a weight.

    total: loss summed over `count` labelled tokens. norm: of the gradient.
    """
    if not count:
        raise TrainingError(
            "No token of this batch is labelled, so it has no loss. Look for completions that "
            "were cut off or are not labelled."
        )
    if not math.isfinite(total) or not math.isfinite(norm):
        raise TrainingError(
            f"The loss of this step is {total / count} and its gradient norm {norm}: no step can "
            "be made from that, and the weights were left as they are. Try a lower learning rate, "
            "and look at the texts of this batch."
        )


def autocast(model: PreTrainedModel, precision: str) -> torch.autocast:
    """Inside, matrices are multiplied in this precision: "float32" or "bfloat16"."""
    return torch.autocast(model.device.type, torch.bfloat16, enabled=precision == "bfloat16")


def to_device(batch: dict[str, Tensor], model: PreTrainedModel) -> dict[str, Tensor]:
    """The batch where the model is."""
    return {name: tensor.to(model.device) for name, tensor in batch.items()}


@contextmanager
def evaluation_mode(model: PreTrainedModel, precision: str = "float32") -> Iterator[None]:
    """Inside: eval mode (no dropout), no gradients, and this precision (see autocast)."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad(), autocast(model, precision):
            yield
    finally:
        model.train(was_training)


def evaluate_loss(
    model: PreTrainedModel,
    dataset: Rows,
    collate: Collate,
    batch_size: int = ROWS_AT_ONCE,
    precision: str = "float32",
) -> float:
    """Mean cross-entropy of a set, in nats per labelled token (not a mean of batch means).

    batch_size: most rows at once. precision: as in TrainSettings.
    """
    rows = share_of_process(list(dataset))
    sums, counts = _row_sums(model, rows, collate, batch_size, precision)
    total, count = total_of(sum(sums, 0.0), sum(counts))  # 0.0: a process may have no row
    if not count:
        raise TrainingError("The set has no labelled token, so it has no loss.")
    return total / count


def loss_of_each(
    model: PreTrainedModel, dataset: Rows, collate: Collate, batch_size: int = ROWS_AT_ONCE
) -> list[float]:
    """Mean cross-entropy of each row by itself, in nats per labelled token, in the given order.

    batch_size: most rows at once.
    """
    pairs = zip(*_row_sums(model, list(dataset), collate, batch_size, "float32"), strict=True)
    return [total / count if count else math.nan for total, count in pairs]


def _row_sums(
    model: PreTrainedModel, rows: list[dict], collate: Collate, batch_size: int, precision: str
) -> tuple[list[float], list[int]]:
    """Of each row: cross-entropy summed over its labelled tokens, and how many these are."""
    sums, counts = [0.0] * len(rows), [0] * len(rows)
    with evaluation_mode(model, precision):
        for indices in _by_length(rows, batch_size):
            batch = to_device(collate([rows[index] for index in indices]), model)
            losses, labelled = per_token_loss(model, batch)
            # The mask picks the losses row by row, so they can be cut into rows again.
            of_rows = labelled.sum(1).tolist()
            for index, count, row in zip(indices, of_rows, losses.split(of_rows), strict=True):
                sums[index], counts[index] = row.sum().item(), count
    return sums, counts


def _by_length(rows: list[dict], batch_size: int) -> Iterator[list[int]]:
    """Indices of rows of similar length, few enough to be read at once (but at least one)."""
    lengths = [max(len(row["input_ids"]), len(row["labels"])) for row in rows]
    counts = [sum(label != IGNORE for label in row["labels"]) for row in rows]
    chosen, labelled = [], 0
    for index in sorted(range(len(rows)), key=lengths.__getitem__):
        labelled += counts[index]
        tokens = (len(chosen) + 1) * lengths[index]
        many = tokens > TOKENS_AT_ONCE or labelled > LABELLED_AT_ONCE
        if chosen and (len(chosen) == batch_size or many):
            yield chosen
            chosen, labelled = [], counts[index]
        chosen.append(index)
    if chosen:
        yield chosen
