"""A task: where its rows are, which belong together, and how a row becomes prompt and completion.

One YAML file says all of it (data/tasks/*.yaml). What follows gets standard `datasets` objects:

    task = load_task()
    table = task.load_table()       # Dataset: the cleaned rows
    splits = task.split(table)      # DatasetDict: train, validation, test
    examples = task.render(splits)  # and the columns prompt, completion, answer
"""

import os
import random
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import yaml
from datasets import Dataset, DatasetDict, Features, Sequence, Value

from helpers.data.split import leaks, lock_test_set, open_test_set, split_by_group
from helpers.data.table import TableReport, is_empty, load_table, longest_text
from helpers.data.templates import (
    HALVES,
    NoExample,
    Template,
    TemplateError,
    load_templates,
    read_templates,
    read_yaml,
)
from helpers.errors import CourseError, format_names
from helpers.files import relative_path
from helpers.profiles import ROOT, profile, runs_folder

TASKS = ROOT / "data" / "tasks"
METRICS = ("accuracy", "macro_f1", "rouge")
Data = TypeVar("Data", Dataset, DatasetDict)

# Columns that render makes.
_TEXT = Value("string")
_RENDERED = {"prompt": _TEXT, "completion": _TEXT, "answer": _TEXT, "choices": Sequence(_TEXT)}
# Where a table has one of these, or one that TRL's SFTTrainer reads in a way of its own, its cells
# move to "table_...".
MOVED = (*_RENDERED, "text", "messages", "conversations", "chosen", "rejected", "tools")
MOVED += ("image", "images", "input_ids", "labels")


class TaskError(CourseError):
    """A task file that cannot be used. The message names the file and the key."""


