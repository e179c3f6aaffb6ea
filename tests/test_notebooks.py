"""Reads the notebooks and all tracked files as files: their form, and what must not be there."""

import ast
import inspect
import re
import socket
import subprocess
from pathlib import Path

import nbformat
import pytest

from helpers.display.diagrams import STEP
from helpers.exercises.loops import train_loop
from helpers.training.loop import training_step
from tools import sync_notebooks

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MAIN_ROAD = [
    "00_start_here",
    "01_prompt",
    "02_template",
    "03_split",
    "04_fine_tune",
    "05_validate",
    "06_test",
    "07_instruct_model",
    "08_forgetting",
    "09_bug_museum",
    "10_your_table",
    "11_at_work",
    "12_scale_up",
]
MOST_LINES, MOST_WORDS, MOST_BYTES = 15, 120, 750_000
FEWEST_TEXTS_PER_CODE, MOST_TEXTS_PER_CODE = 1.0, 2.2

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells(path: Path, kind: str) -> list[nbformat.NotebookNode]:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == kind]


def python_of(source: str) -> str:
    """A cell's code with the lines that only IPython understands blanked."""
    return re.sub(r"(?m)^(\s*)[%!].*$", r"\1pass", source)


def prose_of(markdown: str) -> str:
    """What a reader reads as prose: no code, formulas, link targets, images or HTML."""
    for pattern in (
        r"(?s)```.*?```",
        r"`[^`]*`",
        r"(?s)\$\$.*?\$\$",
        r"\$[^$\n]+\$",
        r"!\[[^\]]*\]\([^)]*\)",
        r"\]\([^)]*\)",
        r"<[^>]+>",
    ):
        markdown = re.sub(pattern, " ", markdown)
    return markdown


def test_all_notebooks_are_there_in_order_and_linked_from_the_readme():
    names = [path.stem for path in NOTEBOOKS]
    assert names[: len(MAIN_ROAD)] == MAIN_ROAD
    assert names[len(MAIN_ROAD) :] == ["A_speed_and_memory"]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    missing = [name for name in names if f"(notebooks/{name}.ipynb)" not in readme]
    assert not missing, "README.md does not link these notebooks"


@each_notebook
def test_file_is_valid_and_small(path):
    nbformat.validate(nbformat.read(path, as_version=4))
    assert path.stat().st_size < MOST_BYTES
    metadata = nbformat.read(path, as_version=4).metadata
    assert metadata.kernelspec.name == "python3"
    # Malformed widget state makes code hosts refuse to show a notebook at all.
    assert "widgets" not in metadata


@each_notebook
def test_outputs_are_of_one_run_from_top_to_bottom_without_errors(path):
    code = cells(path, "code")
    counts = [cell.execution_count for cell in code]
    assert counts == list(range(1, len(code) + 1))
    for number, cell in enumerate(code, start=1):
        if "raises-exception" not in cell.metadata.get("tags", []):
            kinds = [output.output_type for output in cell.outputs]
            assert "error" not in kinds, f"code cell {number}"


@each_notebook
def test_code_cells_are_short(path):
    lengths = {n: len(c.source.splitlines()) for n, c in enumerate(cells(path, "code"), start=1)}
    assert {n: length for n, length in lengths.items() if length > MOST_LINES} == {}


@each_notebook
def test_text_cells_are_short_and_as_many_as_the_code_needs(path):
    texts = [cell.source for cell in cells(path, "markdown")]
    long = [text[:60] for text in texts if len(prose_of(text).split()) > MOST_WORDS]
    assert not long, f"cells of more than {MOST_WORDS} words"
    ratio = len(texts) / len(cells(path, "code"))
    assert FEWEST_TEXTS_PER_CODE <= ratio <= MOST_TEXTS_PER_CODE


@each_notebook
def test_each_figure_has_a_title_that_says_what_was_found(path):
    """`show` takes it as its third argument; the curve of a run has its own."""
    untitled = []
    for cell in [cell for cell in cells(path, "code") if re.search(r"\bshow\(", cell.source)]:
        for call in ast.walk(ast.parse(cell.source)):
            if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "show":
                own = "training_curve(" in ast.unparse(call.args[0])
                untitled += [cell.id] if len(call.args) < 3 and not own else []
    assert untitled == []


