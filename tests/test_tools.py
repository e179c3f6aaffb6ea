"""The set-up, the runner and the badges, on small stand-ins."""

import base64
import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from packaging.requirements import Requirement

from tests.processes import another_process, die, how_it_ended, killed_in, wait_for
from tools import make, run_course, sync_notebooks

ROOT = Path(__file__).resolve().parent.parent


# ---- the set-up


@pytest.fixture
def installs(monkeypatch, tmp_path):
    """A set-up into an empty folder whose pip does nothing; the list collects what it was asked."""
    asked = []
    monkeypatch.setattr(make, "install_torch", lambda python: asked.append("torch"))

    def step(command, environment=None):
        if command[1:3] == ["-m", "venv"]:
            command = [*command, "--without-pip"]
            return subprocess.run(command, check=False).returncode
        asked.append(command[command.index("-r") + 1])
        return 0

    monkeypatch.setattr(make, "step", step)
    return asked


def test_second_set_up_does_nothing(installs, tmp_path):
    venv = tmp_path / "venv"
    make.set_up("requirements.txt", venv)
    make.set_up("requirements.txt", venv)
    assert installs == ["torch", "requirements.txt"]


def test_tests_environment_serves_the_learner_too_but_not_the_other_way(installs, tmp_path):
    venv = tmp_path / "venv"
    make.set_up("requirements.txt", venv)
    make.set_up("requirements-dev.txt", venv)
    make.set_up("requirements.txt", venv)
    assert installs == ["torch", "requirements.txt", "torch", "requirements-dev.txt"]


def test_interrupted_environment_is_made_anew(installs, tmp_path, monkeypatch):
    venv = tmp_path / "venv"

    def interrupt(python):
        (venv / "half_a_package").touch()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(make, "install_torch", interrupt)
        with pytest.raises(KeyboardInterrupt):
            make.set_up("requirements.txt", venv)
    make.set_up("requirements.txt", venv)
    assert not (venv / "half_a_package").exists()
    assert installs == ["torch", "requirements.txt"]


def test_environment_made_by_hand_is_completed_and_kept(installs, tmp_path):
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    (venv / "mine").touch()
    make.set_up("requirements.txt", venv)
    assert (venv / "mine").exists()
    assert installs == ["torch", "requirements.txt"]


def test_changed_requirements_are_installed(installs, tmp_path, monkeypatch):
    venv = tmp_path / "venv"
    make.set_up("requirements.txt", venv)
    monkeypatch.setattr(make, "TORCH", "torch==9.9.9")
    make.set_up("requirements.txt", venv)
    assert installs == ["torch", "requirements.txt"] * 2


def test_failed_installation_is_a_setup_error_and_not_taken_for_done(
    installs, tmp_path, monkeypatch
):
    venv = tmp_path / "venv"
    with monkeypatch.context() as patch:
        real = make.step
        patch.setattr(make, "step", lambda command, e=None: 1 if "-r" in command else real(command))
        with pytest.raises(make.SetupError, match="space.*type the command again.*are kept"):
            make.set_up("requirements.txt", venv)
    make.set_up("requirements.txt", venv)
    assert installs[-1] == "requirements.txt"


def test_full_disk_is_said_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(make, "FREE_GB_NEEDED", 1e9)
    with pytest.raises(make.SetupError, match="GB free"):
        make.set_up("requirements.txt", tmp_path / "venv")
    assert not (tmp_path / "venv").exists()


@pytest.mark.parametrize(("what", "error"), [("mkdir", errno.EROFS), ("write_text", errno.ENOSPC)])
def test_disk_that_refuses_in_the_middle_is_named_and_the_next_run_goes_on(
    installs, tmp_path, monkeypatch, what, error
):
    venv = tmp_path / "venv"

    def refuse(*_, **__):
        raise OSError(error, os.strerror(error))

    with monkeypatch.context() as patch:
        patch.setattr(Path, what, refuse)
        with pytest.raises(make.SetupError, match=f"{os.strerror(error)}.*type the command again"):
            make.set_up("requirements.txt", venv)
    make.set_up("requirements.txt", venv)
    assert installs == ["torch", "requirements.txt"]


