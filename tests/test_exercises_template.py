"""The checks of notebook 02 where many answers are right: a prompt, and a table with its task."""

import pytest

from helpers.data import table as tables
from helpers.exercises import template
from helpers.exercises.verdict import RIGHT, assess

ASKED = "Is this customer happy, yes or no?"


@pytest.mark.parametrize(
    "prompt",
    [
        "{{ review_headline }}\n{{ review_body }}\n" + ASKED,
        "{{ review_body }}\n{{ review_headline }}\n" + ASKED,
        "Headline: {{ review_headline }}. Review: {{ review_body }}\n" + ASKED,
        "{{ review_headline | upper }} {{ review_body }}\n" + ASKED,
        "Headline:{% if review_headline %} {{ review_headline }}{% endif %}\n{{ review_body }}\n"
        + ASKED,
        "Headline: {{ review_headline or 'none' }}\n{{ review_body }}\n" + ASKED,
        "Headline: {% if review_headline %}{{ review_headline }}{% endif %}\n{{ review_body }}\n"
        + ASKED,
    ],
)
def test_a_headline_that_leaves_something_behind_where_there_is_none_is_told(prompt):
    assert "without a headline" in assess(template.HAPPY_PROMPT, prompt).text


@pytest.mark.parametrize(
    "prompt",
    [
        "{{ review_body }}\n" + ASKED,
        "{% if review_headline %}{{ review_headline }}. {% endif %}{{ review_body }}\n" + ASKED,
        "{{ review_body }}{% if review_headline %} ({{ review_headline }}){% endif %}\n" + ASKED,
        "{% if review_headline %}{{ review_headline }}\n{% endif %}{{ review_body }}\n\n\n" + ASKED,
        "- {{ review_body }}\n{% if review_headline %}- {{ review_headline }}\n{% endif %}- "
        + ASKED,
    ],
)
def test_a_prompt_without_leftovers_is_right(prompt):
    assert assess(template.HAPPY_PROMPT, prompt).text == RIGHT


def judged(old: str = "", new: str = "", table: str = template._RIVERS) -> str:
    task = template._RIVERS_TASK.replace(old, new)
    return assess(template.OWN_TABLE, {"table.csv": table, "task.yaml": task}).text


def test_own_files_may_begin_with_an_empty_line_and_need_no_choices():
    assert judged("name: rivers", "\nname: rivers", table="\n" + template._RIVERS) == RIGHT
    open_task = template._RIVERS_TASK.replace("choices: [north, south]\n", "")
    asked = open_task.replace('in the ({{ choices | join(" or ") }}):', "to the")
    files = {"table.csv": template._RIVERS, "task.yaml": asked}
    assert assess(template.OWN_TABLE, files).text == RIGHT


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("south]", "south, east]", "no row has the answer 'east'"),
        ("{{ river }}: {{ note }}", "A {{ river | length }}", "have the same prompt"),
        ("[north", "[north, north", "list of different texts"),
        ("templates:", "template: other\ntemplates:", "no template other"),
    ],
)
def test_the_mistake_in_the_files_is_named(old, new, words):
    assert words in judged(old, new)


def test_messages_name_the_files_and_no_folder():
    for text in (judged("name:", "name: ["), judged(table=""), judged("note", "text")):
        assert "table.csv" in text or "task.yaml" in text
        assert "/" not in text.replace("data/tasks/opinion.yaml", "")


@pytest.mark.parametrize("name", ["hub:owner/name", "../reviews.csv"])
def test_no_other_table_is_read(monkeypatch, name):
    def read(*_, **__):
        raise AssertionError("a table was read")

    monkeypatch.setattr(tables, "load_table", read)
    monkeypatch.setattr("helpers.data.task.load_table", read)
    assert f"names the table {name!r}" in judged("table: table.csv", f"table: {name}")


def test_files_that_are_missing_or_no_texts_are_told():
    assert "two keys" in assess(template.OWN_TABLE, {"table.csv": "a,b"}).text
    half = {"table.csv": template._RIVERS, "task.yaml": ...}
    assert "task.yaml must be a string" in assess(template.OWN_TABLE, half).text
