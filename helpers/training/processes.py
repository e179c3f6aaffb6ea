"""What several processes share, and what each does by itself. With one process it is nothing.

Start them with `torchrun --nproc-per-node 2 -m helpers.train ...`, or with Accelerate:
`accelerate launch --multi_gpu --num_processes 2 -m helpers.train ...` (on processors, too). Each
process then holds the whole model and takes every n-th example of a batch. Losses, counts and
gradients are summed, so that the step is that of the whole batch.
"""

import atexit
import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import psutil
import torch
import torch.distributed as dist
import yaml

from helpers.errors import CourseError
from helpers.training.settings import TrainingError

# How long a process waits for the others: one of them may be searching for a prompt meanwhile.
PATIENCE = timedelta(hours=3)
ENDED = (
    "Another process has ended or no longer answers, so this one cannot go on. The same command, "
    "with any number of processes, continues from the last checkpoint."
)


def join_processes() -> None:
    """Join the processes that torchrun or Accelerate has started beside this one, if it has.

    Raises TrainingError when a launcher was told to start several and started one, which would
    train as if nothing were wrong: `accelerate launch --cpu --num_processes 2` does that.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        for parent in psutil.Process().parents():
            try:
                asked = _processes_asked_for(parent.cmdline())
            except psutil.Error:  # another user's (on macOS, the first process), or it has ended
                continue
            if asked > 1:
                raise TrainingError(
                    f"The launcher was told to start {asked} processes and has started one. "
                    "Give accelerate --multi_gpu instead of --cpu (it starts processes without a "
                    f"GPU, too), or use torchrun --nproc-per-node {asked}."
                )
        return
    from accelerate import PartialState  # slow to import, and rarely needed

    PartialState(cpu=not torch.cuda.is_available(), timeout=PATIENCE)
    atexit.register(dist.destroy_process_group)  # without it, a process may crash as it ends
    # A launcher that sees one of its processes end sends this signal to the others.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(ENDED))
    atexit.register(signal.signal, signal.SIGTERM, signal.SIG_DFL)  # all has been said by then


def _processes_asked_for(command: list[str]) -> int:
    """How many processes a program was told to start: 1 if it is no launcher.

    Where the command does not say it, Accelerate reads its configuration file.
    """
    line = " ".join(command)
    number = re.search(r"--(?:num[_-]processes|nproc[_-]per[_-]node)[ =](\d+)", line)
    if number:
        return int(number[1])
    words = {Path(word).name for word in command}
    alone = words & {"accelerate-launch", "accelerate.commands.launch"}
    if not alone and not {"accelerate", "launch"} <= words:
        return 1
    from accelerate.commands.config.config_args import default_config_file  # slow, rarely needed

    named = re.search(r"--config[_-]file[ =](\S+)", line)
    file = Path(named[1] if named else default_config_file)
    settings = yaml.safe_load(file.read_text(encoding="utf-8")) if file.is_file() else None
    return (settings or {}).get("num_processes") or 1


@contextmanager
def _communication() -> Iterator[None]:
    """Inside, processes wait for each other. Raises CourseError when one of them is gone."""
    try:
        yield
    except RuntimeError as error:
        raise CourseError(ENDED) from error


def process_count() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def process_index() -> int:
    """The number of this process, from 0. The first one writes and prints for all."""
    return dist.get_rank() if process_count() > 1 else 0


def share_of_process(items: list) -> list:
    """This process's part of a list: every n-th item, beginning with its own number."""
    return items[process_index() :: process_count()]


@_communication()
def total_of(*numbers: float) -> tuple[float, ...]:
    """Each number, summed over all processes; float64 in between, so counts stay exact."""
    if process_count() == 1:
        return numbers
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    sums = torch.tensor(numbers, dtype=torch.float64, device=device)
    dist.all_reduce(sums)
    return tuple(type(one)(total) for one, total in zip(numbers, sums.tolist(), strict=True))


@_communication()
def sum_gradient(parameter: torch.Tensor) -> None:
    """Make a parameter's gradient that of the whole batch: the sum over all processes, in place."""
    if process_count() > 1 and parameter.grad is not None:
        # gloo knows no tensors on Apple's GPU.
        apple = parameter.grad.device.type == "mps"
        total = parameter.grad.cpu() if apple else parameter.grad
        dist.all_reduce(total)
        if apple:
            parameter.grad.copy_(total)


@contextmanager
def first_process_first() -> Iterator[None]:
    """Inside, the first process goes before all others, for instance to put files in order."""
    if process_index():
        wait_for_all()
    yield
    if not process_index():
        wait_for_all()


@_communication()
def wait_for_all() -> None:
    """Go on only when all processes have come here."""
    if process_count() > 1:
        dist.barrier()
