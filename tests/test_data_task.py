"""helpers/data/task.py: a YAML file says all; any table comes out as examples, or is refused."""

import dataclasses
import hashlib
import json
from collections import Counter
from functools import partial

import jinja2
import pandas
import pytest
from datasets import DatasetDict

from helpers.data.formats import TableError
from helpers.data.split import SplitError, lock_test_set
from helpers.data.task import TASKS, TaskError, load_examples, load_task, test_examples
from helpers.data.templates import Template, TemplateError
from helpers.errors import CourseError
from helpers.evaluation.baselines import _prompt_texts, baseline_predictions
from helpers.evaluation.metrics import row_scores
from helpers.evaluation.uncertainty import groups_of
from helpers.profiles import profile, runs_folder
from tests.refusals import refusal

refused = partial(refusal, TaskError)
COURSE = ("opinion", "department", "headline", "review")


@pytest.fixture(autouse=True)
def own_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("COURSE_PROFILE", "laptop")
    monkeypatch.delenv("COURSE_TASK", raising=False)


def digest(rows):
    return hashlib.sha256(json.dumps(list(rows["row_id"])).encode()).hexdigest()[:16]


def texts(number):
    """Texts that differ from each other in most words."""
    return [f"Number {n} is {n * n}, half {n / 2}, {'xyz'[n % 3] * n}" for n in range(number)]


TEMPLATE = """
templates:
  - name: plain
    prompt: "{{ text }}\\nLabel:"
    completion: "{{ label }}"
"""


def task_of(folder, table, keys="", templates=TEMPLATE, name="mine"):
    """A task in `folder` on a table: the text of a file, or what pandas makes a frame of."""
    if isinstance(table, str):
        (folder / "table.csv").write_text(table, encoding="utf-8")
    else:
        pandas.DataFrame(table).to_csv(folder / "table.csv", index=False)
    path = folder / "mine.yaml"
    path.write_text(f"name: {name}\ntable: table.csv\n{keys}{templates}", encoding="utf-8")
    return load_task(path)


# The course's tasks

# Digests of row ids, as the course drew them before tasks were files: train, validation, test.
DRAWN = {
    ("laptop", "opinion"): ("41c45d37b490c16d", "d557e9049ee1f3a0", "545ad39968e00558"),
    ("gpu", "department"): ("a8bc501fbc14952f", "03347fd942387fda", "545ad39968e00558"),
    ("laptop", "review"): ("41c45d37b490c16d", "d557e9049ee1f3a0", "545ad39968e00558"),
    ("laptop", "headline"): (None, "aee58d4a67f0424f", "af56067db313101d"),
}


@pytest.mark.parametrize(("sizes", "name"), DRAWN)
def test_examples_are_the_rows_that_they_always_were(monkeypatch, sizes, name):
    monkeypatch.setenv("COURSE_PROFILE", sizes)
    task = load_task(name)
    examples = load_examples(task)
    train, validation, test = DRAWN[sizes, name]
    assert list(examples) == ["train", "validation"]
    assert digest(examples["validation"]) == validation
    assert train is None or digest(examples["train"]) == train
    assert len(examples["train"]) == min(profile().train_rows, 913)
    assert digest(test_examples(task)) == test


def test_rows_without_an_answer_are_left_out_and_counted(capsys):
    task = load_task("headline")
    examples = load_examples(task)
    assert "5 of 1105 rows for training and validation have no answer" in capsys.readouterr().out
    assert all(row["review_headline"] for row in examples["validation"])
    splits = task.split(task.load_table())
    assert sum(len(task.drop_empty(part)) for part in splits.values()) == 1300 - 6


@pytest.mark.parametrize("name", COURSE)
def test_every_template_renders_as_plain_jinja_does(name):
    task = load_task(name)
    rows = task.drop_empty(task.load_table().select(range(60)))
    for template in task.templates.values():
        rendered = task.render(rows, template.name)
        assert rendered.column_names[: len(rows.column_names)] == rows.column_names
        for row, example in zip(rows, rendered, strict=True):
            values = row | {"choices": list(task.choices)}
            prompt, answer = (
                jinja2.Template(source).render(values)
                for source in (template.prompt, template.completion)
            )
            assert (example["prompt"], example["answer"]) == (prompt, answer)
            assert example["completion"] == " " + answer
            assert example.get("choices", []) == list(task.choices)


