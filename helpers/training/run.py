"""A whole training run on a course task, and the tuned model that it gives."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from datasets import Dataset, DatasetDict
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from helpers.data.task import Task, load_examples
from helpers.data.tokenize import collate, tokenize
from helpers.errors import CourseError
from helpers.inference.score import choice_accuracy
from helpers.model.load import load_model
from helpers.profiles import runs_folder
from helpers.training.checkpoint import load_finished
from helpers.training.loop import train
from helpers.training.settings import History, TrainSettings


@dataclass(frozen=True)
class TunedModel:
    """A fine-tuned model and how it came to be."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    history: History

    @property
    def version(self) -> str:
        """A short hash of the run that made it: results kept with it belong to no other run."""
        return hashlib.sha256(self.history.to_json().encode()).hexdigest()[:16]


def train_task(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    validation: Dataset,
    sets: DatasetDict,
    settings: TrainSettings,
    folder: Path,
    watch: Callable[[History], None] | None = None,
) -> History:
    """`train` with what a task brings: its padding and, where it has choices, at each evaluation
    the constrained accuracy on the validation rows.

    validation: rendered rows. sets: tokenized, with train and validation.
    """
    pad = partial(collate, pad_token_id=tokenizer.pad_token_id)
    score = None
    if "choices" in validation.column_names:
        given = {"tokenizer": tokenizer, "examples": validation}
        score = partial(choice_accuracy, **given, batch_size=settings.rows_at_once)
    return train(model, sets["train"], sets["validation"], settings, pad, folder, score, watch)


def load_or_train(task: Task) -> TunedModel:
    """The starting model tuned on a task with the default settings: from disk, or trained now, as
    notebook 04 does it.

    Raises CourseError when that training is interrupted.
    """
    model, tokenizer = load_model()
    settings, folder = TrainSettings(), runs_folder(task.name)
    examples = load_examples(task)
    sets = tokenize(examples, tokenizer, model.config)
    history = load_finished(model, sets["train"], sets["validation"], settings, folder)
    if history is None:
        print(
            f"No finished run for the task {task.name!r} on disk: training one now, with notebook "
            "04's settings."
        )
        history = train_task(model, tokenizer, examples["validation"], sets, settings, folder)
        if history.stopped == "interrupted":
            raise CourseError(
                "The run was interrupted, so there is no tuned model yet. Run this cell again: "
                "training goes on from the run's last checkpoint."
            )
    return TunedModel(model, tokenizer, history)
