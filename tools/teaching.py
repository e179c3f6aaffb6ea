"""Bring the instructors' guide and notes up to date, and make slides and a test to print.

    python -m tools.teaching    teaching/README.md and notes.md; in teaching/print/ slides, both
                                forms of the test and its key

What a person has to say stands in teaching/notes.yaml, the form in teaching/templates/. All else
has another source: the notebooks and their stored outputs, data/minutes.json,
data/what_we_saw.json (what the notebooks print in the profile `quick`), data/example_run.json, the
checks' mistakes, and the quizzes.
"""

import json
import re
from datetime import datetime, timedelta
from pathlib import Path

import nbformat
import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from nbconvert import HTMLExporter
from nbformat import NotebookNode

from helpers.exercises.quizzes import LETTERS, load_quiz, names
from helpers.exercises.registry import exercises
from tools.run_course import printed

ROOT = Path(__file__).resolve().parent.parent
TEACHING = ROOT / "teaching"
KEPT = ("README.md", "notes.md")  # the other pages are there to be printed


def read(name: str) -> NotebookNode:
    """One of the course's notebooks, with its stored outputs."""
    return nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)


def cell_of(notebook: NotebookNode, cell_id: str) -> NotebookNode:
    """The cell with this id. Raises LookupError when the notebook no longer has it."""
    for cell in notebook.cells:
        if cell.id == cell_id:
            return cell
    raise LookupError(f"teaching/notes.yaml names the cell {cell_id}, which is no longer there")


def minutes(discussion: dict[str, int]) -> dict[str, dict[str, float]]:
    """Notebook → minutes of reading, exercises, discussion, computing (by profile), and in class.

    Reading and exercises are those of the map in notebook 00. In class the longer of reading and
    computing counts, since a cell computes while the text below it is read.
    """
    (table,) = (c for c in read("00_start_here").cells if "minutes for" in c.source)
    text = "".join(one.data["text/plain"] for one in table.outputs if "data" in one)
    taken = json.loads((ROOT / "data" / "minutes.json").read_text(encoding="utf-8"))
    found = {}
    for name, reading, own in re.findall(r"^(\S+) +(\d+) +(\d+) ", text, re.MULTILINE):
        one = {"reading": int(reading), "exercises": int(own), "discussion": discussion[name]}
        one |= {profile: taken[profile]["minutes"].get(name) for profile in ("quick", "laptop")}
        computing = one["quick"] or one["laptop"]
        one["class"] = max(one["reading"], computing) + one["exercises"] + one["discussion"]
        found[name] = one
    return found


def with_clock(plan: dict) -> dict:
    """A plan whose blocks (notebook, minutes, what) begin with the time of day."""
    clock, blocks = datetime.strptime(plan["starts"], "%H:%M"), []
    for block in [*plan["blocks"], ["", "", "end"]]:
        blocks.append([f"{clock.hour}:{clock:%M}", *block])
        clock += timedelta(minutes=block[1] or 0)
    return plan | {"blocks": blocks}


def slides_of(notebook: NotebookNode, written: dict) -> list[tuple[str, str]]:
    """Heading and HTML of each slide: of text cells the text, of code cells the outputs."""
    exporter = HTMLExporter(template_name="basic", exclude_input=True, exclude_output_prompt=True)
    made = []
    for ids in [*written["slides"], written["expect"]]:
        cells = [cell_of(notebook, one) for one in ids]
        before = notebook.cells[: notebook.cells.index(cells[0]) + 1]
        texts = "\n".join(cell.source for cell in before if cell.cell_type == "markdown")
        heading = re.findall(r"^#+ (?!Exercise).+", texts, re.MULTILINE)[-1]
        copies = [cell | {"source": re.sub(r"^##+ .*", "", cell.source)} for cell in cells]
        content = nbformat.from_dict(notebook | {"cells": copies})
        plain = re.sub(r"^#+ |[*`]", "", heading)
        made.append((plain, exporter.from_notebook_node(content)[0]))
    return made


def all_there_is_to_say() -> dict:
    """What the templates get: the hand-written notes, and to each notebook what is known of it."""
    said = yaml.safe_load((TEACHING / "notes.yaml").read_text(encoding="utf-8"))
    times = minutes({name: one["discussion"] for name, one in said["notebooks"].items()})
    example = json.loads((ROOT / "data" / "example_run.json").read_text(encoding="utf-8"))
    seen = json.loads((ROOT / "data" / "what_we_saw.json").read_text(encoding="utf-8"))
    for name, one in said["notebooks"].items():
        notebook = read(name)
        start = printed(next(c for c in notebook.cells if "setup_notebook(" in c.source))
        one |= {
            "title": notebook.cells[0].source.splitlines()[0].lstrip("# "),
            "question": re.search(r"\*\*Question\.\*\* (.+)", notebook.cells[1].source)[1],
            "minutes": times[name],
            "profile": re.search(r"profile '(\w+)'", start)[1],
            "printed": [printed(cell_of(notebook, cell_id)) for cell_id in one["expect"]],
            "quick": seen.get("quick", {}).get(name),
            "board": example["boards"].get(one.get("board")),
            "exercises": [each for each in exercises().values() if each.notebook == name],
            "quiz": load_quiz(name) if name in names() else [],
            "cells": notebook,
        }
    said["plans"] = [with_clock(plan) for plan in said["plans"]]
    return said


def pages(said: dict) -> dict[Path, str]:
    """Path → text of what is kept and of what is there to be printed."""
    loader = FileSystemLoader(TEACHING / "templates", encoding="utf-8")
    shape = Environment(
        loader=loader, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        keep_trailing_newline=True, autoescape=lambda name: name.endswith(".html"),
    )  # fmt: skip
    # A mistake's message never means markup, but a reader of Markdown would take <b> for it.
    shape.filters["line"] = lambda text: " ".join(text.split()).replace("<", "&lt;")
    made = {TEACHING / name: shape.get_template(name).render(said) for name in KEPT}
    tested = {name: one for name, one in said["notebooks"].items() if "test" in one}
    forms = {
        form: [(name, one["quiz"][one["test"][number] - 1]) for name, one in tested.items()]
        for number, form in enumerate("AB")
    }
    for form in ("A", "B", "key"):
        shown = {form: forms[form]} if form in forms else forms
        sheet = shape.get_template("test.html")
        text = sheet.render(forms=shown, key=form == "key", letters=LETTERS)
        made[TEACHING / "print" / f"test_{form}.html"] = text
    for name, one in said["notebooks"].items():
        slides = slides_of(one["cells"], one)
        text = shape.get_template("slides.html").render(one, slides=slides)
        made[TEACHING / "print" / f"slides_{name}.html"] = text
    return made


if __name__ == "__main__":
    (TEACHING / "print").mkdir(exist_ok=True)
    for path, text in pages(all_there_is_to_say()).items():
        path.write_text(text, encoding="utf-8", newline="\n")
    print(f"Written: {', '.join(KEPT)} and print/ in {TEACHING}.")
