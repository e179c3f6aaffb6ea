"""The specimens of notebook 09: functions with a silent bug, and what they are once mended.

Each broken function stands in its notebook cell, as a learner finds it. Here are the mended ones,
the cases that tell them apart, and a copy of the broken one as the first of the mistakes, so that
its message names the symptom.
"""

import inspect
import random
import re
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from helpers.data.tokenize import IGNORE, collate
from helpers.exercises.exercise import Case, Exercise, altered, same_value, wrong_answers
from helpers.exercises.fine_tune import PADDING_LABELLED, PADDING_SEEN, labels_by_id

_specimen = partial(Exercise, notebook="09_bug_museum", specimen=True)

# ---- Padding that is learned


def _padding_cases() -> list[Case]:
    one = {"input_ids": [4], "labels": [4]}
    two = {"input_ids": [5, 6], "labels": [IGNORE, 6]}
    ends = [
        {"input_ids": [7, 3, 2], "labels": [IGNORE, 3, 2]},
        {"input_ids": [7, 8, 9, 3, 2], "labels": [IGNORE, IGNORE, IGNORE, 3, 2]},
    ]
    return [
        Case(([one, two], 9), "One position has to be padded. Is it labelled?"),
        Case(([two, one, one], 9), "Two positions have to be padded."),
        Case((ends, 2), "Token 2 is the end token and the padding. Only real ends are labelled."),
        Case(([two], 9), "Nothing has to be padded."),
    ]


PADDED_BATCH = _specimen(
    name="padded_batch",
    title="Padding that is learned",
    minutes=5,
    difficulty=1,
    reference=collate,
    cases=_padding_cases(),
    mistakes=wrong_answers(
        PADDING_LABELLED,
        "Padding is labelled as if it were text. So the loss of an example depends on its "
        "neighbours in the batch, and much of it is about a token that nobody wrote.",
        labels_by_id,
        "Now every label with the id of the padding is ignored, even a real one. Where the "
        "end token is used as padding, the end is never learned. Go by the position.",
        PADDING_SEEN,
        "The labels are right. But the attention mask has to be 0 over the padding.",
        lambda rows, pad_token_id: collate(rows, IGNORE),
        "-100 is a mark for labels, not a token. As an input id it has no embedding.",
    ),
    hints=(
        "Three lists are padded in the loop. Should all three get the same filler?",
        "PyTorch's cross-entropy skips one number: write `[-100] * gap` in the line that pads "
        "the labels.",
    ),
)


# ---- The model that never stops


def stop_labels(input_ids: Tensor, attention_mask: Tensor, pad_id: int) -> Tensor:
    """Labels of a batch: every real token, also the end token, but no padding."""
    labels = input_ids.clone()
    labels[attention_mask == 0] = IGNORE
    return labels


def _stop_cases() -> list[Case]:
    batch = torch.tensor([[5, 8, 2, 2, 2], [5, 6, 7, 9, 2]])
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    return [
        Case(
            (torch.tensor([[5, 2]]), torch.tensor([[1, 1]]), 2),
            "Token 2 is the end of the text here. Nothing is padding.",
        ),
        Case((batch, mask, 2), "The first line: one real end, then padding with the same id."),
        Case((torch.tensor([[5, 2, 0]]), torch.tensor([[1, 1, 0]]), 0), "Padding has its own id."),
    ]


STOP_LABELS = _specimen(
    name="stop_labels",
    title="The model that never stops",
    minutes=5,
    difficulty=1,
    reference=stop_labels,
    cases=_stop_cases(),
    mistakes=wrong_answers(
        lambda ids, mask, pad_id: ids.masked_fill(ids == pad_id, IGNORE),
        "The real end token has the same id as the padding, and is thrown out with it. "
        "Nothing ever teaches the model to stop.",
        lambda ids, mask, pad_id: ids.clone(),
        "Now the padding is labelled as if it were text: that is the specimen before this one.",
        lambda ids, mask, pad_id: ids * mask,
        "Label 0 is a token like any other, and would be learned. The loss skips only -100.",
        lambda ids, mask, pad_id: ids.masked_fill(mask == 1, IGNORE),
        "It is the other way round: 1 in the attention mask means a real token.",
    ),
    hints=(
        "Two tokens have the same id, and only one of them is padding. What tells them apart?",
        "The attention mask is 0 exactly over the padding: `labels[attention_mask == 0] = -100`.",
    ),
)