def test_folder_without_permission_is_named(tmp_path):
    (tmp_path / "file").write_text("a file where a folder should be")
    with pytest.raises(make.SetupError, match=r"must be allowed to write there"):
        make.set_up("requirements.txt", tmp_path / "file" / "venv")


def test_filled_environment_serves_in_a_folder_that_cannot_be_written(
    installs, tmp_path, monkeypatch
):
    venv = tmp_path / "venv"
    make.set_up("requirements.txt", venv)
    monkeypatch.setattr(make, "alone", lambda _: pytest.fail("asked for the lock"))
    make.set_up("requirements.txt", venv)
    assert installs == ["torch", "requirements.txt"]


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"requirements.txt 3"])
def test_damaged_stamp_costs_an_installation_over_what_is_there(installs, tmp_path, content):
    venv = tmp_path / "venv"
    make.set_up("requirements.txt", venv)
    (venv / "stamp.txt").write_bytes(content)
    (venv / "mine").touch()
    make.set_up("requirements.txt", venv)
    make.set_up("requirements.txt", venv)
    assert (venv / "mine").exists()
    assert installs == ["torch", "requirements.txt"] * 2


@pytest.mark.parametrize("where", ["step", "install_torch"])
def test_killed_set_up_is_made_anew(installs, tmp_path, monkeypatch, where):
    venv = tmp_path / "venv"

    def half(*_):
        (venv / "half_a_package").touch()
        die()

    def doomed():
        monkeypatch.setattr(make, where, half)
        make.set_up("requirements.txt", venv)

    killed_in(doomed)
    make.set_up("requirements.txt", venv)
    assert not (venv / "half_a_package").exists()
    assert installs == ["torch", "requirements.txt"]


def test_second_set_up_at_once_waits_and_installs_nothing(installs, tmp_path, monkeypatch, capfd):
    venv = tmp_path / "venv"
    begun, go_on = tmp_path / "begun", tmp_path / "go on"

    def slow(_):
        with open(begun, "a") as file:
            file.write("x")
        wait_for(go_on.exists)

    monkeypatch.setattr(make, "install_torch", slow)
    children = [another_process(lambda: make.set_up("requirements.txt", venv)) for _ in range(2)]
    said = []

    def one_works_and_one_waits():
        said.append(capfd.readouterr().out)
        return "waiting for it" in "".join(said) and begun.exists()

    try:
        wait_for(one_works_and_one_waits)
    finally:
        go_on.touch()
        ends = [how_it_ended(child) for child in children]
    assert ends == [0, 0]
    assert begun.read_text() == "x"
    assert "Another set-up is at work on venv" in "".join(said)


def test_torch_is_asked_for_without_gpu_libraries_first():
    python = Path("python")

    def last_words(system, gpu):
        return [attempt[-1][-1] for attempt in make.torch_attempts(python, system, gpu)]

    assert last_words("Linux", gpu=False) == [f"{make.TORCH}+cpu", make.TORCH, make.TORCH]
    assert "--torch-backend=cpu" in make.torch_attempts(python, "Linux", False)[1][-1]
    for system, gpu in (("Linux", True), ("Darwin", False), ("Windows", False)):
        assert last_words(system, gpu) == [make.TORCH]


def test_unknown_target_prints_how_to_use_it(capsys):
    assert make.main(["labs"]) == 2
    assert "python tools/make.py lab" in capsys.readouterr().out


# ---- requirements, constraints, and the places that repeat a version


def requirements(name: str) -> dict[str, Requirement]:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    parsed = (line.partition("#")[0].strip() for line in lines)
    found = [Requirement(line) for line in parsed if line and not line.startswith("-")]
    return {re.sub(r"[-_.]+", "-", one.name).lower(): one for one in found}


def test_constraints_pin_every_requirement_within_its_range():
    pinned = requirements("constraints.txt")
    for name, wanted in {
        **requirements("requirements.txt"),
        **requirements("requirements-dev.txt"),
    }.items():
        version = str(pinned[name].specifier).removeprefix("==")
        assert wanted.specifier.contains(version), name


