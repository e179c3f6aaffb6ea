"""What the notebooks share: sizes, folders, the data on its way, and results kept between them."""

import json
import os
import platform
import random
import shutil
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from helpers.answering import score_choices
from helpers.encoding import Encoded, encode_all
from helpers.errors import CourseError
from helpers.models import load_model
from helpers.scoring import accuracy, choose
from helpers.splits import Split, open_sealed, seal, split_by_product
from helpers.table import REVIEWS, Row, read_table
from helpers.templates import TEMPLATES, Example, Template, load_library, make_examples
from helpers.training import History, TrainSettings, load_finished, train

ROOT = Path(__file__).resolve().parents[1]
TASK = "opinion"
# The wording that each task is tuned with; notebook 02 shows the others.
WORDING = {"opinion": "plain", "department": "plain", "headline": "plain"}
MINUTES = ROOT / "data" / "minutes.json"


@dataclass(frozen=True)
class Profile:
    """Sizes of the runs. A profile changes nothing else.

    train_rows: rows to train on. validation_rows: rows for choosing (epoch, learning rate, prompt).
    test_rows: most rows of the sealed test set to score. shots: numbers of shots to try.
    draws: how many draws of shots for each number. long_epochs, few_rows: the run of notebook 05
    that trains too long on too little. headline_rows: rows for the summarization task.
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


PROFILES = {
    profile.name: profile
    for profile in (
        Profile("quick", 160, 48, 96, (1, 2, 4, 8), 1, 16, 5, 48),
        Profile("laptop", 480, 96, 1000, (1, 2, 4, 8), 2, 48, 6, 240),
        Profile("gpu", 1000, 190, 1000, (1, 2, 4, 8), 4, 96, 10, 900),
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
    reference = measured.get(profile().name, {}).get(notebook)
    if reference is None:
        return "not yet timed"
    ratio = measured["gflops"] / matrix_speed()
    here = max(0.1, reference * ratio)
    return f"{reference:.1f} minutes on the reference machine, about {here:.1f} on this one"


def matrix_speed(seconds: float = 2.0) -> float:
    """Speed of fp32 matrix multiplication on this machine's processor, in GFLOP/s."""
    size = 1024
    a, b = torch.rand(size, size), torch.rand(size, size)
    _ = a @ b
    count, begin = 0, time.perf_counter()
    while time.perf_counter() - begin < seconds:
        _ = a @ b
        count += 1
    return count * 2 * size**3 / (time.perf_counter() - begin) / 1e9


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
    rows, _ = read_table(REVIEWS)
    return split_by_product(rows)


def course_template(task: str = TASK) -> Template:
    """The wording that a task is tuned with."""
    return load_library(TEMPLATES / f"{task}.yaml")[WORDING[task]]


def usable(rows: list[Row], template: Template) -> list[Row]:
    """Rows in which no field of the completion is empty."""
    return [row for row in rows if all(row[field] != "" for field in template.completion_fields)]


def train_examples(task: str = TASK) -> list[Example]:
    """Examples to train on, as many as the profile says; a seeded sample of the train part."""
    return _sample(course_split().train, task, _train_rows(task))


def validation_examples(task: str = TASK) -> list[Example]:
    """Examples to choose by, as many as the profile says."""
    return _sample(course_split().validation, task, profile().validation_rows)


def test_examples(task: str = TASK) -> list[Example]:
    """Examples of the sealed test set. Opening it is counted, and said."""
    path = runs() / "test.sealed.json"
    if not path.exists():
        print("The test set was not sealed yet (notebook 03 does it): sealing it now.")
        seal(course_split().test, path)
    rows, times = open_sealed(path)
    print(f"The sealed test set has now been opened {times} time{'s' if times > 1 else ''}.")
    return _sample(rows, task, profile().test_rows)


def _train_rows(task: str) -> int:
    return profile().headline_rows if task == "headline" else profile().train_rows


def _sample(rows: list[Row], task: str, count: int) -> list[Example]:
    template = course_template(task)
    rows = usable(rows, template)
    chosen = random.Random(0).sample(rows, min(count, len(rows)))
    return make_examples(template, chosen)


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


def tuned(task: str = TASK) -> Tuned:
    """The model tuned on a task with the default settings: from disk, or trained now."""
    model, tokenizer = load_model()
    window = model.config.max_position_embeddings
    train_set = encode_all(train_examples(task), tokenizer, window)
    settings, folder = TrainSettings(), runs() / task
    history = load_finished(model, train_set, settings, folder)
    if history is None:
        print(
            f"No finished run for the task {task!r} on disk: training one now, with notebook "
            "04's settings."
        )
        validation = validation_examples(task)
        validation_set: list[Encoded] = encode_all(validation, tokenizer, window)
        history = train(
            model,
            train_set,
            validation_set,
            settings,
            tokenizer.pad_token_id,
            folder,
            score=(lambda m: constrained_accuracy(m, tokenizer, validation))
            if validation[0].choices
            else None,
        )
    return Tuned(model, tokenizer, history)


def keep(name: str, result: object) -> None:
    """Keep a small result (anything JSON can hold) for the notebooks that come later."""
    path = runs() / f"{name}.json"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_text(json.dumps(result, indent=1), encoding="utf-8")
        os.replace(part, path)
    except OSError as error:
        raise CourseError(
            f"The result {name!r} could not be kept in {path.parent}: {error}. Free some space, or "
            "set COURSE_RUNS to a folder that you may write to, and run the cell again."
        ) from error


def recall(name: str) -> object | None:
    """What `keep` kept under that name, or None."""
    path = runs() / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
