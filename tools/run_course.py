"""Run the notebooks from start to end and write executed/index.html, the report.

    python tools/run_course.py                  all of them
    python tools/run_course.py 04 05            some of them
    python tools/run_course.py --publish        also copy the outputs back into notebooks/, and note
                                                in data/ how long each took and what came out
    python tools/run_course.py --record         note only how long each took and what its summary
                                                said: for a profile other than the published one

COURSE_PROFILE sets the sizes (default: laptop). The exit status is 0 when every notebook ran.
"""

import argparse
import base64
import html
import json
import os
import platform
import re
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import nbformat
import psutil
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbconvert import HTMLExporter

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from helpers.errors import CourseError  # noqa: E402
from helpers.profiles import profile  # noqa: E402
from helpers.results import load_result  # noqa: E402
from tools.sync_notebooks import normalise  # noqa: E402

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


def names_of(beginnings: list[str]) -> list[str]:
    """The notebooks whose names begin with one of these; without any, all of them."""
    found = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
    return [name for name in found if name.startswith(tuple(beginnings) or "")]


def run_cells(
    notebook: nbformat.NotebookNode,
    folder: Path,
    limit: float,
    on_code_cell: Callable[[int], None] = lambda number: None,
    **kernel,
) -> str:
    """Run all cells of a notebook in a new kernel whose folder is `folder`; outputs go into it.

    limit: seconds for each cell. on_code_cell: called with the number of each code cell that
    begins, from 1. kernel: how its process is started, as for subprocess.Popen.
    Returns what went wrong and in which code cell; "" when all have run.
    """
    client = NotebookClient(
        notebook,
        timeout=limit,
        kernel_name="python3",
        record_timing=False,
        # Widgets' state is of no use in a page that no kernel stands behind.
        store_widget_state=False,
        on_cell_execute=lambda **_: on_code_cell(client.code_cells_executed + 1),
    )
    try:
        client.execute(cwd=str(folder), **kernel)
        return ""
    except CellExecutionError as problem:
        what = f"{problem.ename}: {problem.evalue}"
    except CellTimeoutError:
        what = f"took longer than {limit} s"
    except DeadKernelError:
        what = "the kernel died (often: not enough memory)"
    return f"cell {client.code_cells_executed}: {what}"


def execute(source: Path, target: Path) -> int:
    """Run one notebook here, in its own folder, and write `target` (.ipynb) and its .html.

    What ran up to an error is written as well, and the error beside it (.error). Returns 0 or 1.
    """
    notebook = nbformat.read(source, as_version=4)
    of = sum(cell.cell_type == "code" for cell in notebook.cells)

    def show(number: int) -> None:
        if sys.stdout.isatty():
            print(f"\r{source.stem}  cell {number}/{of} ", end="", flush=True)

    # A notebook has to find the helpers by itself, as it does on a learner's machine.
    os.environ.pop("PYTHONPATH", None)
    error = run_cells(notebook, source.parent, CELL_LIMIT, show)
    nbformat.write(notebook, target)
    page, _ = HTMLExporter(template_name="lab").from_notebook_node(notebook)
    target.with_suffix(".html").write_text(page, encoding="utf-8")
    target.with_suffix(".error").write_text(error, encoding="utf-8")
    return 1 if error else 0


def run_notebook(source: Path, folder: Path, quiet_limit: float = QUIET_LIMIT) -> Outcome:
    """Run one notebook in a process of its own, which is ended when nothing happens in it."""
    begin, target = time.monotonic(), folder / source.name
    child = psutil.Popen([sys.executable, __file__, "--execute", str(source), str(target)])
    try:
        status = _wait_for(child, quiet_limit)
    finally:
        _end(child)
    error = f"nothing happened for {quiet_limit:.0f} s" if status == "hung" else ""
    if target.with_suffix(".error").exists():
        error = target.with_suffix(".error").read_text(encoding="utf-8")
    elif status == "failed":
        error = "its process ended without a result"
    outcome = Outcome(source.stem, status, time.monotonic() - begin, error)
    print(f"\r{source.stem}  {status}  {outcome.seconds / 60:.1f} min  {error}", flush=True)
    return outcome


def _wait_for(child: psutil.Popen, quiet_limit: float) -> str:
    """The status of a notebook's process, when it has ended or nothing happens in it."""
    used, changed = 0.0, time.monotonic()
    while time.monotonic() - changed < quiet_limit:
        try:
            return "failed" if child.wait(timeout=1) else "passed"
        except psutil.TimeoutExpired:
            seconds = _processor_seconds(child)
            if abs(seconds - used) > QUIET_SHARE * quiet_limit:
                used, changed = seconds, time.monotonic()
    return "hung"


def _processor_seconds(child: psutil.Popen) -> float:
    """Processor time of a process and all below it: its kernel too."""
    total = 0.0
    with suppress(psutil.NoSuchProcess):
        for one in [child, *child.children(recursive=True)]:
            total += sum(one.cpu_times()[:2])
    return total


