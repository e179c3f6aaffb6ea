"""What training on one task does to everything else: the measures, and a mixture that repairs.

A measure gives one number for each unit (a row, a paragraph or a question), in a fixed order. So
two models can be compared unit by unit, which shows smaller differences than two means do.
"""

import hashlib
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
import yaml
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from helpers.answering import generate_answers, score_choices
from helpers.encoding import IGNORE, Encoded, pad_batch
from helpers.errors import CourseError
from helpers.scoring import (
    bootstrap_interval,
    check_pairs,
    choose,
    holds_answer,
    rouge,
    wilson_interval,
)
from helpers.table import REVIEWS
from helpers.templates import Example, as_chat
from helpers.training import token_losses

PROSE = REVIEWS.with_name("prose.txt")
QUESTIONS = REVIEWS.with_name("questions.yaml")
# The most tokens of a free answer: headlines have 8 words at most, and questions want one fact.
HEADLINE_TOKENS, ANSWER_TOKENS = 12, 20


# ---------------------------------------------------------------------------------------------
# Texts that nobody trains on
# ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Question:
    """A general question, and the short answers of which a right one holds at least one."""

    question: str
    answers: tuple[str, ...]


def load_questions() -> list[Question]:
    """The course's general questions (data/questions.yaml)."""
    entries = yaml.safe_load(QUESTIONS.read_text(encoding="utf-8"))
    return [Question(entry["question"], tuple(entry["answers"])) for entry in entries]


def load_prose() -> list[str]:
    """The paragraphs of the course's plain text (data/prose.txt)."""
    return [text.strip() for text in PROSE.read_text(encoding="utf-8").split("\n\n")]


def encode_text(text: str, tokenizer: PreTrainedTokenizerBase) -> Encoded:
    """A plain text as token ids. Each token counts but the first, before which nothing stands."""
    ids = tokenizer(text, add_special_tokens=False).input_ids
    return Encoded(ids, [IGNORE, *ids[1:]])


@torch.no_grad()
def loss_of_each(
    model: PreTrainedModel, encoded: Sequence[Encoded], pad_id: int, batch_size: int = 16
) -> list[float]:
    """Mean cross-entropy of each text by itself, in nats per token that counts, in the order given.

    The same losses as `training.mean_loss` takes together into one number.
    """
    model.eval()
    losses = [0.0] * len(encoded)
    order = sorted(range(len(encoded)), key=lambda i: len(encoded[i].input_ids))
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        batch = pad_batch([encoded[row] for row in rows], pad_id)
        batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
        found, counts = token_losses(model, batch)
        each = torch.zeros(counts.shape, device=model.device)
        each[counts] = found
        for row, loss in zip(rows, (each.sum(1) / counts.sum(1)).tolist(), strict=True):
            losses[row] = loss
    return losses


def calibrate(scores: Tensor) -> Tensor:
    """The scores without the model's liking for single choices, whatever the prompt says.

    scores: log-probabilities of shape (prompts, choices). The mean of each choice over the prompts
    is taken off; no right answer is needed for that.
    Source: the idea is Zhao et al., "Calibrate Before Use", 2021.
    """
    return scores - scores.mean(0)


# ---------------------------------------------------------------------------------------------
# The panel: everything measured of one model
# ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measure:
    """What is measured, and how to read it.

    name: also tells the unit. counted: each unit is right (1) or wrong (0). lower_is_better: it is
    a loss. groups: for each unit what it belongs to, since rows of one product resemble each other.
    """

    name: str
    counted: bool
    lower_is_better: bool
    groups: tuple[Hashable, ...]

    def interval(self, values: Sequence[float]) -> tuple[float, float, float]:
        """Mean and 95 % interval of the values of one model."""
        if self.counted:
            return (fmean(values), *wilson_interval(round(sum(values)), len(values)))
        return (fmean(values), *bootstrap_interval(values, self.groups))

    def change(self, before: Sequence[float], after: Sequence[float]) -> "Change":
        """How one model differs from another on the same units."""
        mean, low, high = paired_change(before, after, self.groups)
        moved = sum(a != b for a, b in zip(before, after, strict=True))
        return Change(mean, low, high, moved, len(before), self.lower_is_better)


@dataclass(frozen=True)
class Change:
    """Mean difference of two models on the same units, with its 95 % interval.

    moved: on how many of the `units` they differ at all.
    """

    mean: float
    low: float
    high: float
    moved: int
    units: int
    lower_is_better: bool

    @property
    def verdict(self) -> str:
        """In words: "better", "worse", "no clear difference" or "the same on all ..."."""
        if self.moved == 0:
            return f"the same on all {self.units}"
        if self.low <= 0 <= self.high:
            return "no clear difference"
        return "better" if (self.mean < 0) == self.lower_is_better else "worse"

    def __str__(self) -> str:
        return f"{self.mean:+.3f} ({self.low:+.3f} to {self.high:+.3f}): {self.verdict}"


@dataclass(frozen=True)
class Look:
    """One look at one model. values: name of the measure → one number for each unit."""

    values: dict[str, list[float]]
    headlines: list[str]
    answers: list[str]


