"""What a class gets and hands in: copies of the notebooks, solutions, and points from nbgrader."""

import csv
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from helpers.exercises import registry
from tools import classroom, sync_notebooks

ROOT = Path(__file__).resolve().parent.parent
ALL = classroom.course_notebooks()


@pytest.fixture
def course(tmp_path, monkeypatch):
    """A course folder of nbgrader's with the settings of grading/, apart from it."""
    folder = tmp_path / "course"
    folder.mkdir()
    # nbgrader reads the settings of the folder that it runs in: here, those of grading/.
    settings = f'load_subconfig("nbgrader_config.py", path={str(ROOT / "grading")!r})\n'
    (folder / "nbgrader_config.py").write_text(settings, encoding="utf-8")
    monkeypatch.setenv("COURSE_PROFILE", "smoke")
    monkeypatch.delenv("COURSE_GRADING", raising=False)
    return folder


def points(course: Path) -> dict[str, list[float]]:
    """Student → points and number of exercises, by grades.csv."""
    with open(course / "grades.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    found: dict[str, list[float]] = {}
    for row in rows:
        sums = found.setdefault(row["student"], [0, 0])
        sums[0], sums[1] = sums[0] + float(row["points"]), sums[1] + 1
    return found


@pytest.mark.slow
def test_make_grade_counts_a_class_and_keeps_students_apart(tmp_path, course, monkeypatch, capsys):
    """Full points when solved, none when nobody touched them, whatever was done to the checks."""
    # Each exercise by itself is tried in test_exercises.py: here three are enough, those of 02.
    exercises = nbformat.from_dict(ALL["exercises"])
    heads = [i for i, one in enumerate(exercises.cells) if one.source.startswith("## From ")]
    exercises.cells = exercises.cells[: heads[0]] + exercises.cells[heads[2] : heads[3]]
    some = {"03_split": ALL["03_split"], "exercises": exercises}
    monkeypatch.setattr(classroom, "course_notebooks", lambda: some)
    one_wrong = classroom.solved(exercises)
    stub = next(cell for cell in one_wrong.cells if classroom.is_stub(cell))
    stub.source = f"def {stub.metadata.nbgrader.grade_id}(*anything):\n    return object()"
    # Where the results go, and whether another student's progress is there.
    look = "from helpers.exercises import record; print('BEFORE', record.load())"
    one_wrong.cells.insert(3, nbformat.v4.new_code_cell(look))
    cheated = nbformat.from_dict(exercises)
    for cell in cheated.cells:
        if classroom.is_graded(cell) and not classroom.is_stub(cell):
            cell.source = "pass"
    whole = classroom.solved(ALL["03_split"])
    for student, name, notebook in (
        ("anna", "03_split", whole),
        ("ben", "exercises", cheated),
        ("cleo", "exercises", one_wrong),
    ):
        (tmp_path / "handed in" / student).mkdir(parents=True)
        nbformat.write(notebook, tmp_path / "handed in" / student / f"{name}.ipynb")
    assert classroom.grade([str(tmp_path / "handed in")], course) == 0
    most = sum(classroom.is_stub(cell) for cell in exercises.cells)
    in_03 = sum(one.notebook == "03_split" for one in registry.exercises().values())
    assert points(course) == {
        "anna": [in_03, in_03],
        "ben": [0, most],
        "cleo": [most - 1, most],
    }
    shown = capsys.readouterr().out
    assert f"Points of {in_03} in 03_split, {most} in exercises" in shown
    assert re.search(rf"cleo +– +{most - 1}", shown)
    graded = course / "autograded" / "cleo" / "exercises" / "exercises.ipynb"
    assert "BEFORE {}" in graded.read_text(encoding="utf-8")
    ran = nbformat.read(course / "autograded/anna/03_split/03_split.ipynb", 4)
    outputs = [output for cell in ran.cells for output in cell.get("outputs", [])]
    assert [one.evalue for one in outputs if one.output_type == "error"] == []
    assert (course / "feedback" / "anna" / "03_split" / "03_split.html").exists()
    assert list(course.glob("runs-*")) == []
    # What students get has its stubs, and no solutions.
    released = nbformat.read(course / "release/03_split/03_split.ipynb", as_version=4)
    assert [c.source for c in released.cells] == [c.source for c in ALL["03_split"].cells]


def test_what_is_no_notebook_of_the_course_is_refused_by_name(tmp_path, course, capsys):
    assert classroom.grade([str(tmp_path)], course) == 2
    (tmp_path / "anna").mkdir()
    (tmp_path / "anna" / "03_split (1).ipynb").write_text("{}")
    assert classroom.grade([str(tmp_path)], course) == 2
    assert "03_split (1).ipynb has another name" in capsys.readouterr().err


def test_a_notebook_that_cannot_be_graded_does_not_stop_the_others(
    tmp_path, course, monkeypatch, capsys
):
    calls = []

    def nbgrader(course, command, name, *rest, **environment):
        calls.append((command, *rest))
        return "ERROR: damaged" if "ben" in rest else ""

    monkeypatch.setattr(classroom, "nbgrader", nbgrader)
    monkeypatch.setattr(classroom, "write_class_table", lambda course: None)
    for student in ("anna", "ben", "cleo"):
        (tmp_path / "in" / student).mkdir(parents=True)
        nbformat.write(ALL["03_split"], tmp_path / "in" / student / "03_split.ipynb")
    assert classroom.grade([str(tmp_path / "in")], course) == 1
    shown = capsys.readouterr().out
    assert "ben  03_split  not graded: ERROR: damaged" in shown
    assert "cleo  03_split  graded" in shown


def test_handed_out_notebooks_hold_no_output_and_no_solution(tmp_path, monkeypatch):
    monkeypatch.setattr(classroom, "ROOT", tmp_path)
    (tmp_path / "notebooks").mkdir()
    for path in (ROOT / "notebooks").glob("0[03]*.ipynb"):
        shutil.copy(path, tmp_path / "notebooks")
    assert classroom.handout([]) == 0
    names = {"00_start_here", "03_split", "exercises"}
    assert {path.stem for path in (tmp_path / "handout").iterdir()} == names
    for name in names:
        notebook = nbformat.read(tmp_path / "handout" / f"{name}.ipynb", as_version=4)
        nbformat.validate(notebook)
        assert not any(cell.get("outputs") for cell in notebook.cells)
        stubs = {cell.source for cell in notebook.cells if classroom.is_stub(cell)}
        own = {cell.source for cell in ALL[name].cells if classroom.is_stub(cell)}
        assert stubs and stubs <= own
        text = "\n".join(cell.source for cell in notebook.cells)
        for one in registry.exercises().values():
            assert classroom.solution_that_runs(one) not in text


def test_the_notebook_of_all_exercises_has_each_with_its_text():
    cells = ALL["exercises"].cells
    stubs = [number for number, cell in enumerate(cells) if classroom.is_stub(cell)]
    found = [cells[number].metadata.nbgrader.grade_id for number in stubs]
    assert sorted(found) == sorted(registry.exercises())
    assert all(cells[number - 1].cell_type == "markdown" for number in stubs)
    assert len({cell.id for cell in cells}) == len(cells)


def test_solutions_are_run(tmp_path, monkeypatch):
    ran = []

    def run_notebook(path, folder):
        ran.append(nbformat.read(path, as_version=4))
        return classroom.run_course.Outcome(path.stem, "passed", 1.0)

    monkeypatch.setattr(classroom, "fresh", lambda name: tmp_path)
    monkeypatch.setattr(classroom.run_course, "run_notebook", run_notebook)
    assert classroom.solutions(["03", "exer"]) == 0
    assert (tmp_path / "index.html").exists() and len(ran) == 2
    stubs = [cell.source for cell in ran[0].cells if classroom.is_stub(cell)]
    assert stubs and not any("..." in source for source in stubs)


@pytest.mark.slow
def test_validate_says_what_a_student_would_lose(tmp_path):
    notebook = nbformat.from_dict(ALL["exercises"])
    notebook.cells = notebook.cells[:7]
    waits = [
        "--Execute.timeout=600",
        "--Execute.startup_timeout=300",
        "--Execute.iopub_timeout=120",
    ]
    for copy, words in (
        (classroom.solved(notebook), "Success! Your notebook passes all the tests."),
        (notebook, "not tried yet"),
    ):
        path = tmp_path / "notebook.ipynb"
        nbformat.write(copy, path)
        done = subprocess.run(
            [sys.executable, "-m", "nbgrader", "validate", *waits, str(path)],
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


def test_a_check_that_a_student_deleted_is_put_back():
    ours = ALL["03_split"]
    graded = [cell for cell in ours.cells if classroom.is_graded(cell)]
    stubs = [cell for cell in graded if classroom.is_stub(cell)]
    checks = [cell for cell in graded if not classroom.is_stub(cell)]
    assert len(stubs) == len(checks) > 1

    def graded_again(cells):
        handed_in = nbformat.from_dict({**ours, "cells": cells})
        back = nbformat.reads(classroom.with_checks(nbformat.writes(handed_in), ours), 4)
        return [cell.source for cell in back.cells if classroom.is_graded(cell)]

    others = [cell for cell in ours.cells if not classroom.is_graded(cell)]
    pairs = [cell.source for pair in zip(stubs[::-1], checks[::-1], strict=True) for cell in pair]
    assert graded_again([*others, *stubs[::-1]]) == pairs
    assert graded_again(others) == [cell.source for cell in checks]
    assert graded_again(ours.cells) == [cell.source for cell in graded]
    torn = [nbformat.from_dict({**cell, "metadata": {"nbgrader": None}}) for cell in stubs]
    assert graded_again([*others, *torn]) == [cell.source for cell in checks]
    assert classroom.with_checks("{", ours) == "{"


def test_the_reason_is_that_of_the_error_and_not_where_to_look(course):
    classroom.put("{", course / "source" / "broken")
    said = classroom.nbgrader(course, "generate_assignment", "broken")
    assert "NotJSONError" in said
