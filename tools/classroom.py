"""What a teacher makes for a class: copies of the notebooks, points, a set-up without a network.

python -m tools.classroom handout              handout/: the notebooks without outputs, and one
                                               with all exercises and nothing else
python -m tools.classroom solutions [03 04]    solutions/: the same, solved and run
python -m tools.classroom grade submissions    points for submissions/STUDENT/NOTEBOOK.ipynb
python -m tools.classroom wheelhouse [folder]  all packages and the model, for `make lab`
"""

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
from nbconvert.preprocessors import ClearOutputPreprocessor
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell

from helpers.exercises import registry
from helpers.exercises.commands import solution_of
from helpers.exercises.exercise import Exercise
from helpers.model.load import PACKAGE
from tools import make, run_course, sync_notebooks

ROOT = Path(__file__).resolve().parent.parent
GRADING = ROOT / "grading"
EXERCISES = "exercises"  # the notebook that holds all exercises and nothing else


# ---- copies of the notebooks


def course_notebooks() -> dict[str, NotebookNode]:
    """Name → notebook without outputs, in the course's order, and last the one of all exercises."""
    found = {}
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        found[path.stem], _ = ClearOutputPreprocessor().preprocess(notebook, {})
    return found | {EXERCISES: all_exercises(found)}


def all_exercises(notebooks: dict[str, NotebookNode]) -> NotebookNode:
    """A notebook of a set-up cell and each exercise: the text before it, its stub and its check."""
    cells = [
        new_markdown_cell("# All exercises of the course", id="title"),
        new_code_cell(sync_notebooks.setup_cell(EXERCISES), id="set-up"),
        new_code_cell("from helpers.exercises import check, hint, solution", id="import"),
    ]
    for name, notebook in notebooks.items():
        marked = [number for number, cell in enumerate(notebook.cells) if is_graded(cell)]
        if marked:
            text = f"## From [{name}]({name}.ipynb)"
            cells.append(new_markdown_cell(text, id=f"from-{name[:2].strip('_')}"))
        for number in marked:
            before = notebook.cells[number - 1]
            told = is_stub(notebook.cells[number]) and before.cell_type == "markdown"
            cells += [before] * told + [notebook.cells[number]]
    first = next(iter(notebooks.values()))
    return nbformat.from_dict({**first, "cells": cells})


def is_graded(cell: NotebookNode) -> bool:
    """Whether a cell is an exercise's stub or its check."""
    return "grade_id" in (cell.metadata.get("nbgrader") or {})


def is_stub(cell: NotebookNode) -> bool:
    """Whether a cell is to be written by the learner."""
    return is_graded(cell) and cell.metadata.nbgrader.get("solution", False)


def grade_id(cell: NotebookNode) -> str:
    """What nbgrader calls a stub or a check; "" for other cells."""
    return cell.metadata.nbgrader.grade_id if is_graded(cell) else ""


def solved(notebook: NotebookNode) -> NotebookNode:
    """A copy with each stub replaced by its exercise's solution."""
    copy = nbformat.from_dict(notebook)
    for cell in copy.cells:
        if is_stub(cell):
            cell.source = solution_that_runs(registry.find(cell.metadata.nbgrader.grade_id))
    return copy


