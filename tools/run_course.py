"""Run the notebooks from start to end and write executed/index.html, the report.

    python tools/run_course.py                  all of them
    python tools/run_course.py 04 05            some of them
    python tools/run_course.py --publish        also copy the outputs back into notebooks/, and note
                                                in data/ how long each took and what came out

COURSE_PROFILE sets the sizes (default: laptop). The exit status is 0 when every notebook ran.
"""

import argparse
import base64
import html
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
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


@dataclass(frozen=True)
class Outcome:
    """What became of one notebook. status: 'passed', 'failed' or 'hung'; seconds: wall clock."""

    name: str
    status: str
    seconds: float
    error: str = ""


def run_cells(
    notebook: nbformat.NotebookNode,
    folder: Path,
    limit: float,
    on_code_cell: Callable[[int, int], None],
    **kernel,
) -> str:
    """Run all cells of a notebook in a new kernel whose folder is `folder`; outputs go into it.

    limit: seconds for each cell. on_code_cell: called with the number of each code cell that
    begins, from 1, and of how many. kernel: how its process is started, as for subprocess.Popen.
    Returns what went wrong and in which code cell; "" when all have run.
    """
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    code_cells = [i for i, cell in enumerate(notebook.cells) if cell.cell_type == "code"]
    reached = 0

    def begin(cell: nbformat.NotebookNode, cell_index: int) -> None:
        nonlocal reached
        if cell_index in code_cells:
            reached = code_cells.index(cell_index) + 1
            on_code_cell(reached, len(code_cells))

    client = NotebookClient(
        notebook,
        timeout=limit,
        kernel_name="python3",
        # Widgets' state is of no use in a page that no kernel stands behind.
        store_widget_state=False,
        resources={"metadata": {"path": str(folder)}},
        on_cell_start=begin,
    )
    try:
        client.execute(**kernel)
    except CellExecutionError as problem:
        return f"cell {reached}: {problem.ename}: {problem.evalue}"
    except CellTimeoutError:
        return f"cell {reached}: took longer than {limit} s"
    except DeadKernelError:
        return f"cell {reached}: the kernel died (often: not enough memory)"
    return ""


def execute(source: Path, target: Path) -> int:
    """Run one notebook here, in its own folder, and write `target` (.ipynb) and its .html.

    What ran up to an error is written as well, and the error beside it (.error). Returns 0 or 1.
    """
    from nbconvert import HTMLExporter

    def show(number: int, of: int) -> None:
        if sys.stdout.isatty():
            print(f"\r{source.stem}  cell {number}/{of} ", end="", flush=True)

    notebook = nbformat.read(source, as_version=4)
    error = run_cells(notebook, source.parent, CELL_LIMIT, show)
    nbformat.write(notebook, target)
    page, _ = HTMLExporter(template_name="lab").from_notebook_node(notebook)
    target.with_suffix(".html").write_text(page, encoding="utf-8")
    target.with_suffix(".error").write_text(error, encoding="utf-8")
    return 1 if error else 0


def run_notebook(source: Path, folder: Path, quiet_limit: float = QUIET_LIMIT) -> Outcome:
    """Run one notebook in a process of its own, which is ended when nothing happens in it."""
    started = changed = time.monotonic()
    target, used = folder / source.name, 0.0
    command = [sys.executable, str(Path(__file__).resolve()), "--execute", str(source), str(target)]
    # A notebook has to find the helpers by itself, as it does on a learner's machine.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    child = subprocess.Popen(command, env=environment)
    status, error = "", "its process ended without a result"
    try:
        while not status:
            try:
                status = "failed" if child.wait(timeout=1) else "passed"
            except subprocess.TimeoutExpired:
                now, seconds = time.monotonic(), _processor_seconds(child.pid)
                if abs(seconds - used) > QUIET_SHARE * quiet_limit:
                    used, changed = seconds, now
                elif now - changed > quiet_limit:
                    status, error = "hung", f"nothing happened for {quiet_limit:.0f} s"
    finally:
        _end(child)
    if target.with_suffix(".error").exists():
        error = target.with_suffix(".error").read_text(encoding="utf-8")
    outcome = Outcome(source.stem, status, time.monotonic() - started, error)
    print(f"\r{source.stem}  {status}  {outcome.seconds / 60:.1f} min  {error}", flush=True)
    return outcome


def _processor_seconds(pid: int) -> float:
    """Processor time of a process and all below it: its kernel too."""
    total = 0.0
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for one in [process, *process.children(recursive=True)]:
            total += sum(one.cpu_times()[:2])
    return total


def _end(child: subprocess.Popen) -> None:
    """End a notebook's process and the kernel below it, if they go on."""
    if child.poll() is None:
        for process in [*psutil.Process(child.pid).children(recursive=True), child]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        child.wait()


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
            for output in cell.outputs:
                data = output.get("data", {})
                widget = data.pop("application/vnd.jupyter.widget-view+json", None)
                if widget is not None and set(data) <= {"text/plain"}:
                    data.clear()  # a widget of which no picture was stored
            cell.outputs = [output for output in cell.outputs if output.get("data", True)]
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


def record_example(path: Path) -> None:
    """Note in data/example_run.json what a whole run brought, for notebooks 00, 05 and 06.

    Notebook 04 keeps one row of `opinion` with its answers before and after. Notebook 05 keeps the
    scores of its longest runs, if they were asked for. Notebook 06 keeps the scores on the test
    rows; the boards of `opinion` and `department` are shown side by side. What this profile has not
    made stays as it was.
    """
    sys.path.insert(0, str(ROOT))
    from helpers.profiles import profile
    from helpers.results import load_result

    row = load_result("opinion/before_after")
    tests = {task: load_result(f"{task}/test") for task in ("opinion", "department")}
    if row is None or tests["opinion"] is None:
        return
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    boards, more = before.get("boards", {}), load_result("opinion/05_more_rows")
    for task, test in tests.items():
        if test is not None:
            accuracy = {name: scores["accuracy"] for name, scores in test["board"].items()}
            boards[task] = {"profile": profile().name, "rows": test["rows"], "accuracy": accuracy}
            boards[task]["against"] = test["against"]
    more = before.get("more_rows", {}) if more is None else more
    example = {"profile": profile().name, **row, "boards": boards, "more_rows": more}
    path.write_text(json.dumps(example, indent=1) + "\n", encoding="utf-8")


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Run the notebooks and write a report.")
    parser.add_argument("names", nargs="*", help="first letters of notebooks (default: all)")
    parser.add_argument("--publish", action="store_true", help="copy outputs back to notebooks/")
    parser.add_argument("--execute", nargs=2, metavar=("FROM", "TO"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.execute:
        return execute(*map(Path, options.execute))
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
        record_example(ROOT / "data" / "example_run.json")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit("\nInterrupted.")
