"""What the notebooks share: sizes, folders, the data on its way, and results kept between them."""

import copy
import hashlib
import json
import os
import platform
import random
import shutil
import warnings
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path

import psutil
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from helpers.answering import score_choices
from helpers.encoding import Encoded, encode_all
from helpers.errors import CourseError
from helpers.files import set_aside, write_whole
from helpers.machine import matrix_speed
from helpers.models import load_model
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

ROOT = Path(__file__).resolve().parents[1]
TASK = "opinion"
# The wording that a task is tuned with; notebook 02 shows the others. It begins with the
# instruction, which is the same for all rows: training reads it once a batch (shared_prefix).
WORDING = "instruction"
MINUTES = ROOT / "data" / "minutes.json"
BANDS = ROOT / "data" / "bands.json"


@dataclass(frozen=True)
class Profile:
    """Sizes of the runs. A profile changes nothing else.

    train_rows: rows to train on. validation_rows: rows for choosing (epoch, learning rate, prompt).
    test_rows: most rows of the sealed test set to score. shots: numbers of shots to try.
    draws: how many draws of shots for each number. long_epochs, few_rows: the run of notebook 05
    that trains too long on too little. headline_rows: rows for the summarization task.
    speed_turns: how often 04 measures each trick's speed.
    apart_rows: rows that 04 trains on in a process of its own, to see how much memory that takes.
    forget_rows: rows that each run of notebook 08 trains on. look_rows: most validation rows of
    each task that 08 scores again and again.
    """

    name: str
    train_rows: int
    validation_rows: int
    test_rows: int
    shots: tuple[int, ...]
    draws: int
    few_rows: int
    long_epochs: int
    headline_rows: int
    speed_turns: int
    apart_rows: int
    forget_rows: int
    look_rows: int


PROFILES = {
    profile.name: profile
    for profile in (
        Profile("quick", 240, 48, 96, (1, 4), 1, 16, 5, 48, 1, 24, 80, 32),
        Profile("laptop", 480, 96, 1000, (1, 2, 4, 8), 2, 32, 6, 240, 3, 240, 240, 72),
        Profile("gpu", 1000, 190, 1000, (1, 2, 4, 8), 4, 96, 10, 900, 3, 480, 1000, 190),
    )
}


def profile() -> Profile:
    """The sizes in force: COURSE_PROFILE, "laptop" if that is not set.

    Raises CourseError for a profile that does not exist.
    """
    name = os.environ.get("COURSE_PROFILE", "laptop")
    if name not in PROFILES:
        raise CourseError(
            f"There is no profile {name!r}. COURSE_PROFILE can be one of: {', '.join(PROFILES)}. "
            "Set it before Jupyter starts, or leave it unset for 'laptop'."
        )
    return PROFILES[name]


def runs() -> Path:
    """The folder for the results of this profile (COURSE_RUNS changes where)."""
    return Path(os.environ.get("COURSE_RUNS") or ROOT / "runs") / profile().name


def start(notebook: str) -> None:
    """First line of each notebook: say what will run here and for how long; make it repeatable."""
    torch.manual_seed(0)
    # One line of a library's own housekeeping would bury a learner's result.
    warnings.filterwarnings("ignore", category=FutureWarning)
    print(f"Notebook {notebook}, profile {profile().name!r}, {minutes(notebook)}.")


def minutes(notebook: str) -> str:
    """How long a notebook took on the reference machine, and what to expect here, in words.

    The times are measured (data/minutes.json); the guess for this machine scales them by the speed
    of a two-second matrix multiplication.
    """
    measured = json.loads(MINUTES.read_text(encoding="utf-8")) if MINUTES.exists() else {}
    times = measured.get(profile().name, {"minutes": {}})
    reference = times["minutes"].get(notebook)
    if reference is None:
        return "not timed with these sizes"
    here = max(0.1, reference * times["gflops"] / _speed_here())
    return f"{reference:.1f} minutes on the reference machine, about {here:.1f} on this one"


@lru_cache(maxsize=1)
def _speed_here() -> float:
    """Measured once in each notebook: the map of all notebooks asks for it many times."""
    return matrix_speed()


def machine() -> dict[str, str]:
    """What this machine has, for people to read."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {
        "Python": platform.python_version(),
        "PyTorch": torch.__version__,
        "processor cores used": str(torch.get_num_threads()),
        "memory": f"{psutil.virtual_memory().total / 1e9:.1f} GB",
        "memory free": f"{psutil.virtual_memory().available / 1e9:.1f} GB",
        "disk free": f"{shutil.disk_usage(ROOT).free / 1e9:.1f} GB",
        "GPU": gpu,
    }


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


def run_elsewhere(task: str, settings: TrainSettings) -> dict | None:
    """How 04's run ended with other roundings, and so where it is expected to end on any machine.

    Returns {"runs": one dictionary for each run, "bands": a lowest and a highest value for the best
    "validation loss" (nats per supervised token) and its "accuracy"}, or None if data/bands.json
    (written by tools/bands.py) has nothing for this profile, task and settings. How numbers are
    rounded (precision, micro_batch) does not count among the settings.
    """
    stored = json.loads(BANDS.read_text(encoding="utf-8")).get(profile().name)
    return stored if stored and stored["of"] == run_key(task, settings) else None


def run_key(task: str, settings: TrainSettings) -> str:
    """A short hash of all that a run depends on, besides the starting model and rounding."""
    decides = {k: v for k, v in asdict(settings).items() if k not in ("precision", "micro_batch")}
    parts = [decides, train_examples(task), validation_examples(task)]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


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