def solution_that_runs(exercise: Exercise) -> str:
    """What `solution` shows, with the imports that it needs in a cell of its own."""
    text = solution_of(exercise)
    if exercise.answer or not callable(exercise.reference):
        return text
    made_in, tree = sys.modules[exercise.reference.__module__], ast.parse(text)
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    bound = {name.id for name in names if isinstance(name.ctx, ast.Store)}
    bound |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    bound |= {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    imports = set()
    for name in {name.id for name in names} - bound & set(vars(made_in)):
        value = vars(made_in)[name]
        home = sys.modules.get(getattr(value, "__module__", ""), made_in)
        home = home if getattr(home, name, None) is value else made_in  # a type's other name
        module = isinstance(value, type(ast))
        imports.add(f"import {name}" if module else f"from {home.__name__} import {name}")
    imports = sorted(imports)
    parts = ["\n".join(imports), text]
    if exercise.reference.__name__ != exercise.name:
        parts.append(f"{exercise.name} = {exercise.reference.__name__}")
    return "\n\n\n".join(part for part in parts if part)


def handout(arguments: list[str]) -> int:
    """Write handout/: what students get. The solutions are in none of the notebooks."""
    folder = fresh("handout")
    for name, notebook in course_notebooks().items():
        nbformat.write(notebook, folder / f"{name}.ipynb")
    print(f"Written: {folder}, which has to stay in the course's folder beside helpers/.")
    return 0


def solutions(arguments: list[str]) -> int:
    """Write solutions/: each notebook solved and run, and its page; index.html shows how it went.

    arguments: first letters of notebooks, all if there are none.
    """
    folder, outcomes = fresh("solutions"), []
    for name, notebook in course_notebooks().items():
        if name.startswith(tuple(arguments) or ""):
            path = folder / f"{name}.ipynb"
            nbformat.write(solved(notebook), path)
            outcomes.append(run_course.run_notebook(path, folder))
            print(run_course.write_report(outcomes, folder), flush=True)
    return int(any(one.status != "passed" for one in outcomes))


def fresh(name: str) -> Path:
    """An empty folder of that name in the repository."""
    shutil.rmtree(ROOT / name, ignore_errors=True)
    (ROOT / name).mkdir()
    return ROOT / name


# ---- points


def grade(arguments: list[str], course: Path = GRADING) -> int:
    """Grade what students handed in, and print and write the class table.

    Each student's notebooks run in their order with results and progress of their own, which are
    deleted afterwards. course: the folder that nbgrader works in. Returns 1 when a notebook could
    not be graded.
    """
    notebooks = course_notebooks()
    handed_in = sorted(Path(arguments[0] if arguments else "submissions").glob("*/*.ipynb"))
    unknown = [path for path in handed_in if path.stem not in notebooks]
    if unknown or not handed_in:
        found = f"{unknown[0]} has another name" if unknown else "no such file was found"
        print(f"Give a folder that holds <student>/<notebook>.ipynb: {found}.", file=sys.stderr)
        return 2
    for name in sorted({path.stem for path in handed_in}):
        put(nbformat.writes(notebooks[name]), course / "source" / name)
        if wrong := nbgrader(course, "generate_assignment", name, "--force"):
            print(f"{name}: {wrong}", file=sys.stderr)
            return 1
    failed = 0
    for student in sorted({path.parent for path in handed_in}):
        with TemporaryDirectory(prefix="runs-", dir=course) as runs:
            for path in (path for path in handed_in if path.parent == student):
                name, who = path.stem, student.name
                text = path.read_text(encoding="utf-8", errors="replace")
                put(with_checks(text, notebooks[name]), course / "submitted" / who / name)
                only = [name, "--student", who, "--force"]
                wrong = nbgrader(course, "autograde", *only, COURSE_RUNS=runs) or nbgrader(
                    course, "generate_feedback", *only
                )
                failed += bool(wrong)
                print(f"{who}  {name}  {wrong and 'not graded: ' + wrong or 'graded'}", flush=True)
    write_class_table(course)
    return int(failed > 0)


def with_checks(text: str, ours: NotebookNode) -> str:
    """A submission in which no check is missing: nbgrader gives no point for one that is not there,
    or keeps that of an earlier submission. Each stands below its stub, or else at the end."""
    try:
        notebook = nbformat.reads(text, as_version=4)
    except Exception:  # no notebook: nbgrader says what is wrong with it
        return text
    there = {grade_id(cell) for cell in notebook.cells}
    checks = [cell for cell in ours.cells if is_graded(cell) and not is_stub(cell)]
    missing = {grade_id(cell).removeprefix("check-"): cell for cell in checks}
    missing = {stub: cell for stub, cell in missing.items() if grade_id(cell) not in there}
    cells = []
    for cell in notebook.cells:
        cells.append(cell)
        if check := missing.pop(grade_id(cell), None):
            cells.append(check)
    notebook.cells = [*cells, *missing.values()]
    return nbformat.writes(notebook)


def put(notebook: str, folder: Path) -> None:
    """Write a notebook's text where nbgrader expects it: in a folder of its own name."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{folder.name}.ipynb").write_text(notebook, encoding="utf-8")


def nbgrader(course: Path, *arguments: str, **environment: str) -> str:
    """Run nbgrader in its course folder. Returns "", or the line that says why it failed."""
    done = subprocess.run(
        [sys.executable, "-m", "nbgrader", *arguments],
        cwd=course,
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )
    if not done.returncode:
        return ""
    lines = done.stderr.splitlines()
    # nbgrader's own last line only points to "the above traceback".
    raised = [one.strip() for one in lines if re.match(r"\s*[\w.]+(Error|Exception)\b", one)]
    return (raised or [line for line in lines if "ERROR" in line] or ["nbgrader failed"])[-1]


def write_class_table(course: Path) -> None:
    """Print points by notebook and the exercises that fewest solved; write grades.csv with all.

    The table has all students in the gradebook, those graded earlier too.
    """
    import pandas
    from nbgrader.api import Gradebook

    with Gradebook(f"sqlite:///{course / 'gradebook.db'}") as book:
        graded = [
            (submitted.student_id, assignment.name, part.name.removeprefix("check-"), part.score)
            for assignment in book.assignments
            for submitted in book.assignment_submissions(assignment.name)
            for notebook in submitted.notebooks
            for part in notebook.grades
        ]
    points = pandas.DataFrame(graded, columns=["student", "notebook", "exercise", "points"])
    points.to_csv(course / "grades.csv", index=False)
    table = points.pivot_table("points", "student", "notebook", "sum", margins=True)
    solved_by = points.groupby(["notebook", "exercise"])["points"].agg(["sum", "count"]).astype(int)
    fewest = solved_by.sort_values("sum").head(5)
    most = points.drop_duplicates(["notebook", "exercise"]).groupby("notebook").size()
    print("\nPoints of", ", ".join(f"{most[name]} in {name}" for name in most.index))
    table = table.drop(index="All").rename(columns={"All": "all"})
    print(table.map(lambda score: "–" if pandas.isna(score) else f"{score:g}").to_string())
    print("\nSolved by fewest:")
    for (name, exercise), (right, tried) in fewest.iterrows():
        print(f"  {name}: {exercise}, by {right} of {tried}")
    print(f"\nEvery exercise: {course / 'grades.csv'}. A page for each student: feedback/.")


# ---- a room without a network


def wheelhouse(arguments: list[str]) -> int:
    """Download what `make lab` installs, for this kind of machine, and the starting model.

    arguments: the folder, wheelhouse/ if there is none. Downloaded files are kept, so it can be
    interrupted; the folder gets its name when everything is there.
    """
    folder = Path(*arguments[:1] or [ROOT / "wheelhouse"]).absolute()
    part = folder.with_name(f"{folder.name}.part")
    if folder.exists():
        folder.replace(part)
    part.mkdir(parents=True, exist_ok=True)
    download = [sys.executable, "-m", "pip", "download", "--dest", str(part)]
    download += ["--find-links", part.as_uri(), "--only-binary", ":all:"]
    index = index_of_cpu_torch()
    if not index or make.status(*download, "--no-deps", "--index-url", index, make.TORCH):
        make.run(*download, "--no-deps", make.TORCH)
    pinned = ["-r", "requirements-work.txt", "-c", "constraints.txt"]
    make.run(*download, make.TORCH, "uv>=0.7.14,<1", *pinned)
    make.run(*download, "--no-deps", PACKAGE)
    part.replace(folder)
    sizes = [path.stat().st_size for path in folder.iterdir()]
    print(f"{len(sizes)} files, {sum(sizes) / 1e6:.0f} MB, in {folder}.")
    return 0


def index_of_cpu_torch() -> str:
    """The address of the package index with torch's CPU builds, which uv knows; "" without it."""
    uv = [sys.executable, "-m", "uv", "pip", "compile", "--no-deps", "--torch-backend=cpu"]
    done = subprocess.run(
        [*uv, "--emit-index-annotation", "-"], input=make.TORCH, capture_output=True, text=True
    )
    _, _, index = done.stdout.partition("# from ")
    return index.strip() if done.returncode == 0 and "+cpu" in done.stdout else ""


if __name__ == "__main__":
    task = {"handout": handout, "solutions": solutions, "grade": grade, "wheelhouse": wheelhouse}
    sys.exit(task[sys.argv[1]](sys.argv[2:]))
