"""Run notebooks as on Binder: one core, and 2 GB for the Jupyter server and all else together.

    python tools/small_machine.py 04 07      these notebooks, in this order; without names, all

The limit is a control group's, where this account may make one (root on Linux), so that what needs
more is killed as it is on Binder. Elsewhere each process has a limit of its own (Linux), or none.
Prints the peak of memory and the processor's minutes of each. Exit status: 1 when one failed.
"""

import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 2 * 2**30  # bytes, as Binder counts them
# A limit for each process counts what libraries reserve, used or not, so it is wider.
RESERVED = 2 * LIMIT
GROUPS = Path("/sys/fs/cgroup")
NBVAL = ["--nbval-lax", "--nbval-current-env", "--nbval-cell-timeout=900", "-q", "-x"]


@dataclass(frozen=True)
class Use:
    """What a notebook took. peak: bytes in use at the same time, None where that was not seen.
    cpu: seconds of the processor. passed: whether all cells ran."""

    name: str
    passed: bool
    peak: int | None
    cpu: float


@contextmanager
def memory_group() -> Iterator[Path | None]:
    """A control group with the limit, of either version; None where none can be made."""
    version_1 = (GROUPS / "memory").is_dir()
    folder = GROUPS / ("memory" if version_1 else "") / f"small-machine-{os.getpid()}"
    try:
        folder.mkdir()
        limit = folder / ("memory.limit_in_bytes" if version_1 else "memory.max")
        limit.write_text(str(LIMIT))
    except OSError:
        folder = None
    try:
        yield folder
    finally:
        with suppress(OSError):
            folder and folder.rmdir()


def in_use(group: Path) -> int:
    """Bytes that the processes of a group hold now, without files that are only cached."""
    numbers = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    return int(numbers.get("total_rss") or numbers["anon"])


def run(name: str, group: Path | None, core: int) -> Use:
    """Run one notebook beside a JupyterLab that has nothing to do."""

    def enter() -> None:
        os.sched_setaffinity(0, {core})
        if group:
            (group / "cgroup.procs").write_text(str(os.getpid()))
        else:
            resource.setrlimit(resource.RLIMIT_DATA, (RESERVED, RESERVED))

    settings = {"cwd": ROOT, "env": os.environ | {"OMP_NUM_THREADS": "1"}, "preexec_fn": enter}
    server = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--port=0"]
    tests = [sys.executable, "-m", "pytest", *NBVAL, f"notebooks/{name}.ipynb"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with subprocess.Popen(server, **settings, **quiet) as beside:
        running = subprocess.Popen(tests, **settings)
        peak = None
        while running.poll() is None:
            if group:
                peak = max(peak or 0, in_use(group))
            time.sleep(0.1)
        beside.terminate()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Use(name, running.returncode == 0, peak, cpu)


def main(names: list[str]) -> int:
    found = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
    chosen = [one for one in found if not names or one.split("_")[0] in names]
    core = max(os.sched_getaffinity(0))
    failed = 0
    for name in chosen:
        with memory_group() as group:
            use = run(name, group, core)
        peak = f"{use.peak / 1e9:.2f} GB" if use.peak else "memory not seen"
        state = "passed" if use.passed else "FAILED"
        print(f"{name}: {state}, {peak}, {use.cpu / 60:.1f} CPU minutes", flush=True)
        failed += not use.passed
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
