"""Run notebooks as on Binder: one core, and 2 GB for the Jupyter server and all else together.

    python -m tools.small_machine 04 07       these notebooks; without names, all
    python -m tools.small_machine --record    also note in data/binder.json what each took; then
                                              tools/sync_notebooks.py writes README's table of it

Beside each notebook's kernel runs a JupyterLab; both are started as `binder/start` does it. The
browser's part is played by this process, which counts as little as a browser would.

The limit is a control group's, where this account may make one (root on Linux), so that what needs
more is killed as it is on Binder. Elsewhere on Linux each process has a limit of its own, which is
wider. What all of them hold is counted ten times a second.
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
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import nbformat
import psutil

from tools.run_course import names_of, run_cells

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
    """What a notebook took. peak: bytes in use at the same time. cpu: seconds of the processor.
    error: empty when all cells ran."""

    name: str
    peak: int
    cpu: float
    error: str

    def __str__(self) -> str:
        state = f"FAILED in {self.error}" if self.error else "passed"
        peak = f"{self.peak / 1e9:.2f} GB at most"
        return f"{self.name}: {peak}, {self.cpu / 60:.1f} CPU minutes, {state}"


def memory_group(name: str) -> Path | None:
    """A new control group with the limit, of either version; None where none can be made."""
    version_1 = (GROUPS / "memory").is_dir()
    folder = GROUPS / ("memory" if version_1 else "") / f"small-machine-{os.getpid()}-{name}"
    try:
        folder.mkdir()
        limit = folder / ("memory.limit_in_bytes" if version_1 else "memory.max")
        limit.write_text(str(LIMIT))
    except OSError:
        return None
    return folder


def environment() -> dict[str, str]:
    """What `binder/start` gives to the processes that it starts."""
    start = ["bash", "binder/start", "env", "-0"]
    done = subprocess.run(start, cwd=ROOT, capture_output=True, text=True, check=True)
    found = dict(line.split("=", 1) for line in done.stdout.split("\0") if line)
    if not Path(found["COURSE_CACHE"]).exists():  # not built here: the account's own cache
        del found["COURSE_CACHE"]
    return found


def in_use() -> int:
    """Bytes that the processes below this one hold now. Files that are only cached do not count."""
    total = 0
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            held = process.memory_info()
            total += held.rss - held.shared
    return total


@contextmanager
def watched() -> Iterator[list[int]]:
    """While this lasts, look ten times a second how many bytes are in use, and yield all of it."""
    seen, ended = [0], threading.Event()

    def watch() -> None:
        while not ended.wait(0.1):
            seen.append(in_use())

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield seen
    finally:
        ended.set()
        watching.join()


def run(name: str) -> Use:
    """Run one notebook on such a machine, beside a JupyterLab that has nothing to do."""
    import resource  # Windows has no such module, and this one's other functions are tested there

    group, core = memory_group(name), max(os.sched_getaffinity(0))

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
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with subprocess.Popen(server, cwd=ROOT, **settings, **quiet) as beside:
        with watched() as seen:
            error = run_cells(notebook, ROOT / "notebooks", CELL_LIMIT, **settings)
        if beside.poll() is not None:
            error = error or "the end: JupyterLab is gone (often: not enough memory)"
        beside.terminate()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if group:
        with suppress(OSError):  # one of the notebook's processes is still ending
            group.rmdir()
    if max(seen) > LIMIT:
        error = error or "the end: more memory than the limit"
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Use(name, max(seen), cpu, error)


def record(use: Use, path: Path) -> None:
    """Note in `path` what this notebook took; what it has of others stays."""
    noted = json.loads(path.read_text(encoding="utf-8"))
    facts = {"gigabytes": round(use.peak / 1e9, 2), "minutes": round(use.cpu / 60, 1)}
    noted[use.name] = facts | {"passed": not use.error}
    text = json.dumps(noted, indent=1, sort_keys=True) + "\n"
    path.write_text(text, encoding="utf-8", newline="\n")


def main(arguments: list[str]) -> int:
    uses = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("COURSE_RUNS", folder)
        for name in names_of([one for one in arguments if one != "--record"]):
            uses.append(run(name))
            print(uses[-1], flush=True)
            if "--record" in arguments:
                record(uses[-1], RECORD)
    minutes = sum(use.cpu for use in uses) / 60
    print(f"All together: {minutes:.1f} CPU minutes.")
    return int(any(use.error for use in uses) or minutes > ALL_MINUTES)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