# ---- Shifted twice


def next_token_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy: the prediction at each position against the token that comes next."""
    predictions, wanted = logits[:, :-1], labels[:, 1:]
    return cross_entropy(predictions.flatten(0, 1), wanted.flatten(), ignore_index=IGNORE)


def _shift_cases() -> list[Case]:
    made = torch.Generator().manual_seed(0)
    small = torch.tensor([[[1.0, 2.0, 0.0], [0.0, 0.0, 3.0], [2.0, 0.0, 0.0]]])
    labels = torch.tensor([[IGNORE, IGNORE, 2, 4, 1], [IGNORE, 3, 0, 1, IGNORE]])
    return [
        Case(
            (small, torch.tensor([[IGNORE, 1, 2]])),
            "Position 0 predicts token 1, and position 1 token 2. How often are labels shifted?",
        ),
        Case((torch.randn(2, 5, 5, generator=made), labels), "Two examples, with padding."),
    ]


NEXT_TOKEN_LOSS = _specimen(
    name="next_token_loss",
    title="Shifted twice",
    minutes=6,
    difficulty=2,
    reference=next_token_loss,
    cases=_shift_cases(),
    mistakes=wrong_answers(
        altered(
            next_token_loss, {"logits[:, :-1], labels[:, 1:]": "logits[:, :-2], labels[:, 2:]"}
        ),
        "Each position learns the token after the next one. The loss falls as it should, but "
        "what the model writes lacks its first token.",
        altered(next_token_loss, {"logits[:, :-1], labels[:, 1:]": "logits, labels"}),
        "Now each position learns the token that it has just read. That is easy and useless: "
        "the loss goes to zero, and the model repeats its input.",
        altered(
            next_token_loss, {"logits[:, :-1], labels[:, 1:]": "logits[:, 1:], labels[:, :-1]"}
        ),
        "Now each position learns the token before it. It has to predict the one after it.",
        altered(next_token_loss, {"=IGNORE": "=IGNORE, reduction='sum'"}),
        "The shift is right. But this is the sum. Return the mean.",
    ),
    hints=(
        "Follow one label by hand. At which position is it when the loss is computed?",
        "Two lines shift labels against predictions. One is enough: delete the line `labels = "
        "torch.cat(...)` and the one that makes `nothing`.",
    ),
)


# ---- A loss mask that is off by one


def labelled_predictions(prompt_length: int, length: int) -> list[int]:
    """For each prediction 0 or 1: is its target labelled? Position t predicts token t + 1."""
    mask = [0] * prompt_length + [1] * (length - prompt_length)
    return mask[1:]


LABELLED_PREDICTIONS = _specimen(
    name="labelled_predictions",
    title="A loss mask that is off by one",
    minutes=5,
    difficulty=2,
    reference=labelled_predictions,
    cases=(
        Case((3, 5), "Tokens 3 and 4 are the completion. They are predicted at positions 2 and 3."),
        Case((4, 5), "The completion is one token, the last. It is predicted at position 3."),
        Case((2, 8), "Six of the tokens are the completion."),
    ),
    mistakes=wrong_answers(
        lambda prompt, length: [0] * prompt + [1] * (length - prompt - 1),
        "The first token of the completion is not labelled. With answers of one token, the "
        "model learns nothing of the answer, only that it is over.",
        lambda prompt, length: [*labelled_predictions(prompt, length)[:-1], 0],
        "The first token is labelled now, but the last one no longer is. That is the end "
        "token, so the model would not learn to stop.",
        lambda prompt, length: [0] * prompt + [1] * (length - prompt),
        "One number too many: after the last token there is nothing to predict.",
        lambda prompt, length: [0] * (prompt - 2) + [1] * (length - prompt + 1),
        "Now the last token of the prompt is labelled as well.",
    ),
    hints=(
        "The loss mask says for each token whether it is labelled. At which position is that "
        "token predicted?",
        "For n tokens there are n - 1 predictions. The first token is never predicted: `return "
        "mask[1:]`.",
    ),
)


# ---- Tokens at the boundary


class _Tokenizer:
    """Cuts a text as GPT-2's tokenizer does: a space goes with the word after it.

    The pieces themselves serve as ids, so that a failing case can be read.
    """

    def __call__(self, text: str) -> list[str]:
        return re.findall(r" ?\w+| ?[^\w\s]+|\s+(?!\S)|\s+", text)

    def __repr__(self) -> str:
        return "tokenize"


def ids_and_labels(
    prompt: str, completion: str, tokenize: Callable, end: int
) -> tuple[list[int], list[int]]:
    """Ids of prompt, completion and end token; labels only for completion and end."""
    prompt_ids = tokenize(prompt)
    completion_ids = tokenize(completion) + [end]
    return prompt_ids + completion_ids, [IGNORE] * len(prompt_ids) + completion_ids


def _cut_by_length(prompt, completion, tokenize, end):
    ids = tokenize(prompt + completion) + [end]
    start = len(tokenize(prompt))
    return ids, [IGNORE] * start + ids[start:]


def _space_moved(prompt, completion, tokenize, end):
    bare = prompt.rstrip()
    return ids_and_labels(bare, prompt[len(bare) :] + completion, tokenize, end)


def _boundary_cases() -> list[Case]:
    tokenize, end = _Tokenizer(), "<end>"
    return [
        Case(("Rating: ", "good", tokenize, end), "The prompt ends in a space. Where does it go?"),
        Case(("Rating:", " good", tokenize, end), "Here the space belongs to the completion."),
        Case(("Sum it up", "ping", tokenize, end), "Together these would be one word."),
        Case(("Headline: ", "Too small", tokenize, end), "Two words to learn."),
    ]


IDS_AND_LABELS = _specimen(
    name="ids_and_labels",
    title="Tokens at the boundary",
    minutes=8,
    difficulty=2,
    reference=ids_and_labels,
    cases=_boundary_cases(),
    mistakes=wrong_answers(
        _cut_by_length,
        "Tokenized together, the end of the prompt and the start of the completion become one "
        "token, and the cut falls after it. The answer is not labelled, and the ids are not "
        "those that the model gets when it is asked.",
        _space_moved,
        "The whole answer is labelled now. But when the model is asked, it gets the prompt as "
        "it is, with its space: the first ids have to be exactly those of tokenize(prompt).",
        altered(ids_and_labels, {" + [end]": ""}),
        "The end token has to follow the completion.",
        altered(ids_and_labels, {"[IGNORE] * len(prompt_ids)": "prompt_ids"}),
        "Now the prompt is labelled as well.",
    ),
    hints=(
        "Compare the tokens of the prompt alone with the first tokens of prompt and completion "
        "together.",
        "Tokenize the two separately: `before, after = tokenize(prompt), tokenize(completion) + "
        "[end]`. Then join the lists: `return before + after, [-100] * len(before) + after`.",
    ),
)


# ---- A mask of zeros


def assistant_labels(input_ids: list[int], assistant_mask: list[int]) -> list[int]:
    """Labels of a conversation: its tokens where the mask is 1, -100 elsewhere.

    Raises ValueError when no token is left to learn from.
    """
    if not any(assistant_mask):
        raise ValueError("The loss mask marks no token. Does the chat template mark the answers?")
    return [token if bit else IGNORE for token, bit in zip(input_ids, assistant_mask, strict=True)]


_ZEROS_ACCEPTED = altered(assistant_labels, {"not any(assistant_mask)": "False"})


ASSISTANT_LABELS = _specimen(
    name="assistant_labels",
    title="A mask of zeros",
    minutes=4,
    difficulty=1,
    reference=assistant_labels,
    cases=(
        Case(([5, 6], [0, 0]), "No token is marked, so there is nothing to learn from."),
        Case(([5, 6, 7, 2], [0, 0, 1, 1]), "Two tokens of the answer are marked."),
        Case(([5, 6], [1, 1]), "Both tokens are marked."),
    ),
    mistakes=wrong_answers(
        _ZEROS_ACCEPTED,
        "A loss mask of zeros is accepted without a warning, and the run learns nothing from "
        "this conversation. Refuse it: raise a ValueError.",
        lambda ids, mask: _ZEROS_ACCEPTED(ids, mask if any(mask) else [1] * len(ids)),
        "Now everything is labelled where nothing was marked, the user's words included. "
        "Nobody asked for that: refuse such a loss mask.",
        lambda ids, mask: assistant_labels(ids, mask) if any(mask) else [],
        "An empty list of labels is as quiet as a list of -100. Refuse such a loss mask.",
    ),
    hints=(
        "A run should stop before the first step when there is nothing to learn from.",
        "`if not any(assistant_mask): raise ValueError(...)`, with words that say what to do.",
    ),
)


# ---- The end token outside the loss mask

Turns = list[tuple[str, str]]


def conversation_labels(turns: Turns, tokenize: Callable, end: int) -> tuple[list[int], list[int]]:
    """Ids and labels of a conversation; an answer and its end token are labelled."""
    ids, labels = [], []
    for role, text in turns:
        said = tokenize(text)
        if role == "assistant":
            said = said + [end]
        ids += said
        labels += said if role == "assistant" else [IGNORE] * len(said)
    return ids, labels


_END_OUTSIDE = altered(conversation_labels, {"+= said if": "+= [*said[:-1], IGNORE] if"})


def _only_the_last_end(turns: Turns, tokenize: Callable, end: int) -> tuple[list[int], list[int]]:
    ids, labels = _END_OUTSIDE(turns, tokenize, end)
    return ids, [*labels[:-1], ids[-1]]


def _conversation_cases() -> list[Case]:
    tokenize, end = _Tokenizer(), "<end>"
    one = [("user", "Is it good?"), ("assistant", " good")]
    two = [*one, ("user", " Why?"), ("assistant", " too small")]
    return [
        Case((one, tokenize, end), "One question and one answer. The end follows the answer."),
        Case((two, tokenize, end), "Two answers, each with an end of its own."),
    ]


CONVERSATION_LABELS = _specimen(
    name="conversation_labels",
    title="The end token outside the loss mask",
    minutes=5,
    difficulty=2,
    reference=conversation_labels,
    cases=_conversation_cases(),
    mistakes=wrong_answers(
        _END_OUTSIDE,
        "The end token stands in the ids, but it is not labelled. The model reads it and "
        "never learns to write it.",
        altered(conversation_labels, {"said + [end]": "said"}),
        "Now the end token is gone from the ids as well.",
        _only_the_last_end,
        "The last answer ends now. The answers before it still do not.",
        altered(conversation_labels, {"[IGNORE] * len(said)": "said"}),
        "Now the user's words are labelled as well.",
    ),
    hints=(
        "Which tokens does the model have to write itself when it answers?",
        "The end token needs its own label: `labels.append(end)` instead of `labels.append(-100)`.",
    ),
)


# ---- Accumulation that averages means


def step_loss(micro_batches: list[Tensor]) -> Tensor:
    """Loss of one step: the mean over all labelled tokens, however they were cut."""
    summed = sum(losses.sum() for losses in micro_batches)
    return summed / sum(len(losses) for losses in micro_batches)


STEP_LOSS = _specimen(
    name="step_loss",
    title="Accumulation that averages means",
    minutes=5,
    difficulty=2,
    reference=step_loss,
    cases=(
        Case(
            ([torch.tensor([1.0]), torch.tensor([4.0, 4.0, 4.0])],),
            "Four tokens: one with loss 1, three with loss 4. In one batch the mean would be 3.25.",
        ),
        Case(
            ([torch.tensor([0.5, 1.5]), torch.tensor([3.0]), torch.tensor([2.0] * 5)],),
            "Three micro-batches of different sizes.",
        ),
        Case(([torch.tensor([0.25, 0.75])],), "One micro-batch."),
    ),
    mistakes=wrong_answers(
        lambda batches: sum(losses.mean() for losses in batches) / len(batches),
        "Each micro-batch weighs the same, however few labelled tokens it has. A token in a "
        "short one weighs too much, and the step is not that of the big batch.",
        lambda batches: sum(losses.mean() for losses in batches),
        "The loss now grows with the number of micro-batches.",
        lambda batches: sum(losses.sum() for losses in batches) / len(batches),
        "The sums are right. Divide them by the number of tokens, not of micro-batches.",
        lambda batches: batches[-1].mean(),
        "Only the last micro-batch is left.",
    ),
    hints=(
        "What would the loss be if all these tokens were in one batch?",
        "Add up sums and counts, and divide once, at the end: `sum(losses.sum() for losses in "
        "micro_batches) / sum(len(losses) for losses in micro_batches)`.",
    ),
)


# ---- The average of averages, across processes


def local_loss(token_losses: Tensor, labelled_everywhere: int, processes: int) -> Tensor:
    """Loss of one process's share of a batch; afterwards the gradients are averaged.

    The average divides by `processes`, so that each share is multiplied by it first: what is left
    is the sum over all labelled tokens, divided by their number.
    """
    return token_losses.sum() * processes / labelled_everywhere


LOCAL_LOSS = _specimen(
    name="local_loss",
    title="The average of averages",
    minutes=6,
    difficulty=3,
    reference=local_loss,
    cases=(
        Case(
            (torch.tensor([1.0]), 4, 2),
            "One of four labelled tokens is here, the other three are in the other process.",
        ),
        Case((torch.tensor([4.0, 4.0, 4.0]), 4, 2), "And these are the other three."),
        Case((torch.tensor([0.5, 1.5]), 2, 1), "One process has everything."),
        Case((torch.zeros(0), 4, 2), "This process has no labelled token at all."),
    ),
    mistakes=wrong_answers(
        lambda losses, everywhere, processes: losses.mean(),
        "Each process divides by its own tokens, and then the processes are averaged. A token "
        "in a process with few of them weighs too much.",
        lambda losses, everywhere, processes: losses.sum() / everywhere,
        "Almost. The average over the processes divides once more: make up for it.",
        lambda losses, everywhere, processes: losses.sum(),
        "The loss now grows with the number of tokens. Divide by all of them.",
        lambda losses, everywhere, processes: losses.mean() / processes,
        "Each process still divides by its own tokens.",
    ),
    hints=(
        "Write down what the average of two processes should be: one sum, divided by all tokens.",
        "Multiply by what the average will divide by: `token_losses.sum() * processes / "
        "labelled_everywhere`.",
    ),
)


# ---- A batch without labels


def batch_loss(losses: Tensor, mask: Tensor) -> Tensor:
    """Mean loss per labelled token; 0 when there is none, and still with a gradient."""
    return (losses * mask).sum() / mask.sum().clamp(min=1)


_NOTHING_BY_NOTHING = altered(batch_loss, {".clamp(min=1)": ""})


def _judge_batch_loss(attempt: Callable) -> str | None:
    for values, mask in (
        ([2.0, 4.0], [0.0, 0.0]),
        ([2.0, 4.0, 9.0, 1.0], [1.0, 1.0, 0.0, 0.0]),
        ([[0.5, 1.0], [3.0, 2.0]], [[0.0, 0.0], [1.0, 0.0]]),
    ):
        losses = torch.tensor(values, requires_grad=True)
        call = f"batch_loss(tensor({values}), tensor({mask}))"
        got, right = attempt(losses, torch.tensor(mask)), batch_loss(losses, torch.tensor(mask))
        if not same_value(got, right):
            return f"{call} gives {got}, expected {right.item()}"
        if not getattr(got, "requires_grad", False):
            return f"{call} gives {got}, from which no gradient leads back to the model"
        (gradient,) = torch.autograd.grad(got, losses, allow_unused=True)
        if gradient is None and torch.tensor(mask).any():
            return f"{call} gives {got.item()}, from which no gradient leads back to the model"
        if gradient is not None and not gradient.isfinite().all():
            return f"{call} gives {got.item()}, but its gradient is {gradient.tolist()}"
    return None


BATCH_LOSS = _specimen(
    name="batch_loss",
    title="A batch without labels",
    minutes=5,
    difficulty=1,
    judge=_judge_batch_loss,
    answer="from torch import Tensor\n\n\n" + inspect.getsource(batch_loss),
    mistakes=wrong_answers(
        _NOTHING_BY_NOTHING,
        "Zero divided by zero is not a number (nan). Its gradient is nan for every weight, "
        "and after one step so is the model.",
        lambda losses, mask: torch.nan_to_num(_NOTHING_BY_NOTHING(losses, mask)),
        "The loss looks good now, but the backward pass still goes through the division, and "
        "the weights are ruined all the same. Do not divide by zero in the first place.",
        altered(batch_loss, {"mask.sum().clamp(min=1)": "mask.numel()"}),
        "No nan any more. But you divide by the number of all tokens, and the mean is over "
        "the labelled ones.",
        altered(batch_loss, {"mask.sum().clamp(min=1)": "(mask.sum() + 1)"}),
        "No nan any more. But adding 1 to the divisor makes every loss a little too small.",
        lambda losses, mask: batch_loss(losses, mask) if mask.any() else torch.tensor(0.0),
        "A new zero knows nothing of the model, so loss.backward() would raise an error. "
        "Compute it from the losses that you were given.",
    ),
    hints=(
        "What is divided by what when no token is labelled?",
        "A divisor of at least 1 changes nothing for all other batches: `(losses * mask).sum() / "
        "mask.sum().clamp(min=1)`.",
    ),
)


# ---- A learning rate that never warms up


def learning_rates(
    total_steps: int, peak: float, warmup_steps: int = 0, warmup_ratio: float = 0.0
) -> list[float]:
    """Learning rate of each step: it rises in even steps, then stays at the peak."""
    if warmup_ratio > 0:
        warmup_steps = int(warmup_ratio * total_steps)
    return [peak * min(1.0, step / max(1, warmup_steps)) for step in range(1, total_steps + 1)]


LEARNING_RATES = _specimen(
    name="learning_rates",
    title="A learning rate that never warms up",
    minutes=5,
    difficulty=1,
    reference=learning_rates,
    cases=(
        Case((4, 1.0, 2), "Two steps of warm-up were asked for: half the rate, then all of it."),
        Case((4, 1.0, 0, 0.5), "A ratio of one half: two of the four steps."),
        Case((3, 0.1), "No warm-up was asked for."),
        Case((10, 0.5, 4), "Four steps of warm-up."),
        Case((10, 0.5, 2, 0.5), "Both were given: the ratio wins, as the docstring says."),
    ),
    mistakes=wrong_answers(
        lambda n, peak, steps=0, ratio=0.0: learning_rates(n, peak, int(ratio * n)),
        "The number of warm-up steps that was asked for is overwritten by a ratio that "
        "nobody gave. The first step already has the full rate.",
        lambda n, peak, steps=0, ratio=0.0: learning_rates(n, peak, steps),
        "The steps are kept now. But when a ratio is given, it wins.",
        lambda n, peak, *warmup: learning_rates(n, peak, n),
        "Now it rises until the end: the warm-up is the whole run.",
        altered(learning_rates, {"step / max": "step // max"}),
        "During the warm-up the rate is zero. Integer division rounds every fraction of the "
        "peak down to 0.",
    ),
    hints=(
        "Ask for four warm-up steps and no ratio, and look at what the first lines do to them.",
        "A ratio of 0 means that none was given: `if warmup_ratio > 0:`.",
    ),
)


# ---- Dropout left on


def evaluate(model: torch.nn.Module, inputs: Tensor, targets: Tensor) -> float:
    """Mean loss without dropout; afterwards the model is in the mode that it was in."""
    mode = model.training
    model.eval()
    with torch.no_grad():
        loss = cross_entropy(model(inputs), targets).item()
    model.train(mode)
    return loss


def _only_no_grad(model: torch.nn.Module, inputs: Tensor, targets: Tensor) -> float:
    with torch.no_grad():
        return cross_entropy(model(inputs), targets).item()


def _mean_of_many(model: torch.nn.Module, inputs: Tensor, targets: Tensor) -> float:
    losses = [_only_no_grad(model, inputs, targets) for _ in range(3)]
    return sum(losses) / len(losses)


@torch.random.fork_rng(devices=[])  # the learner's own random numbers stay as they are
def _judge_evaluate(attempt: Callable) -> str | None:
    torch.manual_seed(0)
    inputs, targets = torch.eye(4), torch.tensor([0, 1, 2, 3])
    for training in (True, False):
        model = torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Linear(4, 4))
        with torch.no_grad():
            model[1].weight.copy_(3 * torch.eye(4))
            model[1].bias.zero_()
        right = evaluate(model.train(training), inputs, targets)
        model.train(training)
        said = [attempt(model, inputs, targets) for _ in range(3)]
        mode = "train" if training else "eval"
        after = "train" if model.training else "eval"
        if not all(same_value(one, said[0]) for one in said):
            return (
                f"evaluate(model, inputs, targets) was called three times with the same rows and "
                f"the same model in {mode} mode, and gave three losses: "
                + ", ".join(f"{float(one):.4f}" for one in said)
            )
        if not same_value(said[0], right):
            return f"with the model in {mode} mode it gives {said[0]}, expected {right}"
        if after != mode:
            return f"the model came in {mode} mode, and was left in {after} mode"
        if model[0].p != 0.5:
            return f"the model's dropout was 0.5, and was left at {model[0].p}"
    return None


EVALUATE = _specimen(
    name="evaluate",
    title="Dropout left on",
    minutes=6,
    difficulty=2,
    judge=_judge_evaluate,
    answer="import torch\nfrom torch import Tensor\nfrom torch.nn.functional import "
    "cross_entropy\n\n\n" + inspect.getsource(evaluate),
    mistakes=wrong_answers(
        _only_no_grad,
        "Dropout is still on. torch.no_grad() saves memory; it does not change what the model "
        "computes. So each call scores a different, randomly damaged model.",
        altered(evaluate, {"model.train(mode)": ""}),
        "Dropout is off now, and it stays off: training goes on without it. Put the model "
        "back into the mode it was in.",
        altered(evaluate, {"model.train(mode)": "model.train()"}),
        "A model that came in eval mode is left in train mode. Remember model.training, "
        "and restore it.",
        _mean_of_many,
        "A mean over several damaged models is still not the score of this model.",
    ),
    hints=(
        "Which method of a PyTorch module turns dropout off? And in which mode was the model "
        "before?",
        "Begin with `was = model.training` and `model.eval()`. After the loss is computed, "
        "`model.train(was)` restores the mode.",
    ),
)


# ---- Shots from the test set


def pick_shots(train_rows: list, test_rows: list, k: int, seed: int) -> list:
    """k different rows to show in the prompt, none of them from the test rows."""
    return random.Random(seed).sample(train_rows, k)


def _judge_shots(attempt: Callable) -> str | None:
    train_rows = [f"train {i}" for i in range(12)]
    test_rows = [f"test {i}" for i in range(6)]
    draws = []
    for seed in range(8):
        given = list(train_rows), list(test_rows)
        call, got = f"pick_shots(train_rows, test_rows, 4, {seed})", attempt(*given, 4, seed)
        if got is None:
            return f"{call} returns nothing. Does it end with return?"
        shots = list(got)
        if given != (train_rows, test_rows):
            return f"{call} changed the lists that it was given. Work on a copy."
        if len(shots) != 4 or any(shot not in train_rows + test_rows for shot in shots):
            return f"{call} gives {shots}, expected four of the rows"
        leaked = [shot for shot in shots if shot in test_rows]
        if leaked:
            return f"{call} gives {len(leaked)} of 4 shots from the test rows, as {leaked[0]!r}"
        if len(set(shots)) < 4:
            return f"{call} shows a row twice: {shots}"
        if shots != list(attempt(*given, 4, seed)):
            return f"{call} gives other shots when it is called again"
        draws.append(tuple(shots))
    if len(set(draws)) == 1:
        return f"all eight seeds give the same shots: {list(draws[0])}"
    return None


PICK_SHOTS = _specimen(
    name="pick_shots",
    title="Shots from the test set",
    minutes=4,
    difficulty=1,
    judge=_judge_shots,
    answer="import random\n\n\n" + inspect.getsource(pick_shots),
    mistakes=wrong_answers(
        lambda train, test, k, seed: random.Random(seed).sample(test, k),
        "A test row that is shown with its answer no longer tests anything. Some prompts even "
        "show the answer to their own question.",
        lambda train, test, k, seed: random.Random(seed).sample(train + test, k),
        "There are fewer of them, but some shots are still test rows. None may be.",
        lambda train, test, k, seed: train[:k],
        "No leak any more. But the seed has no effect: draw at random.",
        lambda train, test, k, seed: random.Random(seed).choices(train, k=k),
        "No leak any more. But a shot that is shown twice teaches nothing new.",
        lambda train, test, k, seed: random.sample(train, k),
        "No leak any more. But nobody can repeat the draw: use the seed.",
    ),
    hints=(
        "The function gets two lists. Which of them may be shown?",
        "Draw from the training rows alone, with the seed as before: `return "
        "random.Random(seed).sample(train_rows, k)`.",
    ),
)


# ---- The first ten rows


def rows_to_score(rows: list, n: int, seed: int) -> list:
    """n different rows, drawn at random; all of them when there are no more."""
    return random.Random(seed).sample(rows, min(n, len(rows)))


def _shuffled_in_place(rows: list, n: int, seed: int) -> list:
    random.Random(seed).shuffle(rows)
    return rows[:n]


def _judge_rows(attempt: Callable) -> str | None:
    rows = [f"{label} {i}" for label in ("bad", "good") for i in range(20)]
    draws = []
    for seed in range(8):
        given = list(rows)
        call, got = f"rows_to_score(rows, 10, {seed})", attempt(given, 10, seed)
        if got is None:
            return f"{call} returns nothing. Does it end with return?"
        drawn = list(got)
        if given != rows:
            return f"{call} changed the order of the rows that it was given. Work on a copy."
        if len(drawn) != 10 or any(row not in rows for row in drawn):
            return f"{call} gives {drawn}, expected 10 of the rows"
        if len(set(drawn)) < 10:
            return f"{call} gives a row twice, so it would count twice"
        if drawn != list(attempt(given, 10, seed)):
            return f"{call} gives other rows when it is called again"
        draws.append(drawn)
    if all(draw == draws[0] for draw in draws):
        bad = sum(row.startswith("bad") for row in draws[0])
        return (
            f"from 20 bad rows followed by 20 good ones, all eight seeds draw the same: {bad} bad"
        )
    if not any(row.startswith("good") for drawn in draws for row in drawn):
        return "from 20 bad rows followed by 20 good ones, eight seeds draw no good one"
    try:
        few = list(attempt(rows[:3], 10, 0))
    except ValueError as error:
        return f"of only three rows it cannot draw ten: ValueError: {error}"
    return None if sorted(few) == rows[:3] else f"of only three rows it gives {len(few)}"


ROWS_TO_SCORE = _specimen(
    name="rows_to_score",
    title="The first ten rows",
    minutes=4,
    difficulty=1,
    judge=_judge_rows,
    answer="import random\n\n\n" + inspect.getsource(rows_to_score),
    mistakes=wrong_answers(
        lambda rows, n, seed: rows[:n],
        "A table is often sorted, so its first rows are all of one kind. The score says "
        "something about these and nothing about the rest.",
        lambda rows, n, seed: rows[:: max(1, len(rows) // n)][:n],
        "Better than the first rows. But rows in a regular pattern would fool it, and the "
        "seed has no effect: draw at random.",
        _shuffled_in_place,
        "The draw is good. But whoever uses the table next finds it shuffled.",
        lambda rows, n, seed: random.sample(rows, min(n, len(rows))),
        "It is random, but nobody can repeat the draw: use the seed.",
        lambda rows, n, seed: random.Random(seed).choices(rows, k=n),
        "Draw without replacement: each row at most once.",
        lambda rows, n, seed: random.Random(seed).sample(rows, n),
        "There may be fewer rows than asked for: then take all of them.",
    ),
    hints=(
        "Draw at random, each row at most once. And when there are fewer rows than n?",
        "With `import random` above: `return random.Random(seed).sample(rows, min(n, len(rows)))`.",
    ),
)
