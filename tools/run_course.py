"""Run the notebooks from start to end and write executed/index.html, the report.

    python tools/run_course.py                  all of them
    python tools/run_course.py 04 05            some of them
    python tools/run_course.py --publish        also copy the outputs back into notebooks/, and note
                                                in data/minutes.json how long each took

COURSE_PROFILE sets the sizes (default: laptop). The exit status is 0 when every notebook ran.
"""

import argparse
import base64
import html
import json
import os
import platform
import queue
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import nbformat
import psutil

ROOT = Path(__file__).resolve().parent.parent
CELL_LIMIT = 3600
# nbclient now and then waits for ever for a message of a kernel that has long finished (a known bug
# with widgets). Such a notebook uses no processor time, which tells it from a slow one.
QUIET_LIMIT = 180
QUIET_SHARE = 0.02
EVENT = "@event "


@dataclass(frozen=True)
class Outcome:
    """What became of one notebook. status: 'passed', 'failed' or 'hung'; seconds: wall clock."""

    name: str
    status: str
    seconds: float
    error: str = ""


def execute(source: Path, target: Path) -> None:
    """Run one notebook here, in its own folder, and write `target` (.ipynb) and its .html.

    Prints one JSON line at the start and end of each cell, for `run_notebook` to read. What ran up
    to an error is written as well.
    """
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    def tell(**event: str | int | float) -> None:
        print(EVENT + json.dumps(event), flush=True)

    notebook = nbformat.read(source, as_version=4)
    code_cells = [i for i, cell in enumerate(notebook.cells) if cell.cell_type == "code"]
    place = {index: number for number, index in enumerate(code_cells, start=1)}
    current = {"cell": 0}

    def on_start(cell: nbformat.NotebookNode, cell_index: int) -> None:
        if cell_index in place:
            current["cell"] = place[cell_index]
            tell(cell=place[cell_index], of=len(place))

    client = NotebookClient(
        notebook,
        timeout=CELL_LIMIT,
        kernel_name="python3",
        # Widgets' state is of no use in a page that no kernel stands behind.
        store_widget_state=False,
        resources={"metadata": {"path": str(source.parent)}},
        on_cell_start=on_start,
    )
    error = ""
    try:
        client.execute()
    except CellExecutionError as problem:
        error = f"{problem.ename}: {problem.evalue}"
    except CellTimeoutError:
        error = f"took longer than {CELL_LIMIT} s"
    except DeadKernelError:
        error = "the kernel died (often: not enough memory)"
    nbformat.write(notebook, target)
    target.with_suffix(".html").write_text(as_page(notebook), encoding="utf-8")
    tell(done=f"cell {current['cell']}: {error}" if error else "")


def as_page(notebook: nbformat.NotebookNode) -> str:
    """The notebook as one HTML page; only its formulas need a network (MathJax)."""
    from nbconvert import HTMLExporter

    return HTMLExporter(template_name="lab").from_notebook_node(notebook)[0]


def run_notebook(source: Path, folder: Path, quiet_limit: float = QUIET_LIMIT) -> Outcome:
    """Run one notebook in a process of its own, with a line of progress for each cell."""
    started = time.monotonic()
    target = folder / source.name
    command = [sys.executable, str(Path(__file__).resolve()), "--execute", str(source), str(target)]
    environment = {**os.environ}
    # A notebook has to find the helpers by itself, as it does on a learner's machine.
    environment.pop("PYTHONPATH", None)
    child = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    )
    lines: queue.Queue[str] = queue.Queue()
    reader = threading.Thread(target=_forward, args=(child.stdout, lines), daemon=True)
    reader.start()
    status, error, last = "failed", "", ""
    finished = False
    cell, cell_started = "start", started
    cpu, cpu_time = 0.0, started
    try:
        while True:
            now = time.monotonic()
            _show(f"{source.stem}  {cell}  {now - cell_started:.0f} s", live=True)
            try:
                line = lines.get(timeout=1)
            except queue.Empty:
                if child.poll() is not None and not reader.is_alive() and lines.empty():
                    error = f"its process ended without a result: {last}"
                    break
                used = _processor_seconds(child.pid)
                if abs(used - cpu) > QUIET_SHARE * quiet_limit:
                    cpu, cpu_time = used, now
                elif now - cpu_time > quiet_limit:
                    status, error = "hung", f"{cell}: nothing happened for {quiet_limit:.0f} s"
                    break
                continue
            if not line.startswith(EVENT):
                last = line.strip() or last
                continue
            event = json.loads(line[len(EVENT) :])
            _show(f"{source.stem}  {cell}  {now - cell_started:.1f} s")
            if "done" in event:
                finished, error = True, event["done"]
                status = "failed" if error else "passed"
                break
            cell, cell_started = f"cell {event['cell']}/{event['of']}", now
            cpu_time = now
    finally:
        _end(child, patience=20 if finished else 0)
    outcome = Outcome(source.stem, status, time.monotonic() - started, error)
    _show(f"{source.stem}  {status}  {outcome.seconds / 60:.1f} min")
    if error:
        print(error, flush=True)
    return outcome


def _forward(stream: Iterable[str], lines: queue.Queue[str]) -> None:
    for line in stream:
        lines.put(line)


def _processor_seconds(pid: int) -> float:
    """Processor time of a process and all below it: its kernel too."""
    total = 0.0
    try:
        process = psutil.Process(pid)
        for one in [process, *process.children(recursive=True)]:
            times = one.cpu_times()
            total += times.user + times.system
    except psutil.NoSuchProcess:
        pass
    return total


