"""What is in a table, and the task file that it leads to."""

import datetime
import decimal
import os
from pathlib import Path

import pandas
import pytest
from datasets import Dataset

from helpers.data import describe, load_task, suggest, too_little, write_task
from helpers.data.describe import _looks_personal
from helpers.data.formats import TableError
from helpers.data.task import TaskError
from helpers.data.templates import TemplateError
from helpers.profiles import ROOT
from tests.refusals import refusal

REVIEWS, DIALOGUES = ROOT / "data" / "reviews.csv", ROOT / "data" / "dialogues.csv"


def test_columns_are_told_apart_by_what_they_hold():
    columns = describe(REVIEWS).columns
    kinds = {name: column.kind for name, column in columns.items()}
    assert kinds == {
        "review_id": "id",
        "department": "label",
        "product_title": "name",
        "star_rating": "label",
        "review_headline": "text",
        "review_body": "text",
    }
    department = columns["department"]
    assert department.different == 8 and department.commonest[0][1] >= department.commonest[1][1]
    assert describe(DIALOGUES).columns["topic"].kind == "label"


def table(tmp_path, text: str, name: str = "my.csv"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def test_empty_cells_equal_rows_numbers_and_lists_are_seen(tmp_path):
    path = table(tmp_path, "a,size\nred house,1.5\nred house,1.5\n,2\nblue,7\n")
    facts = describe(path)
    assert (facts.rows, facts.duplicates) == (4, 1)
    assert facts.columns["a"].filled == 3 and facts.columns["a"].words == (2, 2)
    path = table(tmp_path, '[{"tags": ["a"], "n": 10}, {"tags": [], "n": 20}]', "my.json")
    columns = describe(path).columns
    assert columns["tags"].kind == "list" and columns["tags"].filled == 1
    assert columns["n"].kind == "id"


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("Write to ann.lee+x@mail.example.org now", {"e-mail address"}),
        ("Call +49 170 1234567 or 030/1234567", {"telephone number"}),
        ("My card is 4111 1111 1111 1111", {"card number"}),
        ("Order 4111 1111 1111 1112", set()),  # its digits do not add up
        ("Pay to DE89 3704 0044 0532 0130 00", {"IBAN"}),
        ("From 192.168.0.1", {"IP address"}),
        ("Ask @ann_lee about it", {"account name"}),
        ("Bought on 2024-11-03 for 19.99, lasted 10 years", set()),
        ("Two @ 3 each, version 1.2.3", set()),
    ],
)
def test_what_looks_personal(text, kinds):
    assert _looks_personal(text) == kinds


def test_personal_cells_are_counted_for_each_column(tmp_path):
    path = table(tmp_path, "text,who\nhi,a@b.de\nho,c@d.de\nhe,nobody\n")
    columns = describe(path).columns
    assert columns["who"].personal == {"e-mail address": 2} and columns["text"].personal == {}


def test_a_column_whose_name_is_no_word_gets_one(tmp_path):
    path = table(tmp_path, "Product Title,Kind (short)\n" + "good lamp,a\nbad lamp,b\n" * 4)
    facts = describe(path)
    assert list(facts.columns) == ["Product_Title", "Kind_short"]
    assert "'Product Title' is called Product_Title" in facts.notes[0]
    given = {"prompt": ["Product_Title"], "answer": "Kind_short", "instruction": "Which kind?"}
    task = write_task(tmp_path / "lamps.yaml", path, **given, choices=True)
    assert task.render(task.load_table())["answer"] == ["a", "b"]


def test_a_task_file_for_choices(tmp_path):
    path = tmp_path / "tasks" / "stars.yaml"
    task = write_task(
        path,
        REVIEWS,
        prompt=["review_headline", "review_body"],
        answer="department",
        instruction="Which department is it?",
        group="product_title",
    )
    again = load_task(path)
    assert again == task and task.name == "stars" and task.kind == "classification"
    assert task.choices == load_task("department").choices
    assert task.group == "product_title" and task.stratify == ("department",)
    example = task.render(task.load_table().select([0]))[0]
    assert example["prompt"].startswith("Which department is it? Choose from: books, clothing")
    assert "review_headline: " in example["prompt"] and example["prompt"].endswith("Answer:")
    assert example["answer"] in task.choices
    assert not list(path.parent.glob(".*"))


def test_a_task_file_for_free_text_and_what_suggest_proposes(tmp_path):
    first = suggest(describe(DIALOGUES))
    assert first == {"prompt": ["dialogue"], "answer": "topic", "group": None}
    given = first | {"answer": "summary", "instruction": "Summarize it."}
    task = write_task(tmp_path / "mine.yaml", DIALOGUES, **given)
    assert task.kind == "text" and task.metrics == ("rouge",) and not task.choices
    assert suggest(describe(REVIEWS))["group"] == "product_title"


def test_dates_and_decimals_are_no_texts(tmp_path):
    days = [datetime.date(2026, 1, 1) + datetime.timedelta(n) for n in range(9)]
    columns = {"day": days, "price": [decimal.Decimal(n) for n in range(9)]}
    columns["text"] = [f"a text of its own {n}" for n in range(9)]
    pandas.DataFrame(columns).to_parquet(tmp_path / "t.parquet")
    assert describe(tmp_path / "t.parquet").columns["text"].kind == "text"


def test_an_empty_cell_among_numbers_is_shown_as_nothing(tmp_path):
    rows = "".join(f"row {n},{n % 7 or ''},{'ab'[n % 2]}\n" for n in range(40))
    path = table(tmp_path, "text,age,label\n" + rows)
    given = {"prompt": ["text", "age"], "answer": "label", "instruction": "Which?"}
    task = write_task(tmp_path / "mine.yaml", path, **given)
    prompts = task.render(task.load_table())["prompt"][:]
    assert "\nage: \n" in prompts[0] and "\nage: 3\n" in prompts[3]