@each_notebook
def test_a_task_s_answers_are_written_to_their_last_line(path):
    """Without answer_form, generate_answers ends each answer with its first line. A fixed number of
    tokens is for a first look at what a model says."""
    cut = []
    for cell in cells(path, "code"):
        for call in ast.walk(ast.parse(python_of(cell.source))):
            if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "generate_answers":
                keywords = {one.arg: one.value for one in call.keywords}
                most = [*call.args[3:4], keywords.get("max_new_tokens")][0]
                if None not in keywords and not isinstance(most, ast.Constant):
                    cut.append(cell.id)
    assert cut == []


@pytest.mark.parametrize("name", ["07_instruct_model", "10_your_table"])
def test_a_model_is_saved_with_all_that_predict_reads(name):
    sources = [cell.source for cell in cells(ROOT / "notebooks" / f"{name}.ipynb", "code")]
    (saving,) = (source for source in sources if "save_model(" in source)
    assert "task.files" in saving and "answers.json" in saving


@each_notebook
def test_prose_states_no_measured_number(path):
    """A number that a run computes stands in an output, never in the text, where it would go stale.

    Tag a cell 'number-ok' when its numbers are definitions.
    """
    found = {
        number: match.group()
        for number, cell in enumerate(cells(path, "markdown"), start=1)
        if "number-ok" not in cell.metadata.get("tags", [])
        and (match := re.search(r"\d+(\.\d+)?\s?%|\b\d+\.\d+\b", prose_of(cell.source)))
    }
    assert found == {}, "text cell → number"


@each_notebook
def test_first_cells_are_the_title_and_the_agreed_start(path):
    notebook = nbformat.read(path, as_version=4)
    assert notebook.cells[0].cell_type == "markdown"
    assert notebook.cells[0].source.startswith("# ")
    assert cells(path, "code")[0].source == sync_notebooks.setup_cell(path.stem)


def test_links_and_first_cells_hold_the_address_in_pyproject():
    files = [str(path.relative_to(ROOT)) for path in sync_notebooks.outdated()]
    assert files == [], "run: python tools/sync_notebooks.py"


@each_notebook
def test_each_notebook_shows_where_it_is_on_the_road_and_links_the_glossary(path):
    roads = [cell for cell in cells(path, "code") if re.search(r"^show_road\(", cell.source, re.M)]
    assert roads
    for cell in roads:
        # Without an argument, no place is marked: that is the first notebook's, before the start.
        assert ("show_road()" in cell.source) == (path.stem == MAIN_ROAD[0]), cell.id
        pages = [out.data.get("text/html", "") for out in cell.outputs if "data" in out]
        assert any("data:image/svg+xml" in page for page in pages), f"{cell.id} has no stored road"
    text = "\n".join(cell.source for cell in cells(path, "markdown")[1:])
    assert "docs/glossary.md" in text
    assert re.search(r"\]\(https://(?!colab|mybinder)", text), "no link to a paper or documentation"


@pytest.mark.parametrize("path", NOTEBOOKS[1:], ids=lambda path: path.stem)
def test_each_notebook_but_the_first_begins_with_a_question_from_an_earlier_one(path):
    text = "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells)
    before = re.split(r"(?m)^## ", text)[0]
    (asked,) = re.findall(r"\*\*A question from notebook (\w+)\.\*\*", before)

    def place(name: str) -> str:  # A is an appendix to 04
        return name.replace("A", "04a")

    assert place(asked) < place(path.stem.partition("_")[0]), "not an earlier one"


@each_notebook
def test_the_summary_is_printed_by_a_cell_and_its_output_is_stored(path):
    """Under "What we saw" a code cell prints sentences with the numbers of this very run."""
    all_cells = nbformat.read(path, as_version=4).cells
    (start,) = (i for i, cell in enumerate(all_cells) if "## What we saw" in cell.source)
    section = []
    for cell in all_cells[start + 1 :]:
        if cell.cell_type == "markdown" and cell.source.startswith("## "):
            break
        section.append(cell)
    printing = [cell for cell in section if cell.cell_type == "code" and "print(" in cell.source]
    assert printing
    for cell in printing:
        assert re.search(r"\d", "".join(out.get("text", "") for out in cell.outputs))


def six_words(source: str) -> list[str]:
    """The words of a training step that the comments of a loop name, in their order."""
    names = STEP.split(", ")
    comments = [re.findall(r"\w+", one) for one in re.findall(r"# (.*)", source)]
    of_step = [words for words in comments if words and words[0] in names]
    return list(dict.fromkeys(word for words in of_step for word in words if word in names))


