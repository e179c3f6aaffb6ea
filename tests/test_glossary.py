"""The glossary, and the notebooks held to it: a term is defined before it is used, in bold."""

import re
from dataclasses import dataclass
from pathlib import Path

import nbformat
import pytest

from tests.test_notebooks import NOTEBOOKS, prose_of

ROOT = Path(__file__).resolve().parent.parent
# The terms of the field without which nobody can read on elsewhere.
NEEDED = """instruction fine-tuning, full fine-tuning, supervised fine-tuning, pretraining, base
model, instruct model, in-context learning, few-shot, hyperparameter, early stopping, overfitting,
teacher forcing, logit, softmax, perplexity"""
LINE = re.compile(
    r"- \*\*(?P<term>[^*]+)\*\*(?: \(also: (?P<also>[^)]+)\))?\. (?P<says>.+) "
    r"\[[^]]+\]\((?P<link>https://[^)\s]+)\)\. "
    r"Defined in \[\w+\]\(\.\./notebooks/(?P<notebook>\w+)\.ipynb\)\."
)


@dataclass(frozen=True)
class Entry:
    """A line of the glossary. also: other names, under which a notebook may define the term."""

    term: str
    also: tuple[str, ...]
    notebook: str

    def used_in(self, text: str) -> bool:
        """Whether a text has the term, in whatever case, in the singular or the plural.

        Not its other names: these are often words of everyday language (step, window).
        """
        return bool(re.search(rf"(?<![\w-]){pattern(self.term)}(?![\w-])", text))

    def defined_in(self, markdown: str) -> bool:
        """Whether the term or another of its names is printed in bold."""
        text = re.sub(r"`[^`]*`", "", markdown)  # in code, two stars are a power
        bold = [words.strip(" .:,") for words in re.findall(r"(?s)\*\*(.+?)\*\*", text)]
        names = "|".join(pattern(name) for name in (self.term, *self.also))
        return any(re.fullmatch(names, words) for words in bold)


def pattern(name: str) -> str:
    """A regular expression for a name: plural, hyphen or space, and capitals make no difference."""
    stem = "[- \n]+".join(re.escape(word) for word in re.split("[- ]", name.removesuffix("s")))
    return f"(?i:{stem}s?)"


def entries() -> list[Entry]:
    lines = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8").splitlines()
    found = [LINE.fullmatch(line) for line in lines if line.startswith("- ")]
    return [
        Entry(one["term"], tuple((one["also"] or "").split(", ")), one["notebook"])
        for one in found
        if one
    ]


def texts() -> dict[str, list[str]]:
    """Notebook → its cells of text, in the order in which the course is read.

    A is an appendix to 04; 09 is the first that asks for it, so it stands before that one.
    """
    return {
        path.stem: [
            cell.source
            for cell in nbformat.read(path, as_version=4).cells
            if cell.cell_type == "markdown"
        ]
        for path in sorted(NOTEBOOKS, key=lambda path: path.stem.replace("A_", "08_"))
    }


def undefined(texts: dict[str, list[str]]) -> list[tuple[str, str, str]]:
    """Term, notebook and the beginning of the cell that first uses a term not defined so far.

    The first two cells of a notebook, title and goal, may name what is to come.
    """
    missing = []
    terms = [entry.term for entry in entries()]
    for entry in entries():
        # "label bias" is no use of "label".
        longer = [term for term in terms if entry.term in term.split() and term != entry.term]
        hide = "|".join(map(pattern, longer)) or "(?!)"
        for notebook, cells in texts.items():
            home = next((i for i, cell in enumerate(cells) if entry.defined_in(cell)), None)
            before = cells if home is None else cells[2:home]
            using = [cell for cell in before if entry.used_in(re.sub(hide, "", prose_of(cell)))]
            if using:
                missing.append((entry.term, notebook, using[0][:70]))
            if using or home is not None:
                break
    return missing


def test_each_entry_has_a_definition_a_link_and_a_notebook():
    lines = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8").splitlines()
    listed = [line for line in lines if line.startswith("- ")]
    assert [line for line in listed if not LINE.fullmatch(line)] == []
    terms = [entry.term for entry in entries()]
    assert len(terms) >= 65 and terms == sorted(set(terms), key=str.casefold)


def test_the_terms_that_a_reader_needs_elsewhere_are_entries():
    needed = " ".join(NEEDED.split()).split(", ")
    assert set(needed) - {entry.term for entry in entries()} == set()


def test_each_bold_term_with_a_link_is_an_entry():
    """What is printed as [**term**](link) is defined there, and is not just a stressed word."""
    missing = [
        (notebook, term)
        for notebook, cells in texts().items()
        for term in re.findall(r"\[\*\*([^*]+)\*\*\]\(", "\n".join(cells))
        if not any(entry.defined_in(f"**{term}**") for entry in entries())
    ]
    assert missing == []


def test_each_entry_names_the_notebook_that_defines_it():
    all_texts = {name: "\n\n".join(cells) for name, cells in texts().items()}
    wrong = [
        (entry.term, entry.notebook)
        for entry in entries()
        if not entry.defined_in(all_texts.get(entry.notebook, ""))
    ]
    assert wrong == [], "not printed in bold in the notebook that the glossary names"


def test_each_term_is_in_bold_in_one_notebook_only():
    all_texts = {name: "\n\n".join(cells) for name, cells in texts().items()}
    places = {
        entry.term: [name for name, text in all_texts.items() if entry.defined_in(text)]
        for entry in entries()
    }
    assert {term: found for term, found in places.items() if len(found) > 1} == {}


def test_no_term_is_used_before_the_cell_that_defines_it():
    assert undefined(texts()) == [], "print each in bold where it is defined, or use another word"


@pytest.mark.parametrize(
    ("cells", "missing"),
    [
        (["The epoch ends."], ["epoch"]),
        (["Two *Epochs* later"], ["epoch"]),
        (["An **epoch** is a pass. Two epochs are two."], []),
        (["**Epochs:** passes over the data."], []),
        (["Its over-fitting"], []),
        (["Weight\naveraging"], ["weight averaging"]),
        (["`epoch` and $epoch$ are code"], []),
        (["See [this](epoch.md)"], []),
    ],
)
def test_a_use_without_a_definition_is_found(cells, missing):
    assert [term for term, *_ in undefined({"00": cells})] == missing


def test_a_definition_in_an_earlier_notebook_counts_and_a_later_one_does_not():
    use, define = ["One epoch."], ["An **epoch** is one pass."]
    assert undefined({"00": define, "01": use}) == []
    assert [found[:2] for found in undefined({"00": use, "01": define})] == [("epoch", "00")]


def test_title_and_goal_may_name_what_the_cells_before_the_definition_may_not():
    use, define = ["One epoch."], ["An **epoch** is one pass."]
    assert undefined({"00": use * 2 + define + use}) == []
    assert [found[:2] for found in undefined({"00": use * 3 + define})] == [("epoch", "00")]
