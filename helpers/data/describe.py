"""What is in a table that nobody has described yet, and the task file that it leads to."""

import re
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import yaml
from datasets import Dataset

from helpers.data.formats import read_raw, refused
from helpers.data.table import is_empty
from helpers.data.task import Task, TaskError, load_task
from helpers.data.templates import TemplateError
from helpers.errors import format_names
from helpers.files import relative_path

# A column with at most so many different values may hold the labels of a classification.
MOST_LABELS = 30
# Below this, an answer is too rare to be learned and to be scored in all three parts.
FEW_ROWS = 10

EMAIL = r"[\w.+-]+@[\w-]+\.[\w.-]*\w"
_DIGITS = r"\d(?:[ -]?\d)"
_PERSONAL = {
    "e-mail address": re.compile(EMAIL),
    "telephone number": re.compile(
        r"(?<![\w.-])(?<!\d )(?:\+|00?)[1-9](?:[ /().-]{0,2}\d){7,13}(?![\w-])"
    ),
    "card number": re.compile(rf"(?<![\w-]){_DIGITS}{{12,18}}(?![\w-])"),
    "IBAN": re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){3,7}(?: ?[A-Z0-9]{1,3})?\b"),
    "IP address": re.compile(r"(?<![\d.])(?:\d{1,3}\.){3}\d{1,3}(?![\d.])"),
    "account name": re.compile(r"(?<![\w@.])@[A-Za-z]\w{2,}"),
}


@dataclass(frozen=True)
class Column:
    """What one column holds.

    kind: "text", "label" (few values, each in several rows), "name" (short texts that come back,
    such as products or customers: rows that belong together), "number", "id" (short, another one in
    each row) or "list". filled, different: cells that are not empty, and how many values they
    have. words: the middle and the largest number of words in a cell. commonest: values with their
    counts. personal: what looks personal → in how many cells.
    """

    name: str
    kind: str
    filled: int
    different: int
    words: tuple[float, int]
    commonest: tuple[tuple[object, int], ...]
    personal: dict[str, int]


@dataclass(frozen=True)
class TableFacts:
    """A table as it is, before any task: its rows, those that are equal to an earlier one, the
    columns by name, and sentences on the file as a whole."""

    source: str
    rows: int
    duplicates: int
    columns: dict[str, Column]
    notes: tuple[str, ...]


def describe(source: str | Path) -> TableFacts:
    """What is in a table: a file (see formats.read_raw) or "hub:owner/name". Raises TableError."""
    raw = read_raw(source)
    rows = raw.frame.to_numpy().tolist()
    columns = {name: _column(name, cells.tolist()) for name, cells in raw.frame.items()}
    duplicates = len(rows) - len({repr(row) for row in rows})
    return TableFacts(str(source), len(rows), duplicates, columns, tuple(raw.notes))


def _column(name: str, cells: list) -> Column:
    filled = [cell for cell in cells if not is_empty(cell)]
    counts = Counter(repr(cell) if isinstance(cell, list | dict) else cell for cell in filled)
    words = [len(str(cell).split()) for cell in filled]
    length = (median(words), max(words)) if words else (0, 0)
    found = Counter(kind for cell in filled for kind in _looks_personal(str(cell)))
    top = tuple(counts.most_common(MOST_LABELS))
    return Column(name, _kind(filled, counts), len(filled), len(counts), length, top, dict(found))


def _kind(filled: list, counts: Counter) -> str:
    if any(isinstance(cell, list | dict) for cell in filled):
        return "list"
    short = all(len(str(cell).split()) <= 12 for cell in counts)
    if short and 1 < len(counts) <= min(MOST_LABELS, len(filled) / 3):
        return "label"
    if any(isinstance(cell, int | float) for cell in filled):
        return "id" if len(counts) == len(filled) else "number"
    one_word = short and all(" " not in str(cell).strip() for cell in counts)
    if one_word and len(counts) == len(filled):
        return "id"
    return "name" if short and 1 < len(counts) <= len(filled) * 0.7 else "text"