@pytest.mark.parametrize("place", ["04-114b", "05-n19", train_loop, training_step])
def test_the_loops_name_the_same_six_words_as_the_picture(place):
    if isinstance(place, str):
        code = [cell for path in NOTEBOOKS for cell in cells(path, "code")]
        (source,) = (cell.source for cell in code if cell.id == place)
    else:
        source = inspect.getsource(place)
    assert six_words(source) == STEP.split(", ")


@each_notebook
def test_nothing_tells_whose_machine_it_was(path):
    text = path.read_text(encoding="utf-8")
    places = [r"/home/", r"/root/", r"/Users/", r"[A-Z]:\\\\+Users", r"/tmp/", r"/var/folders/"]
    assert [place for place in places if re.search(place, text)] == []
    host = socket.gethostname()
    assert len(host) < 6 or host not in text
    # A path out of the repository: the notebooks are one folder deep.
    above = re.compile(r"\.\./\.\./(?!data/)")  # a task file in runs/ names its table in data/
    outside = [c.id for c in cells(path, "code") if above.search(str(c.outputs))]
    assert outside == [], "run the notebook inside the repository"


# Those that are stored with a still picture; each is made and shown in one cell.
WIDGETS = re.findall(
    r"class ([A-Z]\w+)\(_(?:Still|Following)\)",
    (ROOT / "helpers" / "display" / "widgets.py").read_text(encoding="utf-8"),
)


@each_notebook
def test_each_widget_is_stored_with_a_still_picture_and_its_text(path):
    """What a reader without a kernel sees, and what a screen reader says."""
    assert len(WIDGETS) > 3
    made = re.compile(rf"\b(?:{'|'.join(WIDGETS)})\(")
    for cell in cells(path, "code"):
        if made.search(cell.source):
            stored = [output for output in cell.outputs if "data" in output]
            stills = [one for one in stored if "A still picture." in one.data.get("text/plain", "")]
            assert stills, cell.id
            for still in stills:
                text = still.data["text/plain"]
                assert {"text/html", "image/png"} & {*still.data}, cell.id
                assert not text.startswith("A still picture."), cell.id
                if "image/png" in still.data:
                    alternative = still.metadata["image/png"]["alt"]
                    assert " " in alternative and text.startswith(alternative), cell.id


# A picture that is fetched: ![alternative](https://…), or src="https://…" in HTML.
FETCHED = re.compile(r"""!\[[^\]]*\]\(<?(?:https?:)?//|\bsrc=\\*["']?(?:https?:)?//""", re.I)


@pytest.mark.parametrize(
    ("text", "fetched"),
    [
        ("[![Open](https://a.org/b.svg)](https://a.org)", True),
        ("![a](//a.org/b.png)", True),
        ('<img alt="a" src="http://a.org/b.png">', True),
        ("[words](https://a.org/b.png)", False),
        ("![a](../docs/b.png)", False),
        ('<img src="data:image/png;base64,AA//BB">', False),
    ],
)
def test_a_picture_that_is_fetched_is_found(text, fetched):
    assert bool(FETCHED.search(text)) == fetched


@each_notebook
def test_no_picture_is_fetched_from_another_host(path):
    """Notebook 00 says that the network is never used again after the set-up."""
    assert FETCHED.findall(path.read_text(encoding="utf-8")) == []


@each_notebook
def test_code_parses(path):
    for number, cell in enumerate(cells(path, "code"), start=1):
        compile(
            python_of(cell.source),
            f"{path.name}, code cell {number}",
            "exec",
            flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT,
        )


HELPERS = ROOT / "helpers"
# The order in which data flows; CONTRIBUTING.md speaks of it. A module may import from those before
# its own package, and within a package from those before itself.
ORDER = {
    "": "errors files machine profiles results",
    "data": "formats table tokenize templates split task describe",
    "model": "load card export",
    "inference": "batches few_shot generate score",
    "training": "settings processes shared_prefix loss low_memory checkpoint loop run footprint",
    "evaluation": "metrics uncertainty baselines prompt_search forgetting scoreboard",
    "display": "tables tokens charts curves diagrams widgets",
}


# Programs to be called from a terminal: they may use everything.
COMMANDS = [HELPERS / "train.py", HELPERS / "predict.py"]


def modules() -> list[Path]:
    """Those of the road: the exercises' framework stands apart."""
    paths = [path for path in HELPERS.glob("[!_]*.py") if path not in COMMANDS]
    for package in ORDER:
        paths += sorted((HELPERS / package).glob("[!_]*.py")) if package else []
    return paths


