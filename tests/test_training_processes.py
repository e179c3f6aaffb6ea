"""Training on several real processes (gloo, on the CPU): the same run as with one."""

import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
import torch.distributed as dist
from accelerate.commands.config import config_args

from helpers.data import write_task
from helpers.errors import CourseError
from helpers.profiles import ROOT
from helpers.training import History
from helpers.training.processes import (
    ENDED,
    join_processes,
    process_count,
    share_of_process,
    sum_gradient,
    total_of,
    wait_for_all,
)
from helpers.training.settings import TrainingError
from tests.processes import another_process, die, how_it_ended, wait_for
from tests.train_together import one_run

pytestmark = pytest.mark.skipif(
    not dist.is_available() or not dist.is_gloo_available(), reason="PyTorch without gloo"
)


def launch(*program: str, processes: int = 2, launcher: str = "torchrun", **environment: str):
    """Run a program, in as many processes as a launcher starts. Returns what has ended."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    accelerate = ["-m", "accelerate.commands.launch", "--num_processes", str(processes)]
    free_port = ["--main_process_port", "0"]
    start = {
        "torchrun": torchrun,
        "accelerate": [*accelerate, "--multi_gpu", "--num_machines", "1", *free_port],
        "accelerate --cpu": [*accelerate, "--cpu"],
    }[launcher]
    return subprocess.run(
        [sys.executable, *start, "-m", *program],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=600,
    )


def together(runs: list[dict], **how):
    """One start of tests/train_together.py for these runs, since starting is what takes long.
    how: for `launch`.

    Returns (exit status, history of each run or None, what was said).
    """
    done = launch("tests.train_together", json.dumps(runs), **how)
    files = [Path(run["folder"]) / "result.json" for run in runs]
    histories = [History.from_json(f.read_text("utf-8")) if f.exists() else None for f in files]
    return done.returncode, histories, done.stdout + done.stderr


def alone(folder: Path, family: str = "tiny", **settings) -> History:
    """The same run in this process."""
    return one_run(family, settings, folder)


def losses(history: History) -> list[float]:
    return [one.loss for one in [*history.steps, *history.evaluations]]


ONES = torch.ones(3)
ONES.grad = torch.ones(3)
CASES = {
    "as it comes": {},
    "low memory": {"low_memory": True, "learning_rate": 1e-3},
    "micro-batches": {"micro_batch_size": 2},
    "encoder-decoder": {"family": "t5"},
    "encoder-decoder, low memory": {"family": "t5", "low_memory": True, "learning_rate": 1e-3},
}


@pytest.mark.parametrize(
    ("launcher", "cases"), [("torchrun", CASES), ("accelerate", ["as it comes"])]
)
@pytest.mark.slow
def test_two_processes_have_the_losses_of_one(launcher, cases, tmp_path):
    folders = {case: tmp_path / case for case in cases}
    runs = [{"folder": str(folders[case]), **CASES[case]} for case in cases]
    status, pairs, said = together(runs, launcher=launcher)
    assert status == 0, said
    for case, pair in zip(cases, pairs, strict=True):
        single = alone(tmp_path / "one" / case, **CASES[case])
        assert len(pair.steps) == len(single.steps) == 12 and pair.stopped == "finished", case
        assert losses(pair) == pytest.approx(losses(single), rel=0, abs=1e-5), case
        assert (folders[case] / "history.json").exists()
        assert not (folders[case] / "checkpoint.pt").exists()


@pytest.mark.slow
def test_a_killed_worker_ends_the_run_and_another_number_of_processes_goes_on(tmp_path):
    run = {"folder": str(tmp_path / "three")}
    status, (history,), said = together([{**run, "die": 8}], processes=3)
    assert status != 0 and history is None
    assert "SIGKILL" in said or "exitcode: -9" in said or "exitcode  : -9" in said
    # The first process waits for the killed one; the third is busy, and the launcher ends it.
    assert said.count(ENDED) >= 2, said
    assert (tmp_path / "three" / "checkpoint.pt").exists()
    status, (history,), said = together([run], processes=2)
    assert status == 0, said
    assert "Going on from the checkpoint" in said
    single = alone(tmp_path / "one")
    assert losses(history) == pytest.approx(losses(single), rel=0, abs=1e-5)


@pytest.mark.parametrize("wait", [wait_for_all, lambda: total_of(1.0), lambda: sum_gradient(ONES)])
def test_a_process_that_waits_for_a_killed_one_says_so(wait, tmp_path):
    """Without a launcher, which might end it first."""

    def one_of_two(rank):
        store = f"file://{tmp_path / 'store'}"
        dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
        wait_for_all()
        if rank == 1:
            wait_for((tmp_path / "waits").exists)
            die()
        (tmp_path / "waits").touch()
        with pytest.raises(CourseError, match="Another process has ended .* last checkpoint"):
            wait()

    children = [another_process(partial(one_of_two, rank)) for rank in (0, 1)]
    assert [how_it_ended(child) for child in children] == [0, -signal.SIGKILL]


@pytest.mark.slow
def test_a_launch_that_starts_one_process_is_refused(tmp_path):
    run = {"folder": str(tmp_path)}
    status, (history,), said = together([run], launcher="accelerate --cpu")
    assert status != 0 and history is None
    assert "was told to start 2 processes and has started one" in said


def test_a_program_above_that_may_not_be_read_is_no_launcher(monkeypatch):
    def refused():
        raise psutil.AccessDenied(1)

    above = [SimpleNamespace(cmdline=refused), SimpleNamespace(cmdline=lambda: ["bash"])]
    monkeypatch.setattr(psutil.Process, "parents", lambda _: above)
    join_processes()
    above.append(SimpleNamespace(cmdline=lambda: ["accelerate", "--num_processes", "2"]))
    with pytest.raises(TrainingError, match="start 2 processes"):
        join_processes()


@pytest.mark.parametrize("program", ["accelerate launch", "accelerate-launch"])
def test_a_configuration_file_that_asks_for_several_processes_is_read(
    monkeypatch, tmp_path, program
):
    file = tmp_path / "two.yaml"
    file.write_text("distributed_type: 'NO'\nnum_processes: 2\n", encoding="utf-8")
    command = ["python", *f"/bin/{program}".split()]
    above = [SimpleNamespace(cmdline=lambda: command)]
    monkeypatch.setattr(psutil.Process, "parents", lambda _: above)
    monkeypatch.setattr(config_args, "default_config_file", str(tmp_path / "none.yaml"))
    join_processes()
    for more in ([f"--config_file={file}"], ["--config-file", str(file)]):
        command[len(program.split()) + 1 :] = more
        with pytest.raises(TrainingError, match="start 2 processes"):
            join_processes()
    command.append("--num_processes=1")  # what the command says counts
    join_processes()
    command[len(program.split()) + 1 :] = []
    monkeypatch.setattr(config_args, "default_config_file", str(file))
    with pytest.raises(TrainingError, match="start 2 processes"):
        join_processes()


def test_with_one_process_nothing_is_shared():
    assert process_count() == 1
    assert share_of_process([1, 2, 3]) == [1, 2, 3] and total_of(2, 0.5) == (2, 0.5)


@pytest.mark.parametrize(("launcher", "more"), [("torchrun", ["--test"]), ("accelerate", [])])
@pytest.mark.slow
def test_the_command_line_works_with_two_processes_and_the_first_one_speaks(
    launcher, more, tmp_path
):
    given = {"prompt": ["review_body"], "answer": "department", "instruction": "Which one?"}
    path = write_task(tmp_path / "mine.yaml", ROOT / "data" / "reviews.csv", **given).path
    options = ["--epochs", "1", "--task", str(path), *more]
    runs = tmp_path / "runs"
    where = {"COURSE_PROFILE": "smoke", "COURSE_RUNS": str(runs)}
    done = launch("helpers.train", *options, launcher=launcher, **where)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("opened 1 time") == len(more) and "opened 2 times" not in done.stdout
    assert done.stdout.count("Model, card, history and scoreboard are in") == 1
    assert (runs / "smoke" / "mine" / "tuned" / "scoreboard.html").exists()
