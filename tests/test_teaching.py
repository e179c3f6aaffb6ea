"""The instructors' notes are up to date, and what is printed needs no network."""

import re

import pytest

from tools import teaching

SAID = teaching.all_there_is_to_say()
PAGES = teaching.pages(SAID)
SHOWN = {"A demo of 90 minutes": "1:30"}  # there the results are made the evening before


@pytest.mark.parametrize("name", teaching.KEPT)
def test_guide_and_notes_are_what_their_sources_say(name):
    path = teaching.TEACHING / name
    assert path.read_text(encoding="utf-8") == PAGES[path], "run: make teaching"


def test_each_notebook_has_notes_and_both_forms_ask_different_questions():
    names = [path.stem for path in sorted((teaching.ROOT / "notebooks").glob("*.ipynb"))]
    assert list(SAID["notebooks"]) == names
    for name, one in SAID["notebooks"].items():
        assert one["printed"][0] and one["questions"], name
        assert bool(one["quiz"]) == ("test" in one) and len(set(one.get("test", (1, 2)))) == 2


def test_notes_show_the_summary_in_quick_where_it_differs():
    one, two, *rest = SAID["notebooks"]
    quick = {
        one: {"quick": "- only 3 rows"},
        two: {"quick": "\n".join(SAID["notebooks"][two]["printed"])},
    }
    quick |= {name: {"quick": None} for name in rest}
    said = SAID | {"notebooks": {n: SAID["notebooks"][n] | quick[n] for n in quick}}
    notes = teaching.pages(said)[teaching.TEACHING / "notes.md"]
    assert notes.count("printed the same.") == notes.count("- only 3 rows") == 1
    assert notes.count("What a run in <code>quick</code> printed") == 1


def test_notes_hold_no_number_of_their_own():
    """What a run computes is read from its outputs; a person writes only reasons."""
    for name, one in SAID["notebooks"].items():
        said = " ".join([one["aim"], one["spread"], *one["questions"]])
        assert not re.search(r"\d\.\d|\d ?%", said), name


def test_plans_leave_time_for_what_they_name():
    for plan in SAID["plans"]:
        if plan["title"] in SHOWN:
            assert plan["blocks"][-1][0] == SHOWN[plan["title"]]
            continue  # there the results are made before
        for _, name, length, _ in plan["blocks"]:
            minutes = SAID["notebooks"][name]["minutes"] if name else {"quick": 0}
            computing = minutes["quick"] or minutes.get("laptop")
            assert (length or 0) >= (computing or 0), (name, length)


def test_a_cell_that_vanished_is_named():
    notebook = teaching.read("03_split")
    with pytest.raises(LookupError, match="03-gone"):
        teaching.slides_of(notebook, {"slides": [["03-gone"]], "expect": ["03-n05"]})


def test_printed_pages_ask_no_other_host_and_hold_their_figures():
    printed = {path: text for path, text in PAGES.items() if path.suffix == ".html"}
    assert len(printed) == len(SAID["notebooks"]) + 3
    for path, text in printed.items():
        # A link to click on is no request.
        assert not re.search(r"<script|<link|<iframe|url\(|@import|src=.(?!data:)", text), path
    six = printed[teaching.TEACHING / "print" / "slides_06_test.html"]
    assert six.count("<section>") == 2 + len(SAID["notebooks"]["06_test"]["slides"])
    assert six.count("data:image/png") >= 3


def test_the_key_names_the_right_choices_of_the_sheets():
    folder = teaching.TEACHING / "print"
    key = PAGES[folder / "test_key.html"]
    letters = re.findall(r"<p><b>([a-f])</b>", key)
    questions = [one for one in SAID["notebooks"].values() if "test" in one]
    asked = [one["quiz"][one["test"][form] - 1] for form in (0, 1) for one in questions]
    right = [[choice.right for choice in question.choices].index(True) for question in asked]
    assert letters == ["abcdef"[place] for place in right]
    assert PAGES[folder / "test_A.html"].count("<ol>") == len(questions)
