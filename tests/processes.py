"""Processes that are killed, and others that wait for them."""

import os
import signal
import time
from collections.abc import Callable

import pytest
import torch


def another_process(call: Callable[[], object]) -> int:
    """Start a copy of this process that only does `call`, on one core. Returns its number."""
    if not hasattr(os, "fork"):
        pytest.skip("Windows cannot copy a process")
    child = os.fork()
    if child == 0:
        status = 1
        torch.set_num_threads(1)  # the threads of this process are not copied; waiting hangs
        try:
            call()
            status = 0
        finally:
            os._exit(status)
    return child


def how_it_ended(child: int) -> int:
    """0 for a process that did its work, minus the signal for one that was killed."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed_in(call: Callable[[], object]) -> None:
    """Do `call` in another process, which must end by SIGKILL (`die` does that)."""
    assert how_it_ended(another_process(call)) == -signal.SIGKILL


def die(*_, **__) -> None:
    """End this very process as a power cut would, with nothing cleared away."""
    os.kill(os.getpid(), signal.SIGKILL)


def wait_for(condition: Callable[[], object], seconds: float = 60) -> None:
    """Wait until `condition` holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)