def test_the_course_has_five_tasks_that_say_what_they_are():
    tasks = {path.stem: load_task(path) for path in TASKS.glob("*.yaml")}
    assert sorted(tasks) == sorted([*COURSE, "dialogue"])
    for name, task in tasks.items():
        assert task.name == name and task.title != name and task.template == "instruction"
        assert (task.kind == "classification") == (name in ("opinion", "department"))
        text_metrics = ("rouge",)
        assert task.metrics == (("accuracy", "macro_f1") if task.choices else text_metrics)
    assert load_task().name == "opinion"
    assert tasks["opinion"].choices == ("terrible", "poor", "okay", "good", "excellent")
    table = tasks["opinion"].load_table()
    assert [tasks[name].text_column(table) for name in COURSE] == ["review_body"] * 4


def test_course_task_is_a_name_or_a_path(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_TASK", "department")
    assert load_task().name == "department" and load_task("opinion").name == "opinion"
    task_of(tmp_path, {"text": ["a"], "label": ["b"]})
    monkeypatch.setenv("COURSE_TASK", "mine.yaml")
    monkeypatch.chdir(tmp_path)
    assert load_task().name == "mine" and load_task().load_table()["text"][:] == ["a"]
    monkeypatch.setenv("COURSE_TASK", "data/tasks/headline.yaml")  # from the course's folder
    assert load_task().name == "headline"


# Other tables

SHAPES = {
    # name: (table, keys, first answer, number of rows)
    "words for booleans": ("text,label\na,no\nb,yes\n", "choices: [yes, no]\n", "no", 2),
    "no choices": ("text,label\na,NA\nb,None\n", "", "NA", 2),
    "an answer is missing": ("text,label\na,x\nb,\n", "", "x", 1),
    "no label yet": ("text,label\na,1\nb,\n", "choices: [0, 1]\n", "1", 1),
}


@pytest.mark.parametrize("name", SHAPES)
def test_a_task_of_a_few_lines(tmp_path, name):
    table, keys, answer, number = SHAPES[name]
    task = task_of(tmp_path, table, keys)
    examples = task.render(task.drop_empty(task.load_table()))
    assert len(examples) == number
    assert (examples[0]["prompt"], examples[0]["answer"]) == ("a\nLabel:", answer)


def test_labels_by_number(tmp_path):
    by_number = TEMPLATE.replace("{{ label }}", "{{ choices[label] }}")
    keys = "choices: [bad, good]\n"
    task = task_of(tmp_path, "text,label\na,1\nb,-1\nc,0\n", keys, by_number)
    # Before, -1 was the last choice.
    refusal(TemplateError, lambda: task.render(task.load_table()), "table.csv line 3", "-1")
    keys += "numbers: {label: [0, 1]}\n"
    task = task_of(tmp_path, "text,label\na,1\nb,-1\nc,0\n", keys, by_number)
    assert task.render(task.load_table())["answer"][:] == ["good", "bad"]
    assert task.report().counts() == {"bad_number": 1}


def test_the_columns_that_templates_use_decide_on_duplicates(tmp_path):
    rows = {"text": ["a b c d"] * 3 + ["a b c d e"], "label": [*"xxyx"], "day": [1, 2, 3, 4]}
    task = task_of(tmp_path, rows, "choices: [x, y]\n")
    found = [(one.line, one.kind) for one in task.report().findings]
    assert found == [
        (3, "exact_duplicate"),
        (4, "two_answers"),
        (4, "near_duplicate"),
        (5, "near_duplicate"),
    ]
    # Free text may have several right answers.
    assert "two_answers" not in task_of(tmp_path, rows).report().counts()
    dated = '  - {name: dated, prompt: "{{ day }}: {{ text }}", completion: "{{ label }}"}\n'
    wider = task_of(tmp_path, rows, templates=TEMPLATE + dated)
    assert "exact_duplicate" not in wider.report().counts()


def test_only_named_columns_are_cleaned(tmp_path):
    table = 'text,label\n" &lt; ","if a &lt; b:\n    go"\n'
    task = task_of(tmp_path, table, "clean: [text]\n")
    (row,) = task.load_table()
    assert (row["text"], row["label"]) == ("<", "if a &lt; b:\n    go")


def test_columns_that_have_the_names_of_rendered_ones(tmp_path):
    templates = """
templates:
  - {name: a, prompt: "Q: {{ prompt }}", completion: "{{ completion }}"}
  - {name: b, prompt: "Question: {{ prompt }} ({{ answer }})", completion: "{{ completion }}"}
"""
    table = {"prompt": ["one", "two"], "completion": ["a", "b"], "answer": ["x", "y"]}
    task = task_of(tmp_path, table, "", templates)
    once = task.render(task.load_table())
    assert once["prompt"][:] == ["Q: one", "Q: two"] and once["table_prompt"][:] == ["one", "two"]
    again = task.render(task.render(once), "b")
    assert again["prompt"][:] == ["Question: one (x)", "Question: two (y)"]
    assert again["answer"][:] == ["a", "b"] and again["table_answer"][:] == ["x", "y"]
    assert task.drop_empty(once)["row_id"][:] == once["row_id"][:]


def test_columns_that_trl_knows_by_name_are_moved_and_templates_still_find_them(tmp_path):
    keys = "group: text\nreferences: [labels]\n"
    task = task_of(
        tmp_path, {"text": ["a b", "c"], "label": ["b", "d"], "labels": ["b", "e"]}, keys
    )
    table = task.load_table()
    examples = task.render(task.render(table))
    assert examples["table_text"][:] == ["a b", "c"] and "text" not in examples.column_names
    assert task.drop_empty(examples).to_list() == task.render(task.drop_empty(table)).to_list()
    assert groups_of(task, examples) == ("a b", "c")
    assert row_scores(task, ["b", "e"], examples) == [1, 1]
    assert baseline_predictions(task, examples, examples) == ["a", "c"]


def test_render_keeps_types_and_parts(tmp_path):
    task = task_of(tmp_path, "text,label,n\na,1,\nb,0,3\n", "choices: [0, 1]\n")
    table = task.load_table()
    splits = DatasetDict(train=table.select([1]), test=table.select([0]))
    rendered = task.render(splits)
    assert list(rendered) == ["train", "test"]
    assert rendered["train"].features == rendered["test"].features
    assert [row["n"] for row in rendered["test"]] == [None]
    own = Template("own", "{{ n }} {{ text }}:", "{{ label }}")
    assert task.render(splits["train"], own)["prompt"][:] == ["3 b:"]


def test_library_of_templates_and_promptsource(tmp_path):
    (tmp_path / "public.yaml").write_text(
        """
dataset: x
templates:
  a1: !Template
    answer_choices: no ||| yes
    jinja: "{% if label >= 0 %}{{ text }} Good? ||| {{ answer_choices[label] }}{% endif %}"
    metadata: !TemplateMetadata {metrics: [Accuracy]}
    name: good
""",
        encoding="utf-8",
    )
    table = "text,label\na,1\nb,-1\nc,0\n"
    task = task_of(tmp_path, table, templates="\ntemplates: public.yaml\n")
    examples = task.render(task.drop_empty(task.load_table()))
    assert examples["answer"][:] == ["yes", "no"] and examples["choices"][0] == ["no", "yes"]
    assert task.kind == "classification" and task.metrics == ("accuracy", "macro_f1")
    assert task.choices == ("no", "yes")  # before, none: notebooks took it for free text
    table = "instruction,input,output\nAdd,1 and 1,2\nSay hello,,Hello\n"
    task = task_of(tmp_path, table, templates="\ntemplates: alpaca\n")
    assert task.render(task.load_table())["completion"][:] == [" 2", " Hello"]
    assert task.kind == "text" and task.metrics == ("rouge",)


BESIDE = """
templates:
  one: !Template
    {name: good, answer_choices: no ||| yes, jinja: "{{ text }} ||| {{ answer_choices[label] }}"}
  two: !Template {name: free, jinja: "Say it again: {{ text }} ||| {{ text }}"}
  three: !Template
    {name: own, answer_choices: "{{ text }} ||| b", jinja: "{{ label }} ||| {{ text }}"}
"""


def test_choices_of_the_tuned_template_are_the_tasks_where_they_are_the_same_for_all_rows(tmp_path):
    (tmp_path / "public.yaml").write_text(BESIDE, encoding="utf-8")
    named = partial(task_of, tmp_path, "text,label\na,1\n", templates="\ntemplates: public.yaml\n")
    task = named()
    assert task.choices == ("no", "yes") == named("choices: [no, yes]\n").choices
    # The other templates say for themselves what they ask for.
    assert task.render(task.load_table(), "free")["answer"][:] == ["a"]
    assert task.render(task.load_table(), "own")["choices"][:] == [["a", "b"]]
    task = named("template: own\n")
    assert task.choices == () and task.kind == "classification"
    words = "the choices yes, no", "its template good has others: no, yes", "Delete one"
    refused(lambda: named("choices: [yes, no]\n"), "mine.yaml", *words)
    refused(lambda: named("choices: [a, b]\ntemplate: own\n"), "others: {{ text }} ||| b")


def test_a_condition_around_both_halves_shows_no_rival_the_answer(tmp_path):
    whole = """
templates:
  one: !Template
    name: good
    answer_choices: no ||| yes
    jinja: "{% if label != -1 %}{{ text }} {% if more == 'x' %}More{% endif %}? |||
      {{ answer_choices[label] }}{% endif %}"
  two: !Template
    name: bare
    answer_choices: no ||| yes
    jinja: "{% if label != -1 %}{% if text == 'a' %}Good? ||| {{ answer_choices[label] }}{% endif %}
      {% endif %}"
"""
    (tmp_path / "public.yaml").write_text(whole, encoding="utf-8")
    named = "\ntemplates: public.yaml\n"
    task = task_of(tmp_path, "text,label,more\na,1,x\nb,0,y\nc,-1,z\n", templates=named)
    assert task.wording.prompt_fields == {"text", "label", "more"}
    assert task.wording.shown_fields == {"text", "more"}
    assert task.templates["bare"].shown_fields == {"text"}
    rows = task.render(task.drop_empty(task.load_table()))
    assert _prompt_texts(task, rows) == ["x\na", "y\nb"]


def test_the_files_of_a_task_ask_the_same_from_the_folder_of_a_saved_model(tmp_path):
    (tmp_path / "words").mkdir()
    own = tmp_path / "words" / "public.yaml"
    own.write_text(BESIDE, encoding="utf-8")
    table = "text,label\na,1\n"
    task = task_of(tmp_path, table, templates="\ntemplates: words/public.yaml # mine\n")
    asked = task.render(task.load_table())["prompt"][:]
    own.write_text("edited later", encoding="utf-8")
    task.path.write_text("edited later", encoding="utf-8")
    saved = tmp_path / "runs" / "model"
    saved.mkdir(parents=True)
    for name, text in task.files.items():
        (saved / name).write_text(text, encoding="utf-8")
    again = load_task(saved / "task.yaml")
    assert again.render(task.load_table())["prompt"][:] == asked and again.files == task.files
    assert again.choices == ("no", "yes")  # and not False and True
    shipped = load_task("opinion")
    assert shipped.files == {"task.yaml": shipped.path.read_text(encoding="utf-8")}


# From a table to examples, and the test set


def test_from_any_table_to_examples_and_the_locked_test_set(tmp_path, capsys):
    rows = {"text": texts(200), "label": ["a", "b"] * 100}
    task = task_of(tmp_path, rows, "choices: [a, b]\nstratify: [label]\n")
    examples = load_examples(task)
    assert {name: len(part) for name, part in examples.items()} == {"train": 140, "validation": 30}
    assert examples["train"]["answer"][:].count("a") == 70
    assert capsys.readouterr().out == ""
    test = test_examples(task)
    assert len(test) == 30 and not {*test["row_id"]} & {*examples["train"]["row_id"]}
    assert (runs_folder("mine") / "test.sealed.json").exists()
    printed = capsys.readouterr().out
    assert "locking it now" in printed and "opened 1 time." in printed
    assert "repeat the text" not in printed
    assert test_examples(task).to_list() == test.to_list()
    assert capsys.readouterr().out == "The locked test set has now been opened 2 times.\n"


def test_a_test_set_that_cannot_be_asked_is_not_opened(tmp_path, capsys):
    task = task_of(tmp_path, {"text": texts(60), "label": ["a", "b"] * 30})
    last = task.split(task.load_table())["test"][0]["text"]
    asked = f"{{{{ text }}}}{{% if text == {last!r} %}}{{{{ none }}}}{{% endif %}}?"
    template = Template("odd", asked, " {{ label }}")
    broken = dataclasses.replace(task, templates={"odd": template}, template="odd")
    with pytest.raises(CourseError):
        test_examples(broken)
    assert not (runs_folder(task.name) / "test.sealed.json").exists()
    assert "opened" not in capsys.readouterr().out


def test_a_foreign_test_set_is_not_opened(tmp_path):
    """Before, the rows of whatever set was sealed came back, training rows included."""
    task = task_of(tmp_path, {"text": texts(100), "label": ["a", "b"] * 50})
    splits = task.split(task.load_table())
    lock_test_set(splits["train"], runs_folder("mine") / "test.sealed.json")
    refusal(SplitError, lambda: test_examples(task), "Another test set", "70 rows, of which 0 are")
    other = task_of(tmp_path, {"text": texts(99), "label": ["a", "b", "c"] * 33}, name="other")
    assert len(test_examples(other)) == 15
    changed = task_of(tmp_path, {"text": texts(98), "label": ["a", "b"] * 49}, name="other")
    refusal(SplitError, lambda: test_examples(changed), "Another test set")


def test_texts_that_are_on_both_sides_are_told(tmp_path, capsys):
    rows = {"text": [f"Win a prize now, call {n}" for n in range(40)], "label": ["x"] * 40}
    task = task_of(tmp_path, rows)
    load_examples(task)
    assert "Of 6 validation rows, 6 repeat the text of a train row" in capsys.readouterr().out
    test_examples(task)
    assert "Of 6 test rows, 6 repeat the text of a train row" in capsys.readouterr().out


def test_no_answer_at_all(tmp_path):
    task = task_of(tmp_path, {"text": texts(20), "label": [""] * 20})
    refused(lambda: load_examples(task), "no row with an answer", "label")


# What is refused

GOOD = f"name: mine\ntable: table.csv\n{TEMPLATE}"
WRONG = {
    "no mapping": ("- a\n", "at least the keys name, table and templates", "no keys"),
    "empty": ("", "at least the keys"),
    "missing key": (GOOD.replace("table: table.csv", ""), "templates", "it has: name, templates"),
    "unknown key": (f"{GOOD}stratfy: [a]\n", "unknown key stratfy", "stratify"),
    "no YAML": ("name: [mine\ntable: x\n", "line 2", "cannot be read"),
    "not a text": (f"{GOOD}group: [a, b]\n", "group must be one text"),
    "not a list": (f"{GOOD}choices: {{a: b}}\n", "choices must be a list of", "{'a': 'b'}"),
    "twice": (f"{GOOD}choices: [a, b, a]\n", "choices must be a list of different texts"),
    "numbers": (f"{GOOD}numbers: {{n: 5}}\n", "numbers must name columns", "stars: [1, 5]"),
    "numbers in words": (f"{GOOD}numbers: {{n: [one, five]}}\n", "numbers must name columns"),
    "name": (GOOD.replace("mine", "../mine"), "name ../mine", "letters"),
    "table": (GOOD.replace("table.csv", ""), "table is empty"),
    "template": (f"{GOOD}template: nice\n", "no template nice", "plain"),
    "metric": (
        f"{GOOD}metrics: [rouge, bleu]\n",
        "metrics names bleu",
        "accuracy, macro_f1, rouge",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_task_files_that_cannot_be_used(tmp_path, name):
    text, *words = WRONG[name]
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    message = refused(lambda: load_task(path), *words)
    assert "mine" in message and len(message) < 600


def test_other_refusals(tmp_path):
    refused(lambda: load_task("opinon"), "no task opinon", "dialogue, headline, opinion", ".yaml")
    refused(lambda: load_task(tmp_path / "none.yaml"), "none.yaml")
    task = task_of(tmp_path, "txt,label\na,b\n")
    refusal(TableError, task.load_table, "lacks the column text", "It has: txt, label")
    task = task_of(tmp_path, "a,b\nc,d\n")
    refusal(TableError, task.load_table, "columns: [label, text]")
    for key in ("group", "stratify", "id", "clean", "required", "references"):
        task = task_of(tmp_path, "text,label\na,b\n", f"{key}: colour\n")
        refusal(TableError, task.load_table, "lacks the column colour")
    leak = TEMPLATE.replace("Label:", "{{ label }}:")
    refusal(TemplateError, task_of(tmp_path, "text,label\na,b\n", "", leak).load_table, "leaks")
    braces = TEMPLATE.replace("{{ text }}", "{text}")
    task = task_of(tmp_path, "text,label\na,b\n", "", braces)
    refusal(TemplateError, task.load_table, "{text}")
    good = task_of(tmp_path, "text,label\na,b\n")
    refused(lambda: good.render(good.load_table(), "nice"), "no template nice", "plain")
    assert issubclass(TaskError, CourseError)


def test_the_lively_reviews_share_no_product_with_the_table_and_fit_its_task():
    task = load_task("opinion")
    lively = dataclasses.replace(task, table="../reviews_lively.csv")
    rows, table = lively.load_table(), task.load_table()
    assert len(rows) == 60 and not lively.report().findings
    assert Counter(rows["star_rating"]) == dict.fromkeys(range(1, 6), 12)
    assert not {*rows["product_title"]} & {*table["product_title"]}
    assert lively.render(rows)[0]["answer"] in task.choices


def test_the_new_reviews_bring_all_that_the_prompt_needs_and_no_answer():
    task = load_task("opinion")
    new = pandas.read_csv(TASKS.parent / "new_reviews.csv", dtype=str, keep_default_na=False)
    assert {*new} == task.wording.prompt_fields and len(new) == 7
    assert not {*new["review_body"]} & {*task.load_table()["review_body"]}
    prompts = [task.wording.question(row, task.choices)["prompt"] for row in new.to_dict("records")]
    assert all(body in prompt for body, prompt in zip(new["review_body"], prompts, strict=True))