def _end(child: psutil.Popen) -> None:
    """End a notebook's process and the kernel below it, if they go on."""
    if child.poll() is None:
        for process in [*child.children(recursive=True), child]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        child.wait()


def write_report(outcomes: list[Outcome], folder: Path) -> Path:
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
        f"profile {profile().name}, {psutil.cpu_count(logical=False) or os.cpu_count()} cores, "
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
                (pictures / f"{name}.png").write_bytes(base64.b64decode(data["image/png"]))


def record_minutes(outcomes: list[Outcome], path: Path) -> None:
    """Note in data/minutes.json how long each notebook took, and how fast this machine is."""
    from helpers.machine import matrix_speed  # loads PyTorch, which the notebooks do not need here

    measured = json.loads(path.read_text(encoding="utf-8"))
    times = measured.setdefault(profile().name, {"minutes": {}})
    times["gflops"] = round(matrix_speed(), 1)
    times["minutes"] |= {one.name: round(one.seconds / 60, 2) for one in outcomes}
    path.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")


def printed(cell: nbformat.NotebookNode) -> str:
    """What a cell printed, by its outputs."""
    texts = (one.text for one in cell.outputs if one.output_type == "stream")
    return re.sub(r"\n{2,}", "\n", "".join(texts)).strip()


def record_summaries(names: list[str], executed: Path, path: Path) -> None:
    """Note in data/what_we_saw.json what the cell under "What we saw" printed, by profile."""
    kept = json.loads(path.read_text(encoding="utf-8"))
    summaries = kept.setdefault(profile().name, {})
    for name in names:
        cells = nbformat.read(executed / f"{name}.ipynb", as_version=4).cells
        start = next(i for i, cell in enumerate(cells) if "## What we saw" in cell.source)
        summaries[name] = printed(next(c for c in cells[start:] if c.cell_type == "code"))
    path.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def record_example(path: Path) -> None:
    """Note in data/example_run.json what a whole run brought, for notebooks 00, 05 and 06.

    Notebook 04 keeps one row of `opinion` with its answers before and after. Notebook 05 keeps the
    scores of its longest runs, if they were asked for. Notebook 06 keeps the scores on the test
    rows and on those in another style; the boards of `opinion` and `department` are shown side by
    side. What this profile has not made stays as it was, like the search of benchmarks/search.py.
    """
    row = load_result("opinion/before_after")
    tests = {task: load_result(f"{task}/test") for task in ("opinion", "department")}
    if row is None or tests["opinion"] is None:
        return
    kept, name = json.loads(path.read_text(encoding="utf-8")), profile().name
    boards = kept["boards"]
    for task, test in tests.items():
        if test is not None:
            accuracy = {who: scores["accuracy"] for who, scores in test["board"].items()}
            style = load_result(f"{task}/shifted") or boards.get(task, {}).get("shifted")
            boards[task] = {"profile": name, "rows": test["rows"], "accuracy": accuracy}
            boards[task] |= {"against": test["against"], "shifted": style}
    more_rows = load_result("opinion/05_more_rows") or kept["more_rows"]
    example = kept | {"profile": name, **row, "boards": boards, "more_rows": more_rows}
    path.write_text(json.dumps(example, indent=1) + "\n", encoding="utf-8")


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Run the notebooks and write a report.")
    parser.add_argument("names", nargs="*", help="first letters of notebooks (default: all)")
    parser.add_argument("--publish", action="store_true", help="copy outputs back to notebooks/")
    parser.add_argument("--record", action="store_true", help="note minutes and summaries in data/")
    parser.add_argument("--execute", nargs=2, metavar=("FROM", "TO"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.execute:
        return execute(*map(Path, options.execute))
    try:
        profile()
    except CourseError as error:
        print(error, file=sys.stderr)
        return 2
    notebooks, folder = ROOT / "notebooks", ROOT / "executed"
    names = names_of(options.names)
    if not names:
        wanted = " or ".join(options.names)
        print(f"No notebook in {notebooks} starts with {wanted}.", file=sys.stderr)
        return 2
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    outcomes: list[Outcome] = []
    for name in names:
        outcome = run_notebook(notebooks / f"{name}.ipynb", folder)
        if outcome.status == "hung":
            print(f"{name} hangs: trying it once more.", flush=True)
            outcome = run_notebook(notebooks / f"{name}.ipynb", folder)
        outcomes.append(outcome)
        # Written after each one, so that there is something to read while the rest runs.
        report = write_report(outcomes, folder)
    passed, data = [one for one in outcomes if one.status == "passed"], ROOT / "data"
    failed = len(outcomes) - len(passed)
    print(f"{len(passed)} passed, {failed} failed. Report: {report}")
    if options.record:
        record_minutes(passed, data / "minutes.json")
        record_summaries([one.name for one in passed], folder, data / "what_we_saw.json")
    if failed:
        return 1
    if options.publish:
        publish(names, folder, notebooks, ROOT / "docs")
        record_minutes(outcomes, data / "minutes.json")
        record_example(data / "example_run.json")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit("\nInterrupted.")
