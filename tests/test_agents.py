"""AGENTS.md, which tells a learner's assistant how to tutor, names only what is there."""

import re
from pathlib import Path

from helpers import exercises
from tools import make

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "AGENTS.md").read_text(encoding="utf-8")


def test_the_files_functions_and_commands_in_it_exist():
    links = re.findall(r"\]\(([^)]+)\)", TEXT)
    assert links and [link for link in links if not (ROOT / link).exists()] == []
    called = set(re.findall(r"`(\w+)\(", TEXT))
    assert {"check", "hint", "solution", "predict", "progress"} <= called
    assert [name for name in called if not hasattr(exercises, name)] == []
    assert set(re.findall(r"`make ([\w-]+)", TEXT)) <= set(make.TARGETS)
    for name in re.findall(r"(?:tools|tests)/\w+\.py", TEXT):
        assert (ROOT / name).exists()


def test_its_map_names_each_notebook_and_it_stays_short():
    rows = " ".join(re.findall(r"^\| ([\d\w, ]+) \|", TEXT, re.MULTILINE))
    names = {path.stem.split("_")[0] for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert set(re.findall(r"\w+", rows)) == names
    assert len(TEXT.split()) < 900