class Panel:
    """The course task beside things that a model is not trained on, always on the same units.

    course, other: examples of two classification tasks. headlines: examples without choices.
    groups: row_id → what the row belongs to (its product).
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        course: Sequence[Example],
        other: Sequence[Example],
        headlines: Sequence[Example],
        groups: dict[str, Hashable],
        names: tuple[str, str],
    ) -> None:
        self.tokenizer, self.paragraphs, self.questions = tokenizer, load_prose(), load_questions()
        self.course, self.other, self.headlines = list(course), list(other), list(headlines)
        self._names = names
        of_course, of_other, of_headlines = (
            tuple(groups[one.row_id] for one in examples) for examples in (course, other, headlines)
        )
        paragraphs, questions = (tuple(range(len(t))) for t in (self.paragraphs, self.questions))
        listed = [
            Measure(f"{names[0]}, accuracy", True, False, of_course),
            Measure(f"{names[1]}, accuracy", True, False, of_other),
            Measure(f"{names[1]}, loss (nats)", False, True, of_other),
            Measure("headline, ROUGE-1", False, False, of_headlines),
            Measure("prose, loss (nats/token)", False, True, paragraphs),
            Measure("questions, share right", True, False, questions),
        ]
        self.measures = {measure.name: measure for measure in listed}

    def look(self, model: PreTrainedModel) -> Look:
        """Measure everything of a model."""
        course_right, _ = self._choices(model, self.course)
        other_right, other_loss = self._choices(model, self.other)
        headlines = generate_answers(
            model, self.tokenizer, [one.prompt for one in self.headlines], HEADLINE_TOKENS
        )
        overlap = [
            rouge(said, one.completion)["rouge1"]
            for said, one in zip(headlines, self.headlines, strict=True)
        ]
        prose = [encode_text(text, self.tokenizer) for text in self.paragraphs]
        losses = loss_of_each(model, prose, self.tokenizer.pad_token_id)
        asked = [as_chat(Example(q.question, "", ""), self.tokenizer) for q in self.questions]
        answers = generate_answers(
            model, self.tokenizer, [one.prompt for one in asked], ANSWER_TOKENS
        )
        known = [
            float(holds_answer(said, one.answers))
            for said, one in zip(answers, self.questions, strict=True)
        ]
        found = (course_right, other_right, other_loss, overlap, losses, known)
        return Look(dict(zip(self.measures, found, strict=True)), headlines, answers)

    def version(self, *parts: Any) -> str:
        """A short hash of all that is measured and of `parts`: looks at other things differ."""
        everything = (
            self._names,
            self.course,
            self.other,
            self.headlines,
            self.paragraphs,
            self.questions,
            parts,
        )
        return hashlib.sha256(repr(everything).encode()).hexdigest()[:16]

    def _choices(
        self, model: PreTrainedModel, examples: list[Example]
    ) -> tuple[list[float], list[float]]:
        """For each row: is the calibrated answer right (1 or 0), and minus the log of the
        probability of the right one, of all the choices."""
        choices = examples[0].choices
        prompts = [one.prompt for one in examples]
        scores = calibrate(score_choices(model, self.tokenizer, prompts, choices))
        right = [
            float(answer == one.completion)
            for answer, one in zip(choose(scores, choices), examples, strict=True)
        ]
        columns = [choices.index(one.completion) for one in examples]
        losses = -scores.log_softmax(-1)[range(len(examples)), columns]
        return right, losses.tolist()


def paired_change(
    before: Sequence[float], after: Sequence[float], groups: Sequence[Hashable] | None = None
) -> tuple[float, float, float]:
    """By how much two models differ on the same units: mean difference and its 95 % interval.

    before, after: one number for each unit, in the same order. What the units differ in among
    themselves falls out, because only the difference within each unit is used.
    Returns (mean, low, high) of after - before; see bootstrap_interval, also for groups.
    """
    check_pairs(before, after)
    differences = [new - old for old, new in zip(before, after, strict=True)]
    low, high = bootstrap_interval(differences, groups)
    return fmean(differences), low, high


# ---------------------------------------------------------------------------------------------
# The repair
# ---------------------------------------------------------------------------------------------


def mix(examples: Sequence[Any], others: Sequence[Any], share: float) -> list[Any]:
    """As many examples as before, a `share` of them from other tasks; training shuffles them.

    The last examples make room for the first of `others`, so a run takes as many steps as without.

    Source: A. Robins, "Catastrophic forgetting, rehearsal and pseudorehearsal", 1995.
    Raises CourseError: a share outside 0 to 1, or too few others.
    """
    if not 0 <= share <= 1:
        raise CourseError(f"The share {share} does not lie between 0 and 1. A tenth is 0.1.")
    count = round(share * len(examples))
    if count > len(others):
        raise CourseError(
            f"{count} examples of other tasks are needed, and there are {len(others)}. Give more "
            "of them, or mix in a smaller share."
        )
    return [*examples[: len(examples) - count], *others[:count]]
