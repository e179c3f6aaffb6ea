"""nbgrader itself grades the exercises: full points when solved, none when nobody touched them."""

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode

from helpers.exercises import registry
from tools import sync_notebooks

ROOT = Path(__file__).resolve().parent.parent
CHECK_IMPORT = "from helpers.exercises import check"


def read(name: str) -> NotebookNode:
    return nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)


def is_graded(cell: NotebookNode) -> bool:
    return "nbgrader" in cell.metadata


def all_exercises() -> NotebookNode:
    """One notebook with a set-up cell and the exercise cells of every notebook."""
    notebook = read("03_split")
    start = next(cell for cell in notebook.cells if sync_notebooks.SETUP in cell.source)
    cells = [start, nbformat.v4.new_code_cell(CHECK_IMPORT, id="import")]
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells += [cell for cell in read(path.stem).cells if is_graded(cell)]
    notebook.cells = cells
    return notebook


def solved(notebook: NotebookNode) -> NotebookNode:
    """A copy with each stub replaced by the exercise's solution."""
    copy = nbformat.from_dict(notebook)
    for cell in copy.cells:
        if is_graded(cell) and cell.metadata.nbgrader.solution:
            exercise = registry.find(cell.metadata.nbgrader.grade_id)
            if exercise.answer:
                cell.source = exercise.answer
            elif callable(exercise.reference):
                made_in = exercise.reference.__module__
                made_as = exercise.reference.__name__
                cell.source = f"from {made_in} import {made_as} as {exercise.name}"
            else:
                cell.source = f"{exercise.name} = {exercise.reference!r}"
    return copy


class Course:
    """A course folder of nbgrader's with one assignment in it."""

    def __init__(self, folder: Path, name: str, notebook: NotebookNode) -> None:
        self.folder, self.name = folder, name
        # nbgrader reads the settings of the folder that it runs in: here, those of grading/.
        settings = f'load_subconfig("nbgrader_config.py", path={str(ROOT / "grading")!r})\n'
        (folder / "nbgrader_config.py").write_text(settings, encoding="utf-8")
        self.put(notebook, "source")
        self.nbgrader("generate_assignment", name)

    def put(self, notebook: NotebookNode, *where: str) -> Path:
        path = self.folder.joinpath(*where, self.name, f"{self.name}.ipynb")
        path.parent.mkdir(parents=True)
        nbformat.write(notebook, path)
        return path

    def nbgrader(self, *arguments: str) -> str:
        environment = {k: v for k, v in os.environ.items() if k != "COURSE_GRADING"}
        done = subprocess.run(
            [sys.executable, "-m", "nbgrader", *arguments],
            cwd=self.folder,
            env=environment | {"COURSE_PROFILE": "smoke", "COURSE_RUNS": str(self.folder / "runs")},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout + done.stderr

    def grade(self, **submissions: NotebookNode) -> dict[str, tuple[float, float]]:
        """Student → points and most points there are."""
        for student, notebook in submissions.items():
            self.put(notebook, "submitted", student)
        self.nbgrader("autograde", self.name)
        self.nbgrader("export", "--to=grades.csv")
        with open(self.folder / "grades.csv", encoding="utf-8", newline="") as file:
            return {
                row["student_id"]: (float(row["score"]), float(row["max_score"]))
                for row in csv.DictReader(file)
            }


def with_points(cells: list[NotebookNode]) -> int:
    return sum(is_graded(cell) and cell.metadata.nbgrader.grade for cell in cells)


def test_every_exercise_earns_its_point_when_solved_and_none_otherwise(tmp_path):
    notebook = all_exercises()
    most = with_points(notebook.cells)
    assert most > 3
    one_wrong = solved(notebook)
    stub = next(cell for cell in one_wrong.cells if is_graded(cell))
    stub.source = f"def {stub.metadata.nbgrader.grade_id}(*anything):\n    return object()"
    # Untouched, with its checks rewritten: whoever does that gets the right ones back.
    cheated = all_exercises()
    for cell in cheated.cells:
        if is_graded(cell) and cell.metadata.nbgrader.grade:
            cell.source = "pass"
    course = Course(tmp_path, "all", notebook)
    points = course.grade(one_wrong=one_wrong, cheated=cheated)
    assert points == {"one_wrong": (most - 1, most), "cheated": (0, most)}


def test_a_whole_notebook_is_graded_as_it_is_handed_out(tmp_path):
    notebook = read("03_split")
    most = with_points(notebook.cells)
    course = Course(tmp_path, "03_split", notebook)
    # What students get has its stubs, and no solutions.
    released = nbformat.read(tmp_path / "release/03_split/03_split.ipynb", as_version=4)
    assert [c.source for c in released.cells] == [c.source for c in notebook.cells]
    assert course.grade(solved=solved(notebook)) == {"solved": (most, most)}
    graded = tmp_path / "autograded/solved/03_split/03_split.ipynb"
    outputs = [o for c in nbformat.read(graded, 4).cells for o in c.get("outputs", [])]
    assert [o.evalue for o in outputs if o.output_type == "error"] == []


def test_validate_says_what_a_student_would_lose(tmp_path):
    notebook = all_exercises()
    notebook.cells = notebook.cells[:8]
    for copy, words in (
        (solved(notebook), "Success! Your notebook passes all the tests."),
        (notebook, "not tried yet"),
    ):
        path = tmp_path / "notebook.ipynb"
        nbformat.write(copy, path)
        done = subprocess.run(
            [sys.executable, "-m", "nbgrader", "validate", str(path)],
            env=os.environ | {"COURSE_GRADING": "1", "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
        assert words in done.stdout


# ---- the metadata


def cell(source: str, kind: str = "code") -> dict:
    return {"cell_type": kind, "metadata": {}, "source": source.splitlines(keepends=True)}


def test_a_check_and_the_stub_before_it_are_marked_and_nothing_else():
    cells = [cell("x = 1"), cell("def f(x):\n    ..."), cell('check("f", f)\n'), cell("f(1)")]
    cells[3]["metadata"] = {"nbgrader": {"grade": True}, "tags": ["kept"]}
    sync_notebooks.mark_for_grading(cells)
    marks = [cell["metadata"].get("nbgrader") for cell in cells]
    assert marks[0] is None and cells[3]["metadata"] == {"tags": ["kept"]}
    assert (marks[1]["grade_id"], marks[1]["solution"], marks[1]["grade"]) == ("f", True, False)
    assert (marks[2]["grade_id"], marks[2]["locked"], marks[2]["points"]) == ("check-f", True, 1)


@pytest.mark.parametrize("before", [cell("g = 1"), cell("def f", "markdown")])
def test_a_check_that_does_not_follow_its_stub_is_refused(before):
    with pytest.raises(SystemExit, match="The check of f has to follow"):
        sync_notebooks.mark_for_grading([before, cell('check("f", f)')])


def test_grade_ids_are_unique_in_the_course():
    ids = re.findall(
        r'"grade_id": "([^"]+)"',
        "".join(path.read_text("utf-8") for path in (ROOT / "notebooks").glob("*.ipynb")),
    )
    assert len(ids) == len(set(ids)) == 2 * len(registry.exercises())
