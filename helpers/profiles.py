"""Sizes of the runs, the folders for their results, and the first line of each notebook."""

import json
import os
import platform
import shutil
import subprocess
import sys
import threading
import warnings
from _thread import interrupt_main
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from helpers.errors import CourseError

ROOT = Path(__file__).resolve().parents[1]
MINUTES = ROOT / "data" / "minutes.json"
STARTING_MODEL, TINY_RANDOM = "smollm2-135m", "tiny-random"
DRIVE = Path("/content/drive")  # where Colab shows Google Drive
# JupyterLab breaks a printed line anywhere, also within a word.
WHOLE_WORDS = "<style>.jp-RenderedText pre { word-break: normal }</style>"


@dataclass(frozen=True)
class Profile:
    """Sizes of the runs. A profile changes nothing else."""

    name: str
    train_rows: int
    validation_rows: int  # for choosing (epoch, learning rate, prompt)
    test_rows: int  # most rows of the locked test set to score
    shots: tuple[int, ...]  # numbers of shots to try
    draws: int  # of shots, for each of these numbers
    few_rows: int  # with long_epochs: the run of 05 that trains too long on too little
    long_epochs: int
    search_rows: int  # with search_seeds: each run in 05's search for settings
    search_seeds: int
    speed_turns: int  # how often A measures each trick's speed
    ledger_rows: int  # that A trains on in a process of its own, to see how much memory it takes
    forget_rows: int  # that each run of 08 trains on
    eval_rows: int  # most rows of each task that 08 scores again and again
    model: str = STARTING_MODEL  # what load_model() loads


_ALL = [
    # smoke shows that every cell runs, on any machine and in about a minute (longer in 12, which
    # starts many processes): it teaches nothing.
    Profile("smoke", 24, 12, 12, (1,), 1, 8, 2, 8, 1, 1, 8, 16, 8, TINY_RANDOM),
    Profile("quick", 64, 24, 48, (1, 4), 1, 8, 4, 16, 1, 1, 8, 16, 12),
    Profile("laptop", 480, 96, 1000, (1, 2, 4, 8), 2, 32, 6, 96, 3, 3, 64, 160, 72),
    Profile("gpu", 1000, 190, 1000, (1, 2, 4, 8), 4, 96, 10, 240, 3, 3, 480, 1000, 190),
]
PROFILES = {one.name: one for one in _ALL}


def profile() -> Profile:
    """The sizes in force: COURSE_PROFILE, "laptop" if that is not set.

    Raises CourseError for a profile that does not exist.
    """
    name = os.environ.get("COURSE_PROFILE") or "laptop"
    if name not in PROFILES:
        raise CourseError(
            f"There is no profile {name!r}. COURSE_PROFILE can be one of: {', '.join(PROFILES)}. "
            "Set it before Jupyter starts, or leave it unset for 'laptop'."
        )
    return PROFILES[name]


def runs_folder(task: str | None = None) -> Path:
    """The folder for the results of this profile, or of one task in it (COURSE_RUNS moves them)."""
    folder = Path(os.environ.get("COURSE_RUNS") or ROOT / "runs") / profile().name
    return folder / task if task else folder


def setup_notebook(name: str) -> None:
    """First line of each notebook: say what will run and for how long, and make it repeatable.

    Seeds PyTorch, makes `helpers` importable and the notebook's folder the working folder wherever
    Jupyter was started, and keeps the libraries' own housekeeping out of the outputs: no progress
    bars, no FutureWarning, and no cache of mapped datasets, which would go on serving old rows
    after a helper was edited. In JupyterLab, printed lines break between words. The stop button
    also works where Python drops interrupts. On Colab and Kaggle, it first installs what is missing
    there.

    Raises CourseError when COURSE_RUNS lies in Google Drive and Drive cannot be mounted.
    """
    colab = "google.colab" in sys.modules
    if colab or "KAGGLE_KERNEL_RUN_TYPE" in os.environ:
        install = [sys.executable, "-m", "pip", "install", "--quiet", "-r"]
        subprocess.run([*install, ROOT / "requirements-colab.txt"], check=True)
    if colab:
        _use_drive()
    import datasets
    import torch
    import transformers
    from IPython import get_ipython
    from IPython.display import display

    repeat_dropped_interrupts()
    torch.manual_seed(0)
    warnings.filterwarnings("ignore", category=FutureWarning)
    datasets.disable_caching()
    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    os.chdir(ROOT / "notebooks")
    time = "not timed with these sizes"
    if minutes := predicted_minutes(name):
        time = "{} minutes on the reference machine, about {} on this one".format(*minutes)
    print(f"Notebook {name}, profile {profile().name!r}, {time}.")
    if get_ipython():
        display({"text/html": WHOLE_WORDS, "text/plain": ""}, raw=True)


