"""What the notebooks share: sizes, folders, the data on its way, and results kept between them."""

import copy
import hashlib
import json
import random
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from helpers.answering import score_choices
from helpers.encoding import Encoded, encode_all
from helpers.errors import CourseError
from helpers.files import set_aside, write_whole
from helpers.models import load_model
from helpers.profiles import profile, runs
from helpers.prompting import draw_shots, few_shot_prompt
from helpers.scoring import accuracy, choose
from helpers.splits import Split, open_sealed, seal, split_by_product
from helpers.table import REVIEWS, Row, read_table
from helpers.templates import (
    TEMPLATES,
    Example,
    Template,
    as_chat,
    load_library,
    make_examples,
)
from helpers.training import History, TrainSettings, load_finished, train

TASK = "opinion"
# The wording that a task is tuned with; notebook 02 shows the others. It begins with the
# instruction, which is the same for all rows: training reads it once a batch (shared_prefix).
WORDING = "instruction"


def course_split() -> Split:
    """The cleaned table, split by product: the same split in every notebook."""
    return copy.deepcopy(_split(REVIEWS.stat().st_mtime))


@lru_cache(maxsize=1)
def _split(changed: float) -> Split:
    """Read and split once for each state of the file; it is asked for again and again."""
    return split_by_product(read_table(REVIEWS)[0])


def course_template(task: str = TASK) -> Template:
    """The wording that a task is tuned with."""
    return load_library(TEMPLATES / f"{task}.yaml")[WORDING]


def usable(rows: list[Row], template: Template) -> list[Row]:
    """Rows in which no field of the completion is empty."""
    return [row for row in rows if all(row[field] != "" for field in template.completion_fields)]


def train_rows(task: str = TASK) -> list[Row]:
    """Rows to train on, as many as the profile says; a seeded sample of the train part."""
    count = profile().headline_rows if task == "headline" else profile().train_rows
    return _sample(course_split().train, task, count)


def validation_rows(task: str = TASK) -> list[Row]:
    """Rows to choose by, as many as the profile says."""
    return _sample(course_split().validation, task, profile().validation_rows)


def test_rows(task: str = TASK) -> list[Row]:
    """Rows of the sealed test set. Opening it is counted, and said."""
    path = runs() / "test.sealed.json"
    if not path.exists():
        print("The test set was not sealed yet (notebook 03 does it): sealing it now.")
        seal(course_split().test, path)
    rows, times = open_sealed(path)
    print(f"The sealed test set has now been opened {times} time{'s' if times > 1 else ''}.")
    return _sample(rows, task, profile().test_rows)


def train_examples(task: str = TASK) -> list[Example]:
    """The rows to train on, in the wording that the task is tuned with."""
    return make_examples(course_template(task), train_rows(task))


def validation_examples(task: str = TASK) -> list[Example]:
    """The rows to choose by, in the wording that the task is tuned with."""
    return make_examples(course_template(task), validation_rows(task))


def _sample(rows: list[Row], task: str, count: int) -> list[Row]:
    rows = usable(rows, course_template(task))
    return random.Random(0).sample(rows, min(count, len(rows)))


def constrained_accuracy(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, examples: list[Example]
) -> float:
    """Share of examples whose best-scoring choice is the right one."""
    choices = examples[0].choices
    scores = score_choices(model, tokenizer, [e.prompt for e in examples], choices)
    return accuracy(choose(scores, choices), [e.completion for e in examples])


