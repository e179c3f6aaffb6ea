"""Sizes of the runs, the folder for their results, and the first line of each notebook."""

import json
import os
import platform
import shutil
import subprocess
import sys
import warnings
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import psutil
import torch

from helpers.errors import CourseError
from helpers.machine import matrix_speed

ROOT = Path(__file__).resolve().parents[1]
MINUTES = ROOT / "data" / "minutes.json"
# Names of models that load_model makes by itself.
STARTING_MODEL, TINY_MODEL = "smollm2-135m", "tiny-random"


@dataclass(frozen=True)
class Profile:
    """The model and the sizes of the runs. A profile changes nothing else.

    model: what load_model() loads. train_rows: rows to train on. validation_rows: rows for choosing
    (epoch, learning rate, prompt). test_rows: most rows of the sealed test set to score. shots:
    numbers of shots to try. draws: how many draws of shots for each number. long_epochs, few_rows:
    the run of notebook 05 that trains too long on too little. headline_rows: rows for the
    summarization task. speed_turns: how often 04 measures each trick's speed.
    apart_rows: rows that 04 trains on in a process of its own, to see how much memory that takes.
    forget_rows: rows that each run of notebook 08 trains on. look_rows: most validation rows of
    each task that 08 scores again and again.
    """

    name: str
    model: str
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


_REAL, _TINY = STARTING_MODEL, TINY_MODEL
PROFILES = {
    profile.name: profile
    for profile in (
        # smoke shows in seconds that every cell runs; what a random model says teaches nothing.
        Profile("smoke", _TINY, 24, 12, 12, (1,), 1, 8, 2, 12, 1, 8, 16, 8),
        Profile("quick", _REAL, 240, 48, 96, (1, 4), 1, 16, 5, 48, 1, 24, 80, 32),
        Profile("laptop", _REAL, 480, 96, 1000, (1, 2, 4, 8), 2, 32, 6, 240, 3, 240, 240, 72),
        Profile("gpu", _REAL, 1000, 190, 1000, (1, 2, 4, 8), 4, 96, 10, 900, 3, 480, 1000, 190),
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


def setup_notebook(name: str) -> None:
    """First line of each notebook: say what will run and for how long, and make it repeatable.

    Also makes `helpers` importable and the notebook's folder the working folder, wherever Jupyter
    was started. On Colab, it installs what is missing there.
    """
    if "google.colab" in sys.modules:
        install = [sys.executable, "-m", "pip", "install", "--quiet", "-r"]
        subprocess.run([*install, ROOT / "requirements-colab.txt"], check=True)
    torch.manual_seed(0)
    # One line of a library's own housekeeping would bury a learner's result.
    warnings.filterwarnings("ignore", category=FutureWarning)
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    os.chdir(ROOT / "notebooks")
    print(f"Notebook {name}, profile {profile().name!r}, {minutes(name)}.")


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