def repeat_dropped_interrupts() -> None:
    """From now on, an interrupt (the stop button, Ctrl-C) that Python drops is sent again.

    Python raises an interrupt in the line that it comes to next. Where that is the callback of a
    weak reference, it only prints the exception, and what was running goes on.
    """
    show = sys.unraisablehook

    def repeat(dropped: "sys.UnraisableHookArgs") -> None:
        if issubclass(dropped.exc_type, KeyboardInterrupt):
            # A moment later: sent at once, it would be raised, and dropped, in here.
            threading.Timer(0.05, interrupt_main).start()
        else:
            show(dropped)

    sys.unraisablehook = repeat


def _use_drive() -> None:
    """On Colab, mount Google Drive if COURSE_RUNS lies in it; without COURSE_RUNS, say how to."""
    runs = os.environ.get("COURSE_RUNS")
    if not runs:
        print(
            "When Colab ends this runtime, your results and progress are lost. To keep them in "
            "Google Drive, run this line in a cell of its own, then this cell again:\n"
            f"%env COURSE_RUNS={DRIVE}/MyDrive/first-fine-tune\n"
            "Keep what you write into cells, too: File, Save a copy in Drive."
        )
    elif Path(runs).is_relative_to(DRIVE) and not (DRIVE / "MyDrive").exists():
        from google.colab import drive

        try:
            drive.mount(str(DRIVE))
        except Exception as error:  # Colab raises several kinds, of its own
            raise CourseError(
                f"Google Drive could not be mounted: {error}. Run this cell again and allow it, or "
                "run '%env COURSE_RUNS=' in a cell of its own to keep the results in this runtime."
            ) from error


def predicted_minutes(name: str) -> tuple[float, float] | None:
    """Minutes that a notebook took on the reference machine, and those to expect here.

    The times are measured (data/minutes.json); the guess for this machine scales them by the speed
    of a two-second matrix multiplication. None where nothing was timed with the profile's sizes.
    """
    measured = json.loads(MINUTES.read_text(encoding="utf-8"))
    times = measured.get(profile().name, {"minutes": {}})
    reference = times["minutes"].get(name)
    if reference is None:
        return None
    return round(reference, 1), round(max(0.1, reference * times["gflops"] / _speed_here()), 1)


@cache
def _speed_here() -> float:
    """Measured once in each notebook: the map of all notebooks asks for it many times."""
    from helpers.machine import matrix_speed

    return matrix_speed()


def machine_facts() -> dict[str, str]:
    """What this machine has, for people to read."""
    import psutil
    import torch

    from helpers.machine import best_device, usable_memory

    device = best_device()
    gpu = {"cpu": "none", "mps": "Apple's (MPS)"}.get(device.type)
    return {
        "Python": platform.python_version(),
        "PyTorch": torch.__version__,
        "processor cores used": str(torch.get_num_threads()),
        "memory": f"{usable_memory() / 1e9:.1f} GB",
        "memory free": f"{psutil.virtual_memory().available / 1e9:.1f} GB",
        "disk free": f"{shutil.disk_usage(ROOT).free / 1e9:.1f} GB",
        "GPU": gpu or torch.cuda.get_device_name(device),
    }
