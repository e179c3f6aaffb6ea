"""Write into README and notebooks what has one source: the line with the links to Colab and Binder,
first code cells, minutes, what runs on Binder, and what nbgrader has to know about exercises. Take
out of notebooks what JupyterLab has saved of the machine on which they ran.

    python tools/sync_notebooks.py

The address stands in pyproject.toml under [project.urls], the minutes in data/minutes.json, what
runs on Binder in data/binder.json. Needs only Python's standard library.
"""

import json
import re
import tomllib
from pathlib import Path
from urllib.parse import urlparse

ROOT = Path(__file__).resolve().parent.parent
FIRST_NOTEBOOK = "00_start_here"
LINKS = re.compile(r"^\[Open in Colab\].*$", re.MULTILINE)
BINDER_TABLE = re.compile(r"^\| On Binder \|.*\n(?:\|.*\n)+", re.MULTILINE)
CHECK = re.compile(r'check\("(\w+)", \1\)\s*')
METADATA = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
SETUP = "from helpers import setup_notebook"
SETUP_CELL = """\
import os, sys; alone = not any(map(os.path.exists, ["../helpers", "course"]))
if alone and {{"google.colab", "KAGGLE_KERNEL_RUN_TYPE"}} & {{*sys.modules, *os.environ}}:
    !git clone -q --depth 1 {address} course
sys.path[:0] = ["..", ".", "course"]  # the course's folder, wherever Jupyter was started
{setup}; setup_notebook("{name}")
"""