@dataclass(frozen=True)
class Task:
    """What is asked of which table: the keys of the task file, and its path.

    name: results of the task are kept in a folder of this name.
    table: a path that starts from the task's folder, or "hub:owner/name".
    template: name of the template that the model is tuned with.
    choices: the allowed answers, those of the tuned template if only that names them; empty where
        the answer is free text, or one of choices that the template makes for each row.
    metrics: names of scores, of those in METRICS.
    group: column; rows with one value in it stay on one side of the split.
    stratify: columns in whose values the parts of the split are alike.
    clean, required, numbers, id: see table.load_table.
    columns: names of the columns, for a CSV or TSV without a header.
    references: columns with further right answers. title: the task in a few words, for people.
    files: name → text of what a saved model needs to ask as it was trained: the task file, as it
        was read, and the file of templates that it names, if it does.
    """

    name: str
    table: str
    template: str
    templates: dict[str, Template]
    choices: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    group: str | None = None
    stratify: tuple[str, ...] = ()
    clean: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    numbers: dict[str, tuple[int, int]] = field(default_factory=dict)
    id: str | None = None
    columns: tuple[str, ...] = ()
    references: tuple[str, ...] = ()
    title: str = ""
    path: Path = Path()
    files: dict[str, str] = field(default_factory=dict, repr=False)

    @property
    def wording(self) -> Template:
        """The template that the model is tuned with."""
        return self.templates[self.template]

    @property
    def kind(self) -> str:
        """What is asked for: "classification" (one of some choices) or "text"."""
        return "classification" if self.choices or self.wording.choices else "text"

    @property
    def source(self) -> str | Path:
        """The table, as a path from the working folder, or as "hub:owner/name"."""
        if self.table.startswith("hub:"):
            return self.table
        return relative_path(self.path.parent / self.table)

    def load_table(self) -> Dataset:
        """The cleaned rows, in the order of the file.

        Raises TableError, and TemplateError for a tuned template that does not fit the table.
        """
        return self._load()[0]

    def report(self) -> TableReport:
        """What was found in the table, and what was done about it. Raises TableError."""
        return self._load()[1]

    def _load(self) -> tuple[Dataset, TableReport]:
        wording = self.wording
        used = set(wording.fields)
        for template in self.templates.values():
            with suppress(TemplateError):  # one that is not used yet may be wrong
                used |= template.fields
        others = filter(None, (self.id, self.group, *self.stratify, *self.references))
        table, report = load_table(
            self.source,
            names=self.columns,
            needed=[*wording.fields, *others],
            id=self.id,
            clean=self.clean,
            required=self.required,
            numbers=self.numbers,
            compare=used,
            prompt=sorted(wording.prompt_fields),
            answer=sorted(wording.completion_fields) if self.kind == "classification" else (),
            text=self._texts(),
            group=self.group,
        )
        wording.check(table.column_names)
        return table, report

    def text_column(self, table: Dataset) -> str | None:
        """The column in which near copies are looked for: the longest text that the model reads
        (that it writes, if it reads none beside group and classes)."""
        return longest_text(table, self._texts())

    def _texts(self) -> list[str]:
        other = {self.group, *self.stratify, *self.numbers}
        read = self.wording.prompt_fields - other
        return sorted(read or self.wording.completion_fields - other)

    def split(self, table: Dataset, seed: int = 0) -> DatasetDict:
        """Train, validation and test; see split.split_by_group. Raises SplitError."""
        return split_by_group(table, self.group, self.stratify, seed=seed)

    def render(self, data: Data, template: str | Template | None = None) -> Data:
        """The rows with what a template makes of them, in new columns.

        The columns are those of Template.render. Rows that are rendered already are rendered anew.
        A column of the table that has one of these names, or one that TRL takes for its own (see
        MOVED), is kept as table_prompt, table_text and so on; templates go on to know it by its own
        name.

        template: its name, or a template that is not in the task file; the tuned one if None.

        Raises TaskError for an unknown template, and TemplateError as Template.render does.
        """
        if isinstance(data, DatasetDict):
            return DatasetDict({name: self.render(part, template) for name, part in data.items()})
        wording = self._template(template)
        own = _unrendered(data)
        rendered = [self._example(wording, row) for row in own]
        kept = _rename(own, {name: f"table_{name}" for name in MOVED})
        new = dict(_RENDERED)
        if not any("choices" in one for one in rendered):
            del new["choices"]
        columns = kept[:] | {name: [one.get(name, []) for one in rendered] for name in new}
        return Dataset.from_dict(columns, features=Features({**kept.features, **new}))

    def drop_empty(self, data: Dataset, template: str | Template | None = None) -> Dataset:
        """The rows that have an answer: those in which no column of the completion is empty, and
        for which the template makes one."""
        wording = self._template(template)
        own = _unrendered(data)
        wording.check(own.column_names)
        fields = () if wording.whole else wording.completion_fields
        kept = []
        for i, row in enumerate(own):
            with suppress(NoExample):
                if not any(is_empty(row[name]) for name in fields):
                    if wording.whole or "{%" in wording.completion:
                        self._example(wording, row)
                    kept.append(i)
        return data.select(kept)

    def _example(self, template: Template, row: Mapping) -> dict:
        # In PromptSource's files, each template says for itself whether there are choices.
        alone = template.whole and self.wording.choices
        return template.render(row, () if alone else self.choices)

    def _template(self, template: str | Template | None) -> Template:
        if isinstance(template, Template):
            return template
        name = self.template if template is None else template
        if name not in self.templates:
            raise TaskError(
                f"The task {self.name} has no template {format_names([name])}. Its templates are: "
                f"{format_names(self.templates)}."
            )
        return self.templates[name]


def load_task(name: str | Path | None = None) -> Task:
    """The task of a YAML file.

    name: of a file in data/tasks, or a path to one of your own. None: what COURSE_TASK says, or
    "opinion" if that is not set.

    Raises TaskError for no such task or a file that says none, TemplateError for its templates.
    """
    name = str(name or os.environ.get("COURSE_TASK") or "opinion")
    path = Path(name) if Path(name).suffix else TASKS / f"{name}.yaml"
    if not path.is_absolute() and not path.exists():
        path = ROOT / path  # a notebook's working folder is not where Jupyter was started
    if not path.exists():
        there = format_names(sorted(file.stem for file in TASKS.glob("*.yaml")))
        raise TaskError(
            f"There is no task {name}. The course comes with: {there}. For a task of your own, "
            "name the path to its YAML file, as in COURSE_TASK=my_task.yaml."
        )
    return _make_task(path, read_yaml(path, TaskError))