def test_one_version_of_torch_everywhere():
    assert str(requirements("constraints.txt")["torch"]) == make.TORCH
    assert make.TORCH in (ROOT / "binder" / "postBuild").read_text(encoding="utf-8")


def test_what_colab_installs_stands_in_the_requirements():
    ours = requirements("requirements.txt")
    for name, wanted in requirements("requirements-colab.txt").items():
        assert ours[name].specifier == wanted.specifier


def test_pins_leave_out_local_builds_and_gpu_libraries():
    freeze = ["torch==2.13.0+cpu", "nvidia-cublas==1", "triton==3", "uv==0.9", "six==1.17.0"]
    assert make.pins([*freeze, "x @ file:///x.whl"]) == ["torch==2.13.0", "six==1.17.0"]


# ---- the runner


def write_notebook(path: Path, *sources: str) -> Path:
    nbformat.write(new_notebook(cells=[new_code_cell(source) for source in sources]), path)
    return path


def test_runner_reports_a_notebook_that_passes(tmp_path, capfd):
    source = write_notebook(tmp_path / "00_a.ipynb", "import os", "print(os.getcwd())", "6 * 7")
    (tmp_path / "out").mkdir()
    outcome = run_course.run_notebook(source, tmp_path / "out")
    assert (outcome.status, outcome.error) == ("passed", "")
    executed = nbformat.read(tmp_path / "out" / "00_a.ipynb", as_version=4)
    assert executed.cells[1].outputs[0].text.strip() == os.path.realpath(tmp_path)
    assert "42" in (tmp_path / "out" / "00_a.html").read_text(encoding="utf-8")
    assert "cell 3/3" in capfd.readouterr().out


def test_runner_reports_the_first_error_and_keeps_what_ran(tmp_path):
    source = write_notebook(tmp_path / "00_a.ipynb", "6 * 7", "1 / 0", "print('never')")
    (tmp_path / "out").mkdir()
    outcome = run_course.run_notebook(source, tmp_path / "out")
    assert outcome.status == "failed"
    assert outcome.error == "cell 2: ZeroDivisionError: division by zero"
    executed = nbformat.read(tmp_path / "out" / "00_a.ipynb", as_version=4)
    assert executed.cells[0].outputs[0].data["text/plain"] == "42"


def test_runner_ends_a_notebook_that_hangs(tmp_path):
    source = write_notebook(tmp_path / "00_a.ipynb", "import time; time.sleep(600)")
    (tmp_path / "out").mkdir()
    outcome = run_course.run_notebook(source, tmp_path / "out", quiet_limit=6)
    assert outcome.status == "hung"
    assert outcome.seconds < 120


def test_report_links_pages_and_escapes_errors(tmp_path):
    (tmp_path / "00_a.html").touch()
    outcomes = [
        run_course.Outcome("00_a", "passed", 90.0),
        run_course.Outcome("01_b", "failed", 30.0, "cell 1: <TypeError>"),
    ]
    page = run_course.write_report(outcomes, tmp_path, "quick").read_text(encoding="utf-8")
    assert "1 of 2 notebooks ran to the end, in 2.0 minutes" in page
    assert '<a href="00_a.html">' in page and 'href="01_b.html"' not in page
    assert "&lt;TypeError&gt;" in page


def test_published_notebook_keeps_results_and_drops_what_changes():
    widget = new_output("display_data", {"application/vnd.jupyter.widget-view+json": {}})
    stream = new_output("stream", text="0.5\n")
    cell = new_code_cell("x", outputs=[widget, stream], metadata={"execution": {"a": "b"}})
    notebook = new_notebook(cells=[cell], metadata={"widgets": {"x": {}}})
    notebook.metadata.language_info = {"name": "python", "version": "3.11.7"}
    clean = run_course.normalise(notebook)
    nbformat.validate(clean)
    assert clean.cells[0].outputs == [stream] and not clean.cells[0].metadata
    assert clean.metadata.kernelspec.name == "python3"
    assert set(clean.metadata) == {"kernelspec", "language_info"}
    assert clean.metadata.language_info == {"name": "python"}


