"""What training on one task does to everything else: the metrics, and a mixture that repairs.

A metric gives one number for each unit (a row, a paragraph or a question), in a fixed order, so
two models can be compared unit by unit.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import yaml
from datasets import Dataset, concatenate_datasets
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from helpers.data.task import Task
from helpers.data.tokenize import IGNORE, collate, completion_ids, prompt_ids
from helpers.errors import CourseError
from helpers.evaluation.metrics import holds_answer, main_metric, right_answers, row_scores
from helpers.evaluation.prompt_search import calibrate
from helpers.evaluation.uncertainty import groups_of, mean_interval, paired_change, verdict_of
from helpers.inference.generate import generate_answers
from helpers.inference.score import pick_own_choices, predict_answers, score_rows
from helpers.profiles import ROOT
from helpers.training.loss import evaluation_mode, loss_of_each
from helpers.training.settings import TrainSettings

# The most tokens of the answer to a general question, which wants one fact.
ANSWER_TOKENS = 20


# ---- texts that nobody trains on


@dataclass(frozen=True)
class Question:
    """A general question, and the short answers of which a right one holds at least one."""

    question: str
    answers: tuple[str, ...]


def load_questions() -> list[Question]:
    """The course's general questions (data/questions.yaml)."""
    entries = yaml.safe_load((ROOT / "data" / "questions.yaml").read_text(encoding="utf-8"))
    return [Question(entry["question"], tuple(entry["answers"])) for entry in entries]


def load_prose() -> list[str]:
    """The paragraphs of the course's plain text (data/prose.txt)."""
    text = (ROOT / "data" / "prose.txt").read_text(encoding="utf-8")
    return [paragraph.strip() for paragraph in text.split("\n\n")]


def tokenize_text(
    text: str, tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig
) -> dict[str, list[int]]:
    """A plain text as input_ids and labels. Each token is labelled but the first of the input,
    before which nothing stands. An encoder–decoder reads the first half of the words, and its
    labels are the second half.
    """
    if config.is_encoder_decoder:
        words = text.split()
        half = len(words) // 2
        return {
            "input_ids": prompt_ids(" ".join(words[:half]), tokenizer, config),
            "labels": completion_ids(" " + " ".join(words[half:]), tokenizer),
        }
    ids = prompt_ids(text, tokenizer, config)
    return {"input_ids": ids, "labels": [IGNORE, *ids[1:]]}


# ---- everything measured of one model


@dataclass(frozen=True)
class Metric:
    """What is measured, and how to read it.

    name: also tells the unit. groups: of each unit, as in mean_interval.
    """

    name: str
    groups: tuple[Hashable, ...] | None = None
    lower_is_better: bool = False

    def interval(self, values: Sequence[float]) -> tuple[float, float, float]:
        """Mean and 95 % interval of the values of one model."""
        return mean_interval(values, self.groups)

    def change(self, before: Sequence[float], after: Sequence[float]) -> "Change":
        """How one model differs from another on the same units."""
        return Change(*paired_change(before, after, self.groups), self.lower_is_better)


@dataclass(frozen=True)
class Change:
    """Mean difference of two models on the same units, with its 95 % interval."""

    mean: float
    low: float
    high: float
    lower_is_better: bool

    @property
    def verdict(self) -> str:
        """ "clearly better", "clearly worse" or "no clear difference" (see verdict_of)."""
        return verdict_of((self.low, self.high), self.lower_is_better)

    def __str__(self) -> str:
        return f"{self.mean:+.3f} ({self.low:+.3f} to {self.high:+.3f}): {self.verdict}"


@dataclass(frozen=True)
class EvalResult:
    """One evaluation of one model; of what JSON can hold.

    values: name of the metric → one number for each unit. answers: name of the task, or
    "questions" → what the model answered, one text for each unit.
    """

    values: dict[str, list[float]]
    answers: dict[str, list[str]]