_LISTS = ("choices", "metrics", "stratify", "clean", "required", "columns", "references")
_TEXTS = ("name", "title", "table", "id", "group", "template")


def _make_task(path: Path, content: object) -> Task:
    where = f"The task file {path}"
    if not isinstance(content, Mapping) or not {"name", "table", "templates"} <= content.keys():
        has = format_names(content) if isinstance(content, Mapping) else "no keys"
        raise TaskError(
            f"{where} must have at least the keys name, table and templates; it has: {has}. "
            "Compare it with data/tasks/opinion.yaml."
        )
    if unknown := content.keys() - {*_TEXTS, *_LISTS, "numbers", "templates"}:
        raise TaskError(
            f"{where} has the unknown key {format_names(sorted(unknown))}. The known ones are: "
            f"{format_names([*_TEXTS, *_LISTS, 'numbers', 'templates'])}."
        )
    files = {"task.yaml": path.read_text(encoding="utf-8-sig")}
    facts: dict[str, object] = {"path": path, "files": files}
    for key in _TEXTS:
        value = content.get(key, "")
        if not isinstance(value, str):
            raise TaskError(f"{where}: {key} must be one text, but it is {str(value)[:60]}.")
        facts[key] = value or None
    for key in _LISTS:
        value = content.get(key) or []
        values = value if isinstance(value, list) else [value]
        if not all(isinstance(one, str) for one in values) or len({*values}) < len(values):
            raise TaskError(
                f"{where}: {key} must be a list of different texts, as in [a, b], but it is "
                f"{str(value)[:60]}."
            )
        facts[key] = tuple(one.strip() for one in values)
    numbers = content.get("numbers") or {}
    try:
        facts["numbers"] = {name: (int(low), int(high)) for name, (low, high) in numbers.items()}
    except (AttributeError, ValueError, TypeError):
        raise TaskError(
            f"{where}: numbers must name columns with their lowest and highest whole number, as "
            f"in numbers: {{stars: [1, 5]}}, but it is {str(numbers)[:60]}."
        ) from None
    facts["title"] = facts["title"] or facts["name"]
    if not re.fullmatch(r"[\w-]+", facts["name"] or ""):
        raise TaskError(
            f"{where}: the name {format_names([facts['name']])} becomes the name of a folder: it "
            "may have only letters, digits, - and _."
        )
    if facts["table"] is None:
        raise TaskError(f"{where}: table is empty. Name a file, or hub:owner/name.")
    templates = content["templates"]
    if isinstance(templates, str):
        own = path.parent / templates
        facts["templates"] = load_templates(own if own.suffix else templates)
        if own.suffix:  # beside a saved model it has one name, wherever it came from
            files["templates.yaml"] = own.read_text(encoding="utf-8-sig")
            moved = {**content, "templates": "templates.yaml"}
            files["task.yaml"] = yaml.safe_dump(moved, allow_unicode=True, sort_keys=False)
    else:
        facts["templates"] = read_templates(templates, where)
    facts["template"] = facts["template"] or next(iter(facts["templates"]))
    if unknown := [name for name in facts["metrics"] if name not in METRICS]:
        raise TaskError(
            f"{where}: metrics names {format_names(unknown)}, which the course does not have. It "
            f"has {format_names(METRICS)}."
        )
    task = Task(**facts)
    own = tuple(map(str.strip, task._template(task.template).choices))
    if own and task.choices not in ((), own):
        raise TaskError(
            f"{where} has the choices {format_names(task.choices)}, and its template "
            f"{task.template} has others: {format_names(own)}. Delete one of the two lists."
        )
    if not any(sign in text for text in own for sign in ("{", HALVES)):  # not made for each row
        task = replace(task, choices=own or task.choices)
    if not task.metrics:
        metrics = ("accuracy", "macro_f1") if task.kind == "classification" else ("rouge",)
        task = replace(task, metrics=metrics)
    return task


