"""What all packages use: names in messages, sizes of runs, first lines of notebooks, results."""

import errno
import json
import shutil
import subprocess
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace

import datasets
import pytest
import torch

import helpers
from helpers import files, profiles
from helpers.errors import CourseError, format_names
from helpers.profiles import PROFILES, profile, runs_folder
from helpers.results import cached, load_result
from helpers.training import checkpoint
from helpers.training.loop import train
from tests.made_up import COLLATE, SETTINGS, TRAIN, VALIDATION, interrupt_at
from tests.refusals import refusal
from tests.tiny import tiny_model

ROOT = Path(__file__).parent.parent


def test_an_error_shows_one_paragraph_in_place_of_a_traceback():
    assert CourseError("Do this.")._render_traceback_() == ["CourseError: Do this."]


def test_names_fit_into_a_message_whatever_they_are():
    assert format_names(["a", 2, "c\nd\x07"]) == "a, 2, c d\ufffd"
    assert format_names(["x" * 99]) == "x" * 60
    assert format_names(map(str, range(1021))).endswith("18, 19 and 1,001 more")


# Profiles


@pytest.fixture(autouse=True)
def runs(tmp_path, monkeypatch) -> Path:
    """A folder of its own for the results, in the quick profile."""
    monkeypatch.setenv("COURSE_RUNS", str(tmp_path))
    monkeypatch.setenv("COURSE_PROFILE", "quick")
    return tmp_path / "quick"


def test_the_profile_is_chosen_by_the_environment(monkeypatch):
    for name in PROFILES:
        monkeypatch.setenv("COURSE_PROFILE", name)
        assert profile().name == name
        assert profile().model == ("tiny-random" if name == "smoke" else "smollm2-135m")
    monkeypatch.setenv("COURSE_PROFILE", "")
    assert profile().name == "laptop"
    monkeypatch.delenv("COURSE_PROFILE")
    assert profile().name == "laptop"
    monkeypatch.setenv("COURSE_PROFILE", "huge")
    refusal(CourseError, profile, "'huge'", "smoke, quick, laptop, gpu")


def test_each_task_has_a_folder_in_each_profile(runs, monkeypatch):
    assert runs_folder() == runs and runs_folder("opinion") == runs / "opinion"
    monkeypatch.delenv("COURSE_RUNS")
    assert runs_folder() == ROOT / "runs" / "quick"


def test_minutes_are_scaled_to_this_machine(tmp_path, monkeypatch):
    times = {"quick": {"gflops": 100.0, "minutes": {"04_fine_tune": 3.0}}}
    (tmp_path / "minutes.json").write_text(json.dumps(times))
    monkeypatch.setattr(profiles, "MINUTES", tmp_path / "minutes.json")
    monkeypatch.setattr(profiles, "_speed_here", lambda: 50.0)
    assert profiles.predicted_minutes("04_fine_tune") == (3.0, 6.0)
    assert profiles.predicted_minutes("05_validate") is None
    monkeypatch.setenv("COURSE_PROFILE", "smoke")
    assert profiles.predicted_minutes("04_fine_tune") is None


@pytest.fixture
def colab(tmp_path, monkeypatch):
    """A stand-in for google.colab, whose Drive lies in tmp_path; counts the mounts.

    lose_runtime: of all that is there, only the Drive is left, and it is not mounted.
    """
    drive, cloud = ModuleType("google.colab.drive"), tmp_path / "cloud"
    drive.mounts, drive.refuses = [], False
    cloud.mkdir()

    def mount(place):
        if drive.refuses:
            raise ValueError("mount failed")
        drive.mounts.append(place)
        Path(place).mkdir()
        cloud.rename(Path(place) / "MyDrive")

    def lose_runtime():
        (profiles.DRIVE / "MyDrive").rename(cloud)
        for path in tmp_path.iterdir():
            if path != cloud:
                shutil.rmtree(path)

    drive.mount = mount
    package = ModuleType("google.colab")
    package.drive = drive
    monkeypatch.setitem(sys.modules, "google.colab", package)
    monkeypatch.setattr(profiles, "DRIVE", tmp_path / "drive")
    installed = []
    monkeypatch.setattr(profiles.subprocess, "run", lambda command, **_: installed.append(command))
    monkeypatch.setenv("COURSE_PROFILE", "smoke")
    monkeypatch.chdir(tmp_path)
    return SimpleNamespace(drive=drive, installed=installed, lose_runtime=lose_runtime)