class EvalSuite:
    """Tasks, plain prose and general questions, always the same units.

    tasks: name → task and its examples. Each has the mean of its row_scores as a metric; a task
    with choices is scored calibrated, and has the loss on the right choice as a second metric.
    `metrics`: name → Metric.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, tasks: Mapping[str, tuple[Task, Dataset]]
    ) -> None:
        self.tokenizer, self.paragraphs, self.questions = tokenizer, load_prose(), load_questions()
        self.tasks = {name: (task, list(examples)) for name, (task, examples) in tasks.items()}
        listed = []
        for name, (task, examples) in self.tasks.items():
            groups = groups_of(task, examples)
            listed.append(Metric(f"{name}, {main_metric(task)}", groups))
            if task.kind == "classification":
                listed.append(Metric(f"{name}, loss (nats)", groups, lower_is_better=True))
        listed.append(Metric("prose, loss (nats/token)", lower_is_better=True))
        listed.append(Metric("questions, share right"))
        self.metrics = {metric.name: metric for metric in listed}

    def evaluate(self, model: PreTrainedModel) -> EvalResult:
        """Measure everything of a model, in float32 also within a run that trains in bfloat16."""
        found, answers = [], {}
        given = {"batch_size": TrainSettings().rows_at_once}  # few where memory is short
        with evaluation_mode(model):
            for name, (task, examples) in self.tasks.items():
                if task.kind == "classification":
                    each = _answer_calibrated(model, self.tokenizer, examples, **given)
                    answers[name], losses = each
                    found += [row_scores(task, answers[name], examples), losses]
                else:
                    answers[name] = predict_answers(model, self.tokenizer, examples, **given)
                    found.append(row_scores(task, answers[name], examples))
            prose = [tokenize_text(text, self.tokenizer, model.config) for text in self.paragraphs]
            pad = partial(collate, pad_token_id=self.tokenizer.pad_token_id)
            found.append(loss_of_each(model, prose, pad, **given))
            chat = bool(self.tokenizer.chat_template)
            asked = [
                one.question if chat else f"Question: {one.question}\nAnswer:"
                for one in self.questions
            ]
            said = generate_answers(model, self.tokenizer, asked, ANSWER_TOKENS, chat, **given)
        pairs = zip(said, self.questions, strict=True)
        found.append([float(holds_answer(text, one.answers)) for text, one in pairs])
        answers["questions"] = said
        return EvalResult(dict(zip(self.metrics, found, strict=True)), answers)

    @property
    def key(self) -> list:
        """All that is measured, for results.cached."""
        rows = {
            name: [
                (row["row_id"], row["prompt"], right_answers(task, row), row.get("choices"))
                for row in examples
            ]
            for name, (task, examples) in self.tasks.items()
        }
        return [list(self.metrics), rows, self.paragraphs, self.questions]


def _answer_calibrated(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Mapping],
    batch_size: int,
) -> tuple[list[str], list[float]]:
    """For each row: the calibrated choice, and the loss on the right one: minus the logarithm of
    its probability among the row's choices (nats).

    Rows that differ in their choices are not calibrated: the label bias shows over many prompts.
    """
    choices = [row["choices"] for row in examples]
    prompts = [row["prompt"] for row in examples]
    scores = score_rows(model, tokenizer, prompts, choices, batch_size=batch_size)
    if all(of_row == choices[0] for of_row in choices):
        scores = calibrate(scores)
    each = (-scores.log_softmax(-1)).tolist()
    right = [of_row.index(row["answer"]) for of_row, row in zip(choices, examples, strict=True)]
    losses = [of_row[column] for of_row, column in zip(each, right, strict=True)]
    return pick_own_choices(scores, choices), losses


# ---- the repair


def mix(examples: Sequence[Any], others: Sequence[Any], share: float) -> Any:
    """As many examples as before, a `share` of them from other tasks; training shuffles them.

    The last examples make room for the first of `others`, so a run takes as many steps as without.
    Returns a list; of datasets, a Dataset with the columns that every task has.

    Source: A. Robins, "Catastrophic forgetting, rehearsal and pseudorehearsal", 1995.
    Raises CourseError: a share outside 0 to 1, or too few others.
    """
    count = round(share * len(examples))
    if not 0 <= share <= 1 or count > len(others):
        raise CourseError(
            f"A share of {share} would be {count} of {len(examples)} examples, and {len(others)} "
            "of other tasks were given. Give more, or mix in a smaller share: a tenth is 0.1."
        )
    kept = len(examples) - count
    if isinstance(examples, Dataset):
        parts = examples.select(range(kept)), others.select(range(count))
        columns = ["prompt", "completion", "answer", "row_id"]
        return concatenate_datasets([part.select_columns(columns) for part in parts])
    return [*examples[:kept], *others[:count]]