def _end(child: subprocess.Popen, patience: float) -> None:
    """Wait `patience` seconds for a notebook's process, then end it and the kernel below it."""
    try:
        child.wait(timeout=patience)
        return
    except subprocess.TimeoutExpired:
        family = psutil.Process(child.pid).children(recursive=True)
    child.kill()
    for process in family:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    child.wait()


def _show(text: str, live: bool = False) -> None:
    """Print a line of progress; a live one only on a terminal, where the next one replaces it."""
    if sys.stdout.isatty():
        print(f"\r{text:<78.78}", end="" if live else "\n", flush=True)
    elif not live:
        print(text, flush=True)


def write_report(outcomes: list[Outcome], folder: Path, profile: str) -> Path:
    """Write index.html: one row a notebook with status, minutes, link and first error."""
    rows = []
    for one in outcomes:
        page = folder / f"{one.name}.html"
        link = f'<a href="{page.name}">{one.name}</a>' if page.exists() else one.name
        rows.append(
            f"<tr class={one.status}><td>{link}<td>{one.status}<td>{one.seconds / 60:.1f}"
            f"<td><pre>{html.escape(one.error)}</pre>"
        )
    passed = sum(one.status == "passed" for one in outcomes)
    minutes = sum(one.seconds for one in outcomes) / 60
    facts = (
        f"profile {profile}, {psutil.cpu_count(logical=False) or os.cpu_count()} cores, "
        f"{psutil.virtual_memory().total / 1e9:.0f} GB of memory, {platform.system()}, "
        f"Python {platform.python_version()}, {time.strftime('%Y-%m-%d %H:%M')}"
    )
    text = f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>The course, executed</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto }}
table {{ border-collapse: collapse; width: 100% }}
th, td {{ text-align: left; vertical-align: top; padding: .3rem .8rem }}
tr {{ border-bottom: 1px solid #ccc }}
.failed td:nth-child(2), .hung td:nth-child(2) {{ color: #b00020; font-weight: bold }}
pre {{ white-space: pre-wrap; margin: 0 }}
</style>
<h1>The course, executed</h1>
<p>{passed} of {len(outcomes)} notebooks ran to the end, in {minutes:.1f} minutes ({facts}).
<table><tr><th>Notebook<th>Status<th>Minutes<th>First error
{chr(10).join(rows)}
</table></html>
"""
    report = folder / "index.html"
    report.write_text(text, encoding="utf-8")
    return report


def normalise(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The same notebook without what differs from machine to machine or cannot be shown again.

    Dropped: widget state and widget views (without a kernel they show as an error), times of
    execution, the kernel's own name and version.
    """
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {
                "display_name": "Python 3 (ipykernel)",
                "language": "python",
                "name": "python3",
            },
            "language_info": {"name": "python"},
        }
    )
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [
                output
                for output in cell.outputs
                if "application/vnd.jupyter.widget-view+json" not in output.get("data", {})
            ]
    return notebook


def publish(names: list[str], executed: Path, notebooks: Path, pictures: Path) -> None:
    """Put executed notebooks in the place of their sources, normalised.

    The picture of a cell tagged `picture` is also written to `pictures`, for README.md.
    """
    for name in names:
        notebook = normalise(nbformat.read(executed / f"{name}.ipynb", as_version=4))
        nbformat.write(notebook, notebooks / f"{name}.ipynb")
        for cell in notebook.cells:
            if "picture" in cell.metadata.get("tags", []):
                (data,) = [o.data for o in cell.outputs if "image/png" in o.get("data", {})]
                pictures.mkdir(exist_ok=True)
                (pictures / f"{name}.png").write_bytes(base64.b64decode(data["image/png"]))


def record_minutes(outcomes: list[Outcome], profile: str, path: Path) -> None:
    """Note in data/minutes.json how long each notebook took, and how fast this machine is."""
    code = "from helpers.machine import matrix_speed; print(matrix_speed())"
    speed = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    measured = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    times = measured.setdefault(profile, {})
    times["gflops"] = round(float(speed.stdout), 1)
    times.setdefault("minutes", {}).update(
        {one.name: round(one.seconds / 60, 2) for one in outcomes}
    )
    path.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Run the notebooks and write a report.")
    parser.add_argument("names", nargs="*", help="first letters of notebooks (default: all)")
    parser.add_argument("--publish", action="store_true", help="copy outputs back to notebooks/")
    parser.add_argument("--execute", nargs=2, metavar=("FROM", "TO"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.execute:
        execute(*map(Path, options.execute))
        return 0
    profile = os.environ.setdefault("COURSE_PROFILE", "laptop")
    notebooks, folder = ROOT / "notebooks", ROOT / "executed"
    prefixes = tuple(options.names) or ("",)
    sources = [path for path in sorted(notebooks.glob("*.ipynb")) if path.stem.startswith(prefixes)]
    if not sources:
        print(f"No notebook in {notebooks} starts with {' or '.join(prefixes)}.", file=sys.stderr)
        return 2
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    outcomes: list[Outcome] = []
    for source in sources:
        outcome = run_notebook(source, folder)
        if outcome.status == "hung":
            print(f"{source.stem} hangs: trying it once more.", flush=True)
            outcome = run_notebook(source, folder)
        outcomes.append(outcome)
        # Written after each one, so that there is something to read while the rest runs.
        report = write_report(outcomes, folder, profile)
    failed = [one.name for one in outcomes if one.status != "passed"]
    print(f"{len(outcomes) - len(failed)} passed, {len(failed)} failed. Report: {report}")
    if failed:
        return 1
    if options.publish:
        publish([one.name for one in outcomes], folder, notebooks, ROOT / "docs")
        record_minutes(outcomes, profile, ROOT / "data" / "minutes.json")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit("\nInterrupted.")