def _looks_personal(text: str) -> set[str]:
    """What in a text looks like data of a person: an e-mail address, a telephone or card number.

    It finds forms, not meanings: a name or an address passes, and a long product number may not.
    """
    found = {kind for kind, form in _PERSONAL.items() if form.search(text)}
    if "card number" in found and not any(map(_adds_up, _PERSONAL["card number"].findall(text))):
        found.remove("card number")
    return found


def _adds_up(number: str) -> bool:
    """The check of card numbers. Source: H. P. Luhn, US patent 2950048, 1960."""
    digits = [int(digit) for digit in reversed(number) if digit.isdigit()]
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[1::2]]
    return (sum(digits[::2]) + sum(doubled)) % 10 == 0


# From columns to a task


def labels_of(column: Column) -> list[str]:
    """The values of a column as labels, sorted; none where a choice has too few or too many."""
    if not 1 < column.different <= MOST_LABELS:
        return []
    values = [value for value, _ in column.commonest]
    values.sort(key=lambda value: (isinstance(value, str), value))
    return [*dict.fromkeys(str(value).strip() for value in values)]


def suggest(facts: TableFacts) -> dict[str, object]:
    """A first guess at what `write_task` wants: prompt, answer and group.

    The answer is the first column of labels, else the shorter one of the two with the longest
    texts; the prompt is the column with the longest texts besides; rows belong together by the
    first column of names. Look at it before you use it.
    """
    columns = list(facts.columns.values())
    texts = sorted((one for one in columns if one.kind == "text"), key=lambda one: -one.words[0])
    labels = [one for one in columns if one.kind == "label"]
    answer = (labels or texts[1:2] or columns[-1:])[0].name
    prompt = [one.name for one in [*texts, *columns] if one.name != answer][:1]
    names = [one.name for one in columns if one.kind == "name"]
    names = [name for name in names if name not in (answer, *prompt)]
    return {"prompt": prompt, "answer": answer, "group": names[0] if names else None}


class _Dumper(yaml.SafeDumper):
    """Texts of several lines as a block, as a person would write them."""


_Dumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar(
        "tag:yaml.org,2002:str", text, style="|" if "\n" in text else None
    ),
)