# Rows on their way


def load_examples(task: Task, train_rows: int | None = None) -> DatasetDict:
    """Train and validation rows in the template that the task is tuned with, as many as the
    profile says (a seeded sample). The test rows are not in it: see test_examples.

    train_rows: most rows to train on, if not as many as the profile says.

    Rows without an answer are left out, and how many is printed; so are leaks into validation.
    """
    splits = task.split(task.load_table())
    _say_leaks(task, splits, "validation")
    training = profile().train_rows if train_rows is None else train_rows
    sizes = {"train": training, "validation": profile().validation_rows}
    answered = {name: task.drop_empty(splits[name]) for name in sizes}
    rows = sum(len(splits[name]) for name in sizes)
    if without := rows - sum(map(len, answered.values())):
        print(f"{without} of {rows} rows for training and validation have no answer: left out.")
    if not all(map(len, answered.values())):
        raise TaskError(
            f"The task {task.name} has no row with an answer in train or in validation. Look at "
            f"the columns {format_names(sorted(task.wording.completion_fields))} of {task.table}."
        )
    return task.render(DatasetDict({n: _sample(answered[n], most) for n, most in sizes.items()}))


def test_examples(task: Task) -> Dataset:
    """The locked test rows, rendered as in load_examples, at most profile().test_rows of them.

    They are locked now if they were not yet. Each opening is counted, and said; so are leaks.
    Raises SplitError when the locked rows are not the test part of the split in force.
    """
    splits = task.split(task.load_table())
    rows = task.render(_sample(task.drop_empty(splits["test"]), profile().test_rows))
    if not len(rows):
        raise TaskError(f"The task {task.name} has no row with an answer in test.")
    path = runs_folder(task.name) / "test.sealed.json"  # opened only where nothing is refused
    if not path.exists():
        print("The test set was not locked yet (notebook 03 does it): locking it now.")
        lock_test_set(splits["test"], path)
    times = open_test_set(path, splits["test"])
    print(f"The locked test set has now been opened {times} time{'s' if times > 1 else ''}.")
    _say_leaks(task, splits, "test")
    return rows


test_examples.__test__ = False  # pytest, which collects by name, must not take it for a test


def scored_rows(task: Task, rows: Dataset) -> Dataset:
    """The rows of a part that are scored: all, or of free texts, which take long to write, the
    first ones, as many as the profile's eval_rows."""
    most = len(rows) if task.kind == "classification" else min(len(rows), profile().eval_rows)
    return rows.select(range(most))


def _say_leaks(task: Task, splits: DatasetDict, part: str) -> None:
    """Print what train gives away of the rows of a part, if it does."""
    column = task.text_column(splits[part])
    found = leaks(splits, task.group, [column] if column else [], part)
    if found.same_group or found.copies:
        print(found)


def _sample(rows: Dataset, most: int) -> Dataset:
    return rows.select(random.Random(0).sample(range(len(rows)), min(most, len(rows))))


def _unrendered(data: Dataset) -> Dataset:
    """The columns of the table, by their own names; what render adds stands behind row_id."""
    names = data.column_names
    added = names[names.index("row_id") + 1 :] if "row_id" in names else names
    if not {"prompt", "completion", "answer"} <= {*added}:
        return data
    data = data.remove_columns([name for name in _RENDERED if name in added])
    return _rename(data, {f"table_{name}": name for name in MOVED})


def _rename(data: Dataset, names: Mapping[str, str]) -> Dataset:
    return data.rename_columns({old: names[old] for old in names if old in data.column_names})