def test_on_colab_one_line_keeps_the_results_in_drive(colab, monkeypatch, capsys, tmp_path):
    monkeypatch.delenv("COURSE_RUNS")
    helpers.setup_notebook("00_start_here")
    (line,) = [one for one in capsys.readouterr().out.splitlines() if one.startswith("%env")]
    assert colab.drive.mounts == [] and colab.installed
    # What %env does with that line.
    monkeypatch.setenv(*line.removeprefix("%env ").split("="))
    helpers.setup_notebook("00_start_here")
    helpers.setup_notebook("01_prompt")  # mounted already
    assert colab.drive.mounts == [str(tmp_path / "drive")]
    assert "%env" not in capsys.readouterr().out
    cached("thing", 1, Counter(5))
    kept = tmp_path / "drive" / "MyDrive" / "first-fine-tune" / "smoke" / "thing.json"
    assert json.loads(kept.read_text(encoding="utf-8"))["result"] == 5


def test_on_colab_a_training_goes_on_in_the_next_runtime(colab, monkeypatch, tmp_path, capsys):
    drive = tmp_path / "drive" / "MyDrive" / "first-fine-tune"
    monkeypatch.setenv("COURSE_RUNS", str(drive))
    monkeypatch.setattr(checkpoint, "TRAINING_PER_WRITING", 0)  # one at each evaluation

    def learn(watch=None):
        helpers.setup_notebook("04_fine_tune")
        sets, folder = (TRAIN, VALIDATION), runs_folder("opinion")
        return train(tiny_model(), *sets, SETTINGS, COLLATE, folder, watch=watch)

    assert learn(interrupt_at(8)).stopped == "interrupted"
    colab.lose_runtime()
    assert not drive.exists()
    assert learn().stopped == "finished"
    assert "Going on from the checkpoint of step 7" in capsys.readouterr().out
    assert len(colab.drive.mounts) == 2
    assert (drive / "smoke" / "opinion" / "best.pt").exists()


def test_on_colab_a_drive_that_is_refused_is_told_and_nothing_is_written(
    colab, monkeypatch, tmp_path
):
    monkeypatch.setenv("COURSE_RUNS", str(tmp_path / "drive" / "MyDrive" / "mine"))
    colab.drive.refuses = True
    words = "could not be mounted: mount failed", "%env COURSE_RUNS="
    refusal(CourseError, lambda: helpers.setup_notebook("00_start_here"), *words)
    assert not (tmp_path / "drive").exists()


def test_on_colab_other_folders_need_no_drive(colab, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("COURSE_RUNS", str(tmp_path / "elsewhere"))
    helpers.setup_notebook("00_start_here")
    assert colab.drive.mounts == [] and "%env" not in capsys.readouterr().out


def test_a_notebook_is_set_up_from_any_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if Path(path) != ROOT])
    monkeypatch.setenv("COURSE_PROFILE", "smoke")
    with warnings.catch_warnings():
        helpers.setup_notebook("00_start_here")
        first = torch.rand(1)
        helpers.setup_notebook("00_start_here")
        assert torch.equal(torch.rand(1), first)
    line = "Notebook 00_start_here, profile 'smoke', not timed with these sizes.\n"
    assert capsys.readouterr().out == line * 2
    assert Path.cwd() == ROOT / "notebooks" and sys.path.count(str(ROOT)) == 1
    assert not datasets.is_caching_enabled() and not datasets.is_progress_bar_enabled()
    datasets.enable_caching()