def write_task(
    path: str | Path,
    table: str | Path,
    *,
    prompt: Sequence[str],
    answer: str,
    instruction: str,
    choices: bool | Sequence[str] | None = None,
    group: str | None = None,
) -> Task:
    """Write the task file for a table, and return the task. The file's name becomes the task's.

    path: the file, *.yaml. table: a file, or "hub:owner/name". prompt: the columns that the model
    reads, in this order. answer: the column that it should write. instruction: the sentence that
    stands before them. choices: whether the answer is one of the column's values (then they become
    the choices), or those of them that are; by default whether the column looks like labels. Rows
    with a label that is left out count as rows without an answer, and the split does not heed
    labels then: a rare one could make it impossible. group: see Task.

    The prompt comes in two wordings: "instruction", which is tuned, and "plain", without the
    sentence. A file that is there is replaced only when the new one makes an example.

    Raises TaskError, TableError and TemplateError, and then nothing is written.
    """
    path, facts = Path(path), describe(table)
    named = [*prompt, answer, *([group] if group else [])]
    if missing := [name for name in named if name not in facts.columns]:
        raise refused(
            table, f"has no column {format_names(missing)}. It has: {format_names(facts.columns)}."
        )
    if not prompt or not instruction.strip() or path.suffix not in (".yaml", ".yml"):
        raise TaskError(
            "A task needs a file name that ends in .yaml, at least one column for the prompt, and "
            "an instruction, such as 'Summarize the conversation in one sentence.'"
        )
    column, completion = facts.columns[answer], f"{{{{ {answer} | string | trim }}}}"
    known, labels = labels_of(column), []
    if choices is None:
        choices = column.kind == "label"
    if choices is not False:
        if not known:
            raise TaskError(
                f"The column {answer} has {column.different} different values. A choice needs from "
                f"2 to {MOST_LABELS}; with more, let the answer be free text."
            )
        labels = known if choices is True else [*choices]
        if len({*labels}) < 2 or not {*labels} <= {*known}:
            raise TaskError(
                f"The labels of {answer} are to be {format_names(labels) or 'none'}. Name at least "
                f"two of its values: {format_names(known)}."
            )
        if {*labels} < {*known}:
            condition = f"{answer} | string | trim in choices"
            completion = f"{{% if {condition} %}}{completion}{{% endif %}}"
    here = str(table)
    if not here.startswith("hub:"):
        # The folder alone: a table that is a link keeps the name that its owner gave it.
        absolute = Path(table).parent.resolve() / Path(table).name
        here = relative_path(absolute, path.parent.resolve()).as_posix()
    shown = {name: _shown(facts.columns[name]) for name in prompt}
    reads = "\n".join(f"{name}: {cell}" for name, cell in shown.items())
    if len(prompt) == 1:
        reads = shown[prompt[0]]
    listed = ' Choose from: {{ choices | join(", ") }}.' if labels else ""
    wordings = {
        "instruction": f"{instruction.strip()}{listed}\n\n{reads}\n\nAnswer:",
        "plain": f"{reads}\n{answer}:",
    }
    content = {"name": path.stem, "title": instruction.strip(), "table": here}
    if group:
        content["group"] = group
    if labels:
        content |= {"stratify": [answer]} if {*labels} == {*known} else {}
        content["choices"] = labels
    content |= {
        "required": [prompt[0]],
        "metrics": ["accuracy", "macro_f1"] if labels else ["rouge"],
        "template": "instruction",
        "templates": [
            {"name": name, "prompt": text, "completion": completion}
            for name, text in wordings.items()
        ],
    }
    text = yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000)
    draft = path.with_name(f".{path.stem}.draft{path.suffix}")
    try:
        draft.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(text, encoding="utf-8")
        task = load_task(draft.resolve())
        rows = task.drop_empty(task.load_table())
        if not len(rows):
            raise TemplateError(f"No row of {table} has something in {answer}.")
        task.render(rows.select(range(min(len(rows), 100))))
        draft.replace(path)
    except OSError as error:
        raise TaskError(
            f"The task file {path} cannot be written: {error}. Choose another folder."
        ) from error
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
    return load_task(path.resolve())


def _shown(column: Column) -> str:
    """How a template shows a column. An empty cell among numbers is None, which it must not print;
    among texts it is an empty text."""
    cell = f"{{{{ {column.name} }}}}"
    if all(isinstance(value, str) for value, _ in column.commonest):
        return cell
    return f"{{% if {column.name} is not none %}}{cell}{{% endif %}}"


def too_little(task: Task, examples: Dataset) -> list[str]:
    """Sentences on what there is too little of for a fine-tuning; none if nothing is missing.

    examples: the training rows. The limit is a rule of thumb, FEW_ROWS rows for each answer, ten
    times as many where answers are free text.
    """
    if task.kind == "text":
        least = 10 * FEW_ROWS
        advice = "Expect the model to learn the form of the answers, but little of their content."
        said = f"{len(examples)} training rows, fewer than {least}. {advice}"
        return [said] if len(examples) < least else []
    counts = Counter(examples["answer"])
    rare = [f"{one} {counts[one]}" for one in task.choices if counts[one] < FEW_ROWS]
    advice = "Collect more of these rows, or combine answers that mean nearly the same."
    said = f"Answers with fewer than {FEW_ROWS} training rows: {', '.join(rare)}. {advice}"
    return [said] if rare else []