def test_a_table_is_found_from_a_folder_behind_a_link(tmp_path):
    (tmp_path / "far" / "away" / "runs").mkdir(parents=True)
    (tmp_path / "runs").symlink_to(tmp_path / "far" / "away" / "runs")
    path = table(tmp_path, "text,label\n" + "".join(f"row {n},{n % 2}\n" for n in range(12)))
    given = {"prompt": ["text"], "answer": "label", "instruction": "Which?"}
    assert len(write_task(tmp_path / "runs" / "mine.yaml", path, **given).load_table()) == 12


def test_a_table_that_is_a_link_is_named_as_the_link(tmp_path):
    """As the hub's cache has them: the file behind the link has a number for a name."""
    text = "text,label\n" + "".join(f"row {n},{n % 2}\n" for n in range(12))
    (tmp_path / "tickets.csv").symlink_to(table(tmp_path, text, "5f3a9c"))
    given = {"prompt": ["text"], "answer": "label", "instruction": "Which?"}
    task = write_task(tmp_path / "mine.yaml", tmp_path / "tickets.csv", **given)
    assert task.table == "tickets.csv"
    assert task.load_table()["row_id"][0] == "tickets.csv line 2"


def test_a_table_on_another_drive_is_named_by_its_whole_path(tmp_path, monkeypatch):
    def relpath(*_):
        raise ValueError("path is on mount 'D:', start on mount 'C:'")

    monkeypatch.setattr(os.path, "relpath", relpath)
    given = {"prompt": ["dialogue"], "answer": "summary", "instruction": "Summarize it."}
    task = write_task(tmp_path / "mine.yaml", DIALOGUES, **given)
    assert Path(task.table) == DIALOGUES.resolve()


def test_numbers_and_booleans_can_be_choices(tmp_path):
    path = table(tmp_path, "text,ok\n" + "".join(f"row {i},{i % 2 == 0}\n" for i in range(12)))
    given = {"prompt": ["text"], "answer": "ok", "instruction": "Is it?"}
    task = write_task(tmp_path / "a.yaml", path, **given)
    assert task.choices == ("False", "True")
    assert task.render(task.load_table())[0]["answer"] == "True"
    path = table(tmp_path, "text,n\n" + "".join(f"row {i},{i % 3 * 10}\n" for i in range(12)))
    task = write_task(tmp_path / "b.yaml", path, **given | {"answer": "n"})
    assert task.choices == ("0", "10", "20")


def test_labels_can_be_chosen_and_rows_with_another_are_left_out(tmp_path):
    lines = [f"row {i},{('b', 'c ', 'a')[i % 3]}\n" for i in range(90)]
    path = table(tmp_path, "text,kind\n" + "".join(lines) + "one row,rare\n")
    given = {"prompt": ["text"], "answer": "kind", "instruction": "Which?"}
    task = write_task(tmp_path / "mine.yaml", path, **given, choices=["c", "a"])
    assert task.choices == ("c", "a") and "Choose from" in task.wording.prompt
    rows = task.load_table()
    assert {*task.render(task.drop_empty(rows))["answer"]} == {"a", "c"}
    # All labels would make a split that is alike in each of them: impossible with the rare one.
    assert len(task.split(rows)) == 3
    assert task.wording.question(rows[0], task.choices)["choices"] == ["c", "a"]

    def write(*choices):
        return lambda: write_task(tmp_path / "mine.yaml", path, **given, choices=choices)

    refusal(TaskError, write("a", "d"), "labels of kind", "a, d", "values: a, b, c, rare")
    refusal(TaskError, write("a"), "at least two")
    refusal(TaskError, write(), "none", "at least two")


def test_what_makes_no_task_is_refused_and_nothing_is_written(tmp_path):
    path, given = tmp_path / "mine.yaml", {"prompt": ["dialogue"], "instruction": "Sum it up."}
    good = write_task(path, DIALOGUES, answer="summary", **given)
    before = path.read_text(encoding="utf-8")

    def write(**changed):
        return lambda: write_task(path, DIALOGUES, **{"answer": "summary", **given, **changed})

    refusal(TableError, write(answer="sumary"), "no column sumary", "summary")
    refusal(TableError, write(group="who"), "no column who")
    refusal(TaskError, write(instruction=" "), "an instruction")
    refusal(TaskError, write(prompt=[]), "at least one column")
    refusal(TaskError, write(choices=True), "160 different values", "free text")
    refusal(TemplateError, write(answer="dialogue"), "leaks its answer")
    assert path.read_text(encoding="utf-8") == before and load_task(path) == good
    assert [file.name for file in tmp_path.iterdir()] == ["mine.yaml"]
    refusal(TaskError, lambda: write_task(tmp_path / "mine", DIALOGUES, answer="summary", **given))
    (tmp_path / "file").write_text("no folder")
    blocked = tmp_path / "file" / "mine.yaml"
    refused = lambda: write_task(blocked, DIALOGUES, answer="summary", **given)  # noqa: E731
    refusal(TaskError, refused, "cannot be written", "another folder")


def test_too_little_is_said_by_name(tmp_path):
    task = load_task("opinion")
    answers = [*task.choices] * 10
    assert too_little(task, Dataset.from_dict({"answer": answers})) == []
    (sentence,) = too_little(task, Dataset.from_dict({"answer": answers[:-1]}))
    assert "excellent 9" in sentence and "good" not in sentence
    text = load_task("dialogue")
    assert too_little(text, Dataset.from_dict({"answer": ["a"] * 100})) == []
    assert "99 training rows" in too_little(text, Dataset.from_dict({"answer": ["a"] * 99}))[0]