def test_importing_the_package_loads_no_pytorch():
    code = "import sys, helpers, helpers.results; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_the_facts_of_the_machine_are_texts():
    facts = profiles.machine_facts()
    assert facts["Python"] == sys.version.split()[0] and facts["memory"].endswith(" GB")
    assert all(isinstance(value, str) for value in facts.values())


# Results


@dataclass(frozen=True)
class Settings:
    """Stands for what a result depends on."""

    rate: float


class Counter:
    """Computes something, and counts how often."""

    def __init__(self, result: object):
        self.result, self.calls = result, 0

    def __call__(self) -> object:
        self.calls += 1
        return self.result


def test_a_result_is_computed_once_for_each_key(runs):
    compute = Counter({"scores": (1, 2.5), "name": "café"})
    expected = {"scores": [1, 2.5], "name": "café"}
    assert load_result("opinion/thing") is None
    for _ in range(3):
        assert cached("opinion/thing", {"rows": 3}, compute) == expected
    assert compute.calls == 1
    assert load_result("opinion/thing") == expected
    assert (runs / "opinion" / "thing.json").exists()
    cached("opinion/thing", {"rows": 4}, Counter("other"))
    assert load_result("opinion/thing") == "other"
    assert cached("opinion/thing", {"rows": 3}, compute) == expected and compute.calls == 2


def test_none_is_a_result_too():
    compute = Counter(None)
    assert cached("nothing", 1, compute) is None and cached("nothing", 1, compute) is None
    assert compute.calls == 1


def rows(*answers: str) -> datasets.Dataset:
    return datasets.Dataset.from_dict({"answer": list(answers)})


@pytest.mark.parametrize(
    ("key", "same", "other"),
    [
        ([1, (2, "a")], [1, [2, "a"]], [1, [2, "b"]]),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, {"a": 2, "b": 1}),
        (Settings(0.1), Settings(0.1), Settings(0.2)),
        ([rows("good", "poor")], [rows("good", "poor")], [rows("good", "okay")]),
        (datasets.DatasetDict(a=rows("x")), {"a": rows("x")}, {"a": rows("y")}),
        (Path("a"), "a", Path("b")),
    ],
)
def test_a_key_is_its_content(key, same, other):
    compute = Counter(0)
    cached("thing", key, compute)
    cached("thing", same, compute)
    assert compute.calls == 1
    cached("thing", other, compute)
    assert compute.calls == 2


def test_a_key_whose_content_cannot_be_told_is_refused():
    with pytest.raises(TypeError, match="cannot depend on a Counter"):
        cached("thing", [Counter(0)], Counter(0))


@pytest.mark.parametrize("damage", [b'{"key": "1", "res', b"\xff\xfe", b"[1]", b'{"key": 1}', b""])
def test_a_damaged_result_is_set_aside_and_made_anew(runs, capsys, damage):
    cached("thing", 1, Counter(5))
    (runs / "thing.json").write_bytes(damage)
    assert load_result("thing") is None
    assert "thing.json is damaged" in capsys.readouterr().out
    assert (runs / "thing.json.damaged").read_bytes() == damage
    assert cached("thing", 1, Counter(5)) == 5


def test_a_disk_that_cannot_be_used_is_told(runs, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(files, "open", full, raising=False)
        words = "thing.json", "No space left", "COURSE_RUNS"
        refusal(CourseError, lambda: cached("thing", 1, Counter(5)), *words)
    (runs / "thing.json").mkdir(parents=True)
    refusal(CourseError, lambda: load_result("thing"), "cannot be read", "COURSE_RUNS")
    (runs / "thing.json").rmdir()
    (runs / "thing.json").write_text("damaged")
    monkeypatch.setattr(files.os, "replace", full)
    refusal(CourseError, lambda: load_result("thing"), "cannot be read", "COURSE_RUNS")