@dataclass(frozen=True)
class Tuned:
    """A fine-tuned model and how it came to be."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    history: History

    @property
    def version(self) -> str:
        """A short hash of the run that made it: results kept with it belong to no other run."""
        return hashlib.sha256(self.history.to_json().encode()).hexdigest()[:16]


def fine_tune(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    settings: TrainSettings,
    folder: Path,
    task: str = TASK,
) -> History:
    """Train a model on a task as notebook 04 does; see `train` for the rest."""
    validation = validation_examples(task)

    def score(model: PreTrainedModel) -> float:
        return constrained_accuracy(model, tokenizer, validation)

    return train(
        model,
        _encoded(train_examples(task), model, tokenizer),
        _encoded(validation, model, tokenizer),
        settings,
        tokenizer.pad_token_id,
        folder,
        score=score if validation[0].choices else None,
    )


def _encoded(
    examples: list[Example], model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> list[Encoded]:
    return encode_all(examples, tokenizer, model.config.max_position_embeddings)


def tuned(task: str = TASK) -> Tuned:
    """The model tuned on a task with the default settings: from disk, or trained now.

    Raises CourseError when that training is interrupted.
    """
    model, tokenizer = load_model()
    settings, folder = TrainSettings(), runs() / task
    history = load_finished(
        model, _encoded(train_examples(task), model, tokenizer), settings, folder
    )
    if history is None:
        print(
            f"No finished run for the task {task!r} on disk: training one now, with notebook "
            "04's settings."
        )
        history = fine_tune(model, tokenizer, settings, folder, task)
        if history.stopped == "interrupted":
            raise CourseError(
                "The run was interrupted, so there is no tuned model yet. Run this cell again: "
                "training goes on from the run's last checkpoint."
            )
    return Tuned(model, tokenizer, history)


@dataclass(frozen=True)
class PromptChoice:
    """One way to put a task to the starting model, and how it did on validation rows.

    template: name of the wording. chat: whether the whole prompt is wrapped in the chat template.
    shots, seed: how many shots, and which draw of them. offsets: for each choice, what is taken off
    its log-probability before the largest is picked; all 0.0 when it is not calibrated.
    correct: right answers among `total` validation rows.
    """

    task: str
    template: str
    chat: bool
    shots: int
    seed: int
    offsets: tuple[float, ...]
    correct: int
    total: int

    @property
    def accuracy(self) -> float:
        """Constrained accuracy on the validation rows."""
        return self.correct / self.total

    @property
    def calibrated(self) -> bool:
        """Whether anything is taken off the log-probabilities."""
        return any(self.offsets)

    def __str__(self) -> str:
        chat = ", as chat" if self.chat else ""
        shots = f"{self.shots} shot{'' if self.shots == 1 else 's'}"
        draw = f" (draw {self.seed})" if self.shots else ""
        return f"{self.template}{chat}, {shots}{draw}{', calibrated' if self.calibrated else ''}"


def prompted(
    choice: PromptChoice, rows: list[Row], tokenizer: PreTrainedTokenizerBase
) -> list[Example]:
    """The rows as full prompts: shots from the training rows, wording and chat as chosen."""
    template = load_library(TEMPLATES / f"{choice.task}.yaml")[choice.template]
    training = make_examples(template, train_rows(choice.task)) if choice.shots else []
    shots = draw_shots(training, choice.shots, choice.seed)
    examples = [few_shot_prompt(shots, example) for example in make_examples(template, rows)]
    return [as_chat(example, tokenizer) for example in examples] if choice.chat else examples


def ask(
    choice: PromptChoice,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: list[Row],
) -> list[str]:
    """The constrained answer to each row, asked and calibrated as chosen."""
    examples = prompted(choice, rows, tokenizer)
    choices = examples[0].choices
    scores = score_choices(model, tokenizer, [e.prompt for e in examples], choices)
    return choose(scores - torch.tensor(choice.offsets), choices)


def prompt_trials(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, task: str = TASK
) -> list[PromptChoice]:
    """All the ways to ask that the course tries, scored on the validation rows; kept on disk.

    First every wording without shots, as it is and as chat; then the two best of these with shots,
    in every number and draw of the profile. Each counts twice, as it is and calibrated: the mean
    log-probability of each choice over the validation prompts (their answers are not used) is
    taken off. That a row is in its own mean changes no answer, since leaving it out would only
    multiply all differences by n / (n - 1).

    Wordings that show other columns than the one for tuning are left out, to be fair.
    Source: the idea of calibrating is Zhao et al., "Calibrate Before Use", 2021.
    """
    kept = _kept_trials(task)
    if kept:
        print(f"Read from disk: {len(kept)} trials of an earlier run.")
        return kept
    fields = course_template(task).prompt_fields
    names = [
        name
        for name, t in load_library(TEMPLATES / f"{task}.yaml").items()
        if t.prompt_fields == fields
    ]
    asks = [(name, chat) for name in names for chat in (False, True)]
    trials = []
    for name, chat in asks:
        trials += _try(model, tokenizer, PromptChoice(task, name, chat, 0, 0, (), 0, 0))
    ranked = sorted(trials, key=lambda trial: -trial.correct)
    best = list(dict.fromkeys((trial.template, trial.chat) for trial in ranked))[:2]
    for name, chat in best:
        for shots in profile().shots:
            for seed in range(profile().draws):
                choice = PromptChoice(task, name, chat, shots, seed, (), 0, 0)
                trials += _try(model, tokenizer, choice)
    keep(f"prompts_{task}", {"of": _fingerprint(task), "trials": [asdict(t) for t in trials]})
    return trials


def best_prompt(task: str = TASK) -> PromptChoice:
    """The way to ask that got most validation rows right: from disk, or tried now.

    Of equals the first tried one, which has fewer shots.
    """
    trials = _kept_trials(task)
    if trials is None:
        print(
            f"No prompt has been chosen for the task {task!r} (notebook 01 does it): trying them "
            "all now."
        )
        trials = prompt_trials(*load_model(), task)
    return max(trials, key=lambda trial: trial.correct)


def _try(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, choice: PromptChoice
) -> list[PromptChoice]:
    """The choice as it is and calibrated, with offsets and right answers filled in."""
    examples = prompted(choice, validation_rows(choice.task), tokenizer)
    choices, truth = examples[0].choices, [e.completion for e in examples]
    scores = score_choices(model, tokenizer, [e.prompt for e in examples], choices)
    tried = []
    for offsets in (torch.zeros(len(choices)), scores.mean(0)):
        right = sum(a == b for a, b in zip(choose(scores - offsets, choices), truth, strict=True))
        filled = {"offsets": tuple(offsets.tolist()), "correct": right, "total": len(truth)}
        tried.append(replace(choice, **filled))
    print(f"{tried[0]}: {tried[0].accuracy:.2f}, calibrated: {tried[1].accuracy:.2f}", flush=True)
    return tried


def _kept_trials(task: str) -> list[PromptChoice] | None:
    """Trials on disk, unless wordings, rows or sizes have changed since."""
    kept = recall(f"prompts_{task}")
    if kept is None or kept["of"] != _fingerprint(task):
        return None
    try:
        return [PromptChoice(**{**t, "offsets": tuple(t["offsets"])}) for t in kept["trials"]]
    except TypeError:  # another version of the course has other fields
        return None


def _fingerprint(task: str) -> str:
    """A short hash of all that the trials depend on, besides the starting model."""
    library = (TEMPLATES / f"{task}.yaml").read_text(encoding="utf-8")
    parts = [library, train_rows(task), validation_rows(task), profile().shots, profile().draws]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def keep(name: str, result: object) -> None:
    """Keep a small result (anything JSON can hold) for the notebooks that come later."""
    path = runs() / f"{name}.json"
    try:
        write_whole(path, json.dumps({"sha256": _digest(result), "result": result}, indent=1))
    except OSError as error:
        raise CourseError(
            f"The result {name!r} could not be kept in {path.parent}: {error}. Free some space, or "
            "set COURSE_RUNS to a folder that you may write to, and run the cell again."
        ) from error


def recall(name: str) -> object | None:
    """What `keep` kept under that name, or None.

    A file that is damaged, or that `keep` did not write, is renamed and counts as none.

    Raises CourseError when the file cannot be read or renamed.
    """
    path = runs() / f"{name}.json"
    try:
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
            if kept["sha256"] == _digest(kept["result"]):
                return kept["result"]
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            pass
        aside = set_aside(path)
    except OSError as error:
        raise CourseError(
            f"The kept result {path} cannot be read: {error}. Make the file readable and its "
            "folder writable, or set COURSE_RUNS to another folder; there, all is made anew."
        ) from error
    print(f"{path.name} is damaged: it is kept as {aside.name}, and not used.")
    return None


def _digest(result: object) -> str:
    """SHA-256 of a result, the same before it is kept and after it is read."""
    return hashlib.sha256(json.dumps(result).encode()).hexdigest()