def test_publishing_writes_the_tagged_picture_and_the_minutes(tmp_path, monkeypatch):
    executed, notebooks = tmp_path / "executed", tmp_path / "notebooks"
    executed.mkdir()
    notebooks.mkdir()
    picture = new_output("display_data", {"image/png": base64.b64encode(b"a picture").decode()})
    tagged = new_code_cell("x", outputs=[picture], metadata={"tags": ["picture"]})
    other = new_code_cell("y", outputs=[picture])
    nbformat.write(new_notebook(cells=[other, tagged]), executed / "06_test.ipynb")
    run_course.publish(["06_test"], executed, notebooks, tmp_path / "docs")
    assert (tmp_path / "docs" / "06_test.png").read_bytes() == b"a picture"
    assert len(nbformat.read(notebooks / "06_test.ipynb", as_version=4).cells) == 2

    done = subprocess.CompletedProcess([], 0, "123.45\n", "")
    monkeypatch.setattr(run_course.subprocess, "run", lambda *_, **__: done)
    path = tmp_path / "minutes.json"
    path.write_text('{"quick": {"gflops": 1.0, "minutes": {"06_test": 9.0}}}')
    outcomes = [run_course.Outcome("06_test", "passed", 90.0)]
    run_course.record_minutes(outcomes, "laptop", path)
    assert json.loads(path.read_text()) == {
        "quick": {"gflops": 1.0, "minutes": {"06_test": 9.0}},
        "laptop": {"gflops": 123.5, "minutes": {"06_test": 1.5}},
    }


def test_the_readme_gets_the_measured_minutes(tmp_path, monkeypatch):
    monkeypatch.setattr(sync_notebooks, "ROOT", tmp_path)
    readme = "| [01_a](notebooks/01_a.ipynb) | what | |\n| [02_b](notebooks/02_b.ipynb) | b | 7 |\n"
    assert sync_notebooks.with_minutes(readme) == readme
    (tmp_path / "data").mkdir()
    minutes = {"laptop": {"gflops": 1.0, "minutes": {"01_a": 0.2, "02_b": 3.6}}}
    (tmp_path / "data" / "minutes.json").write_text(json.dumps(minutes))
    assert sync_notebooks.with_minutes(readme) == readme.replace("what | |", "what | 1 |").replace(
        "b | 7 |", "b | 4 |"
    )


# ---- badges and the first code cell


def test_badges_are_put_in_once_and_brought_up_to_date():
    once = sync_notebooks.with_badges("# Title\nGoal: a thing.\n", "04_fine_tune")
    assert once.splitlines()[0] == "# Title" and once.endswith("Goal: a thing.\n")
    assert sync_notebooks.with_badges(once, "04_fine_tune") == once
    other = sync_notebooks.with_badges(once, "05_validate")
    assert "05_validate" in other and "04_fine_tune" not in other


def test_first_code_cell_is_replaced_and_the_rest_untouched():
    notebook = new_notebook(
        cells=[
            new_markdown_cell("# Title"),
            new_code_cell("from helpers import setup_notebook\nsetup_notebook('old')"),
            new_code_cell("1 + 1"),
        ]
    )
    text = sync_notebooks.updated_notebook(nbformat.writes(notebook), "04_fine_tune")
    result = nbformat.reads(text, as_version=4)
    assert result.cells[1].source == sync_notebooks.setup_cell("04_fine_tune")
    assert 'setup_notebook("04_fine_tune")' in result.cells[1].source
    assert sync_notebooks.address() in result.cells[1].source
    assert result.cells[2] == notebook.cells[2]
    assert sync_notebooks.updated_notebook(text, "04_fine_tune") == text


def test_notebook_without_the_start_line_is_refused_by_name():
    cells = [new_markdown_cell("# Title"), new_code_cell("1 + 1")]
    with pytest.raises(SystemExit, match="04_fine_tune"):
        sync_notebooks.updated_notebook(json.dumps(new_notebook(cells=cells)), "04_fine_tune")