def imported(tree: ast.AST) -> set[str]:
    """Dotted names that a module takes from helpers: helpers.data.table.load_table, say."""
    nodes = list(ast.walk(tree))
    froms = [node for node in nodes if isinstance(node, ast.ImportFrom)]
    names = {f"{node.module}.{alias.name}" for node in froms for alias in node.names}
    plain = [node for node in nodes if isinstance(node, ast.Import)]
    names |= {alias.name for node in plain for alias in node.names}
    return {name for name in names if name.startswith("helpers.")}


def taken_by(notebook: str) -> set[str]:
    """Names that a notebook imports from helpers, or takes from a package that it imports."""
    tree = ast.parse(notebook)
    nodes = list(ast.walk(tree))
    froms = [
        node for node in nodes if isinstance(node, ast.ImportFrom) and node.module == "helpers"
    ]
    packages = {alias.asname or alias.name for node in froms for alias in node.names}
    attributes = [node for node in nodes if isinstance(node, ast.Attribute)]
    taken = {one.attr for one in attributes if getattr(one.value, "id", "") in packages}
    return taken | {name.rpartition(".")[2] for name in imported(tree)}


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def idle(trees: dict[str, ast.Module], elsewhere: set[str]) -> list[str]:
    """Public functions of these modules that no other one of them imports, and nothing else."""
    taken = {name: {n.rpartition(".")[2] for n in imported(tree)} for name, tree in trees.items()}
    found = []
    for name, tree in trees.items():
        others = elsewhere.union(*(names for other, names in taken.items() if other != name))
        functions = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
        found += [f"{name}: {one}" for one in functions if one[0] != "_" and one not in others]
    return found


def test_each_public_function_of_helpers_is_used_outside_of_its_module():
    """A function that no notebook, tool or other helper takes has no place here, or is private."""
    elsewhere: set[str] = set()
    for path in NOTEBOOKS:
        elsewhere |= taken_by("\n".join(python_of(c.source) for c in cells(path, "code")))
    tools = [path for name in ("tools", "benchmarks") for path in (ROOT / name).glob("*.py")]
    for path in [*tools, *COMMANDS, *(HELPERS / "exercises").glob("*.py")]:
        elsewhere |= {name.rpartition(".")[2] for name in imported(tree_of(path))}
    assert idle({str(p.relative_to(HELPERS)): tree_of(p) for p in modules()}, elsewhere) == []


def test_a_function_that_only_its_own_module_uses_is_found():
    one = "def taken(): ...\ndef own(): ...\ndef _private(): own()\ndef shown(): ...\n"
    other = "from helpers.one import taken\n"
    trees = {"one.py": ast.parse(one), "other.py": ast.parse(other)}
    assert idle(trees, {"shown"}) == ["one.py: own"]
    trees["one.py"] = ast.parse("from helpers.one import own\n" + one)
    assert idle(trees, {"shown"}) == ["one.py: own"]


def test_helpers_import_only_from_those_before_them():
    packages = list(ORDER)
    for path in modules():
        package = "" if path.parent == HELPERS else path.parent.name
        own = ORDER[package].split()
        assert path.stem in own, path
        for _, *parts in (name.split(".") for name in imported(tree_of(path))):
            # Not the exercises, and not the commands.
            assert parts[0] in {*packages, *ORDER[""].split()}, f"{path}: {parts}"
            other = parts[0] if parts[0] in packages else ""
            assert packages.index(other) <= packages.index(package), f"{path}: {parts}"
            if other == package:
                module = parts[1] if package else parts[0]
                assert own.index(module) < own.index(path.stem), f"{path}: {parts}"


# Written in two halves, so that this file does not hold what it looks for.
FORBIDDEN = [
    "/wo" + "rk/",
    "/ro" + "ot/",
    "/opt/whe" + "els",
    "sub" + "agent",
    "pypi" + ".org",
    "pythonhosted" + ".org",
    "registry." + "npmjs",
    "download." + "pytorch",
    "as an " + "AI",
]


def test_no_tracked_file_holds_machine_paths_or_registry_hosts():
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        done = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    found = []
    for name in filter(None, done.stdout.split("\0")):
        path = ROOT / name
        if not path.is_file() or path == Path(__file__).resolve():
            continue
        text = path.read_bytes().decode("utf-8", errors="replace")
        found += [f"{name}: {word}" for word in FORBIDDEN if word in text]
    assert found == []
