"""Run by `make test-oldest` only: Colab, as far as it can be had here.

Each notebook is opened as Colab opens it: alone in an empty folder, beside a module google.colab,
in the versions that Colab has, for another task than the course's own. The course's address leads
to this working tree. The tasks that write, and a learner's own, go the road in one kernel each.
"""

import json
import re
import subprocess
from importlib.metadata import version
from pathlib import Path

import nbformat
import pandas
import pytest
import torch
from nbclient import NotebookClient
from packaging.requirements import Requirement
from packaging.version import Version

from helpers.data import collate, load_examples, load_task, tokenize
from helpers.model import load_model
from helpers.model.load import STARTING_MODEL
from helpers.training import TrainSettings, loss_sum, make_optimizer, training_step
from tools import sync_notebooks

ROOT = Path(__file__).resolve().parent.parent
# The longest are the last of the course, and begin first.
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"), reverse=True)
ROAD = sorted(path for path in NOTEBOOKS if "01" <= path.stem[:2] <= "08")


def execute(notebook: nbformat.NotebookNode, folder: Path) -> None:
    """Run a notebook in this folder; the outputs are then in it."""
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(
        notebook, timeout=600, startup_timeout=300, kernel_name="python3", resources=resources
    ).execute()


@pytest.fixture(scope="session")
def course_at_its_address(tmp_path_factory):
    """Environment variables with which git finds this working tree at the course's address."""
    folder = tmp_path_factory.mktemp("published")
    git = ["git", "-C", str(folder), "-c", "user.name=test", "-c", "user.email=test@localhost"]
    subprocess.run([*git, "init", "--quiet"], check=True)
    subprocess.run([*git, f"--work-tree={ROOT}", "add", "--all"], check=True)
    subprocess.run([*git, "commit", "--quiet", "--message", "the working tree"], check=True)
    return {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.{folder.as_uri()}.insteadOf",
        "GIT_CONFIG_VALUE_0": sync_notebooks.address(),
    }


def test_these_are_the_oldest_versions():
    ours, colab = (
        (ROOT / name).read_text(encoding="utf-8").splitlines()
        for name in ("requirements.txt", "requirements-oldest.txt")
    )
    for line in ours + [line for line in colab if "==" in line]:
        if line and not line.startswith("#"):
            wanted = Requirement(line.partition("#")[0])
            lowest = re.search(r"[>=]=([\d.]+)", str(wanted.specifier))[1]
            assert Version(version(wanted.name).partition("+")[0]) == Version(lowest), line


def test_one_training_step_lowers_the_loss_of_the_real_model():
    model, tokenizer = load_model(STARTING_MODEL)
    examples = load_examples(load_task("opinion"))["train"].select(range(4))
    batch = collate(list(tokenize(examples, tokenizer, model.config)), tokenizer.pad_token_id)
    settings = TrainSettings(precision="float32")
    optimizer = make_optimizer(model, settings)
    before, norm = training_step(model, optimizer, [batch], settings)
    with torch.no_grad():
        total, count = loss_sum(model, batch)
    assert norm > 0 and total.item() / count < before