def address() -> str:
    """Where the repository is published, without a slash at the end."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return settings["project"]["urls"]["Repository"].rstrip("/")


def setup_cell(name: str) -> str:
    """The first code cell of notebook `name` (its file name without .ipynb)."""
    return SETUP_CELL.format(address=address(), setup=SETUP, name=name).strip()


def links(name: str) -> str:
    """One line of Markdown: open notebook `name` in Colab or on Binder.

    In words and not as badges: a picture of another host is fetched, or missing, each time that a
    notebook is opened, and Colab does not find one of the repository in a copy of the notebook.
    """
    repository = urlparse(address()).path.strip("/")
    colab, binder = "https://colab.research.google.com", "https://mybinder.org"
    notebook = f"notebooks/{name}.ipynb"
    return (
        f"[Open in Colab]({colab}/github/{repository}/blob/main/{notebook}) · "
        f"[Open on Binder]({binder}/v2/gh/{repository}/HEAD?urlpath=lab/tree/{notebook})"
    )


def with_links(markdown: str, name: str) -> str:
    """`markdown` with its line of links brought up to date, or put in below the title."""
    line = links(name)
    if LINKS.search(markdown):
        return LINKS.sub(line, markdown, count=1)
    title, _, rest = markdown.partition("\n")
    return f"{title}\n\n{line}\n{rest}".rstrip("\n") + ("\n" if markdown.endswith("\n") else "")


def with_minutes(readme: str) -> str:
    """`readme` with the minutes of the reference machine at the end of each line of its map."""
    path = ROOT / "data" / "minutes.json"
    minutes = json.loads(path.read_text(encoding="utf-8"))["laptop"]["minutes"]
    for name, taken in minutes.items():
        row = re.compile(rf"^(\| \[{name}\].*\|)[^|]*\|$", re.MULTILINE)
        readme = row.sub(rf"\g<1> {max(1, round(taken))} |", readme)
    return readme


def with_binder(readme: str) -> str:
    """`readme` with its table of what each notebook takes on Binder, as tools/small_machine.py has
    measured it."""
    path = ROOT / "data" / "binder.json"
    lines = ["| On Binder | GB of memory | minutes of the processor |", "|---|---|---|"]
    total, measured = 0.0, json.loads(path.read_text(encoding="utf-8"))
    for name in sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb")):
        if name not in measured:
            lines.append(f"| {name} | not measured | |")
            continue
        taken = measured[name]
        total += taken["minutes"]
        memory = f"{taken['gigabytes']:.2f}" if taken["passed"] else "does not fit"
        lines.append(f"| {name} | {memory} | {taken['minutes']:.1f} |")
    lines.append(f"| together | | {total:.0f} |")
    return BINDER_TABLE.sub("\n".join(lines) + "\n", readme)


def mark_for_grading(cells: list[dict]) -> None:
    """Write nbgrader's metadata (schema 3) into each check cell and the cell to be written for it.

    A check cell holds nothing but `check("name", name)`; what is checked is written in the last
    code cell before it that defines this name. Metadata of any other cell is removed.
    """
    for cell in cells:
        cell["metadata"].pop("nbgrader", None)
    for place, cell in enumerate(cells):
        found = CHECK.fullmatch("".join(cell["source"])) if cell["cell_type"] == "code" else None
        if not found:
            continue
        name = found[1]
        defines = re.compile(rf"^(def {name}\(|[\w, ]*\b{name}\b[\w, :]*=)", re.MULTILINE)
        before = [c for c in cells[:place] if c["cell_type"] == "code"]
        stub = next((c for c in reversed(before) if defines.search("".join(c["source"]))), None)
        if stub is None:
            raise SystemExit(f"The check of {name} has to follow the cell in which it is written.")
        common = {"cell_type": "code", "schema_version": 3, "task": False}
        to_solve = {"grade": False, "grade_id": name, "locked": False, "solution": True}
        to_grade = {"grade": True, "grade_id": f"check-{name}", "locked": True, "solution": False}
        stub["metadata"]["nbgrader"] = common | to_solve
        cell["metadata"]["nbgrader"] = common | to_grade | {"points": 1}


def normalise(notebook: dict) -> dict:
    """The same notebook without what differs from machine to machine or cannot be shown again.

    Dropped: widget views (without a kernel they show as an error), times of execution, the
    kernel's own name and version.
    """
    notebook["metadata"] = METADATA
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            cell["metadata"].pop("execution", None)  # JupyterLab can be told to save it
            for output in cell["outputs"]:
                data = output.get("data", {})
                widget = data.pop("application/vnd.jupyter.widget-view+json", None)
                if widget is not None and set(data) <= {"text/plain"}:
                    data.clear()  # a widget of which no picture was stored
            cell["outputs"] = [output for output in cell["outputs"] if output.get("data", True)]
    return notebook


def updated_notebook(text: str, name: str, clean: bool = False) -> str:
    """The notebook file `text` with links in its first cell, the agreed first code cell, its
    exercises marked for grading, and the cells that JupyterLab folds also folded on Colab.
    clean: also normalised.
    """
    notebook = normalise(json.loads(text)) if clean else json.loads(text)
    cells = notebook["cells"]
    code = next(cell for cell in cells if cell["cell_type"] == "code")
    if SETUP not in "".join(code["source"]):
        raise SystemExit(
            f"{name}: its first code cell has to hold '{SETUP}'. Put a cell with that line before "
            "all other code cells and run this again."
        )
    top = with_links("".join(cells[0]["source"]), name)
    cells[0]["source"] = top.splitlines(keepends=True)
    code["source"] = setup_cell(name).splitlines(keepends=True)
    mark_for_grading(cells)
    for cell in cells:
        if cell["metadata"].get("jupyter", {}).get("source_hidden"):
            cell["metadata"]["cellView"] = "form"
    if notebook == json.loads(text):
        return text
    return json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def outdated(clean: bool = False) -> dict[Path, str]:
    """Files that differ from what they should be → the text that they should have.

    clean: notebooks should be normalised, too, as those of learners who run them are not.
    """
    readme = ROOT / "README.md"
    text = with_links(readme.read_text(encoding="utf-8"), FIRST_NOTEBOOK)
    wanted = {readme: with_binder(with_minutes(text))}
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        wanted[path] = updated_notebook(path.read_text(encoding="utf-8"), path.stem, clean)
    return {path: text for path, text in wanted.items() if path.read_text(encoding="utf-8") != text}


if __name__ == "__main__":
    for path, text in outdated(clean=True).items():
        print(path.relative_to(ROOT))
        path.write_text(text, encoding="utf-8", newline="\n")
