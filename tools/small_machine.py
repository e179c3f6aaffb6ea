"""Run notebooks as on Binder: one core, and 2 GB for the Jupyter server and all else together.

    python -m tools.small_machine 04 07       these notebooks, in this order; without names, all
    python -m tools.small_machine --record    also note in data/binder.json what each took; then
                                              tools/sync_notebooks.py writes README's table of it

Beside each notebook's kernel runs a JupyterLab; both are started as `binder/start` does it. The
browser's part is played by this process, which counts as little as a browser would.

The limit is a control group's, where this account may make one (root on Linux), so that what needs
more is killed as it is on Binder. Elsewhere on Linux each process has a limit of its own, which is
wider, and what all of them hold is counted ten times a second.
Notebooks use what those before them have trained, so all of them share a new folder of results;
COURSE_RUNS names another one, from which single notebooks can go on. Prints the peak of memory and
the processor's minutes of each. Exit status: 1 when one failed, or when all took more than an hour.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import nbformat
import psutil

from tools.run_course import run_cells

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 2 * 2**30  # bytes, as Binder counts them
# A limit for each process counts what libraries reserve, used or not, so it is wider. It is small
# enough for training to see that memory is short.
RESERVED = 3_900_000_000
GROUPS = Path("/sys/fs/cgroup")
CELL_LIMIT = 1800
ALL_MINUTES = 60
RECORD = ROOT / "data" / "binder.json"


@dataclass(frozen=True)
class Use:
    """What a notebook took. peak: bytes in use at the same time, and peak_cell: the code cell
    (from 1) that ran then. cpu: seconds of the processor. error: empty when all cells ran."""

    name: str
    peak: int
    peak_cell: int
    cpu: float
    error: str

    def __str__(self) -> str:
        state = f"FAILED in {self.error}" if self.error else "passed"
        peak = f"{self.peak / 1e9:.2f} GB at most (in code cell {self.peak_cell})"
        return f"{self.name}: {peak}, {self.cpu / 60:.1f} CPU minutes, {state}"


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


def in_use(group: Path | None) -> int:
    """Bytes that the processes of a group hold now, or without one those that this process started.
    Files that are only cached do not count."""
    if group:
        numbers = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return int(numbers.get("total_rss") or numbers["anon"])
    total = 0
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            held = process.memory_info()
            total += held.rss - held.shared
    return total


def killed(group: Path) -> bool:
    """Whether the system has ended a process of the group because it held too much."""
    file = next(f for n in ("memory.oom_control", "memory.events") if (f := group / n).exists())
    numbers = dict(line.split() for line in file.read_text().splitlines())
    return int(numbers["oom_kill"]) > 0


def environment() -> dict[str, str]:
    """What `binder/start` gives to the processes that it starts."""
    start = ["bash", "binder/start", "env", "-0"]
    done = subprocess.run(start, cwd=ROOT, capture_output=True, text=True, check=True)
    found = dict(line.split("=", 1) for line in done.stdout.split("\0") if line)
    if not Path(found["COURSE_CACHE"]).exists():  # not built here: the account's own cache
        del found["COURSE_CACHE"]
    return found


def names_of(chosen: list[str]) -> list[str]:
    """The notebooks whose names begin with one of these; without any, all of them."""
    found = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
    return [name for one in chosen or [""] for name in found if name.startswith(one)]


@contextmanager
def watched(group: Path | None) -> Iterator[tuple[dict[int, int], Callable[[int, int], None]]]:
    """While this lasts, look ten times a second how many bytes are in use.

    Yields the most for each code cell, and what is to be called when one begins.
    """
    peaks, number, ended = {0: 0}, 0, threading.Event()

    def begin(cell: int, _: int) -> None:
        nonlocal number
        number = cell

    def watch() -> None:
        while not ended.wait(0.1):
            peaks[number] = max(peaks.get(number, 0), in_use(group))

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield peaks, begin
    finally:
        ended.set()
        watching.join()


def run(name: str) -> Use:
    """Run one notebook on such a machine, beside a JupyterLab that has nothing to do."""
    import resource  # Windows has no such module, and this one's other functions are tested there

    core = max(os.sched_getaffinity(0))
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with memory_group() as group:

        def enter() -> None:
            os.sched_setaffinity(0, {core})
            if group:
                (group / "cgroup.procs").write_text(str(os.getpid()))
            else:
                resource.setrlimit(resource.RLIMIT_DATA, (RESERVED, RESERVED))

        settings = {"env": environment(), "preexec_fn": enter}
        server = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--port=0"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        notebook = nbformat.read(ROOT / f"notebooks/{name}.ipynb", as_version=4)
        with subprocess.Popen(server, cwd=ROOT, **settings, **quiet) as beside:
            with watched(group) as (peaks, begin):
                error = run_cells(notebook, ROOT / "notebooks", CELL_LIMIT, begin, **settings)
            if group and killed(group):
                error = f"{error or 'the end'}: more than {LIMIT / 2**30:.0f} GiB needed"
            beside.terminate()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    cell = max(peaks, key=peaks.__getitem__)
    if not error and peaks[cell] > LIMIT:
        error = "more memory than the limit"
    return Use(name, peaks[cell], cell, cpu, error)


def record(uses: list[Use], path: Path) -> None:
    """Note in `path` what these notebooks took; what it has of others stays."""
    noted = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for use in uses:
        facts = {"gigabytes": round(use.peak / 1e9, 2), "minutes": round(use.cpu / 60, 1)}
        noted[use.name] = facts | {"passed": not use.error}
    text = json.dumps(noted, indent=1, sort_keys=True) + "\n"
    path.write_text(text, encoding="utf-8", newline="\n")


def main(arguments: list[str]) -> int:
    names = names_of([one for one in arguments if one != "--record"])
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("COURSE_RUNS", folder)
        uses = []
        for name in names:
            uses.append(run(name))
            print(uses[-1], flush=True)
            if "--record" in arguments:
                record(uses[-1:], RECORD)
    minutes = sum(use.cpu for use in uses) / 60
    print(f"All together: {minutes:.1f} CPU minutes.")
    return int(any(use.error for use in uses) or minutes > ALL_MINUTES)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