def test_the_first_cell_fetches_the_course_on_kaggle_too(
    tmp_path, monkeypatch, course_at_its_address
):
    """Kaggle has no google.colab; its kernels start in a folder that holds nothing of ours."""
    for name, value in {**course_at_its_address, "KAGGLE_KERNEL_RUN_TYPE": "Interactive"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.setenv("PIP_NO_INDEX", "1")  # all that Kaggle lacks is here already
    path = ROOT / "notebooks" / "00_start_here.ipynb"
    notebook = nbformat.read(path, as_version=4)
    first = next(cell for cell in notebook.cells if cell.cell_type == "code")
    where = nbformat.v4.new_code_cell("import helpers; print(helpers.__file__)")
    notebook.cells = [first, where]
    execute(notebook, tmp_path)
    course = tmp_path / "course" / "helpers" / "__init__.py"
    assert notebook.cells[1].outputs[0].text.strip() == str(course)
    assert "Drive" not in str(first.outputs)


@pytest.fixture
def run_alone(tmp_path, monkeypatch, course_at_its_address):
    """A function that runs a notebook as Colab does, and returns the course's folder there."""
    for name, value in course_at_its_address.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("COURSE_RUNS", raising=False)
    colab = tmp_path / "installed" / "google" / "colab" / "__init__.py"
    colab.parent.mkdir(parents=True)
    colab.touch()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "installed"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")  # all that Colab lacks is here already
    here = tmp_path / "content"
    here.mkdir()

    def run(notebook: nbformat.NotebookNode) -> Path:
        notebook.cells.insert(0, nbformat.v4.new_code_cell("import google.colab"))
        execute(notebook, here)
        return here / "course"

    return run


# What a learner may bring: a folder of their own, columns of other names, True and False as labels.
OWN_TASK = """
name: happy
table: remarks.csv
choices: [False, True]
templates: [{name: only, prompt: "{{ remark }}\\nHappy:", completion: "{{ happy }}"}]
"""


@pytest.fixture
def own_task(tmp_path):
    folder = tmp_path / "own"
    folder.mkdir()
    reviews = pandas.read_csv(ROOT / "data" / "reviews.csv").iloc[:200]
    remarks = {"remark": reviews["review_body"], "happy": reviews["star_rating"].isin([*"45"])}
    pandas.DataFrame(remarks).to_csv(folder / "remarks.csv", index=False)
    (folder / "happy.yaml").write_text(OWN_TASK, encoding="utf-8")
    return folder / "happy.yaml"


@pytest.mark.parametrize("task", ["dialogue", "review", "headline", "own"])
def test_tasks_that_write_and_a_learners_own_go_the_whole_road(
    task, own_task, tmp_path, monkeypatch
):
    """In one kernel, emptied between the notebooks: to start another one takes longer than to run
    most of them."""
    monkeypatch.setenv("COURSE_TASK", str(own_task) if task == "own" else task)
    monkeypatch.setenv("COURSE_RUNS", str(tmp_path))
    road = nbformat.v4.new_notebook()
    for path in ROAD:
        road.cells.append(nbformat.v4.new_code_cell(f"%reset -f\n# now {path.stem}"))
        road.cells += nbformat.read(path, as_version=4).cells
    execute(road, ROOT / "notebooks")
    assert list(tmp_path.glob(f"*/{load_task().name}/*.json"))


# A task that chooses; `make test` and `make test-rest` have the course's own.
@pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def test_notebook_runs_from_its_file_alone(path, monkeypatch, run_alone):
    monkeypatch.setenv("COURSE_TASK", "department")
    assert (run_alone(nbformat.read(path, as_version=4)) / "helpers").is_dir()


# What a learner writes into the cells of 10: the answer, whether it is chosen, and what is read.
OWN_TASKS = {
    "accuracy": ("department", True, ["review_body"], "Which department is it?"),
    "ROUGE-1": ("review_body", False, ["product_title", "star_rating"], "Write a review."),
}


@pytest.mark.parametrize("metric", OWN_TASKS)
def test_another_table_goes_all_the_way_through_10(metric, run_alone):
    answer, choices, prompt, instruction = OWN_TASKS[metric]
    notebook = nbformat.read(ROOT / "notebooks" / "10_your_table.ipynb", as_version=4)
    for old, new in {
        "MY_TABLE = EXAMPLE": 'MY_TABLE = ROOT / "data" / "reviews.csv"',
        '"Summarize the conversation in one sentence."': repr(instruction),
        'answer="summary"': f"answer={answer!r}",
        "choices=False": f"choices={choices}",
        'prompt=["dialogue"]': f"prompt={prompt}",
        "group=None": 'group="product_title"',
        "OPEN_THE_TEST = MY_TABLE == EXAMPLE": "OPEN_THE_TEST = True",
    }.items():
        (cell,) = (c for c in notebook.cells if c.cell_type == "code" and old in c.source)
        cell.source = cell.source.replace(old, new)
    (folder,) = (run_alone(notebook) / "runs").glob("*/my_task/my_model-*")
    boards = json.loads((folder / "scoreboard.json").read_text(encoding="utf-8"))
    assert [(one["part"], one["metric"]) for one in boards] == [
        ("validation", metric),
        ("test", metric),
    ]
    described = next(str(c.outputs) for c in notebook.cells if "one.commonest" in c.source)
    assert all(f"{label} (" in described for label in load_task("department").choices)
