"""Clean the columns of a table that a task names, and report row by row what was found."""

import html
import json
import re
from bisect import bisect
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas
import pyarrow
from datasets import Dataset

from helpers.data.formats import RawTable, read_raw, refused
from helpers.errors import format_names

# Two texts count as one, posted twice, from this share of common words on. In the course's table
# the reposts share 0.78 or more, all other pairs of one product below 0.5.
SAME_TEXT = 0.75
# Most pairs of texts that are compared word by word, which takes about two seconds.
MOST_PAIRS = 1_000_000

# Only entities with their semicolon: "AT&T" and "salt&pepper" are ordinary text.
_ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,30});")


# Kinds of findings, and what is done: the row is "dropped", its cell "cleaned", or it is "kept",
# because only the task can tell what it means.
ACTIONS = {
    "not_text": "dropped",  # a list where other rows hold text
    "missing_value": "dropped",  # an empty `required` cell, or nothing in any `prompt` column
    "bad_number": "dropped",
    "exact_duplicate": "dropped",  # equal to an earlier row in `compare`
    "html_entity": "cleaned",
    "stray_space": "cleaned",
    "empty_cell": "kept",  # in a `compare` column
    "two_answers": "kept",  # an earlier row has the same prompt, and another answer
    "near_duplicate": "kept",  # same_text as an earlier row
}


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with one row; kind is one of ACTIONS.

    line: line of the file where the row starts (JSON, Parquet, hub: number of the row, from 1).
    """

    line: int
    row_id: str
    column: str
    kind: str
    detail: str


@dataclass(frozen=True)
class TableReport:
    """What load_table found; findings are in the order of the file.

    notes: sentences on the file as a whole, such as its encoding when that is not UTF-8.
    """

    path: str
    rows_read: int
    rows_kept: int
    findings: tuple[Finding, ...]
    notes: tuple[str, ...] = ()

    def counts(self) -> dict[str, int]:
        """Number of findings of each kind that was found, the most frequent first."""
        return dict(Counter(finding.kind for finding in self.findings).most_common())

    def __str__(self) -> str:
        name = self.path if self.path.startswith("hub:") else Path(self.path).name
        lines = [f"{name}: {self.rows_read:,} rows read, {self.rows_kept:,} kept"]
        lines += [f"{n:>6}  {kind:<15}  {ACTIONS[kind]}" for kind, n in self.counts().items()]
        return "\n".join([*lines, *(f"Note: {note}" for note in self.notes)])


def load_table(
    source: str | Path,
    *,
    names: Sequence[str] = (),
    needed: Iterable[str] = (),
    id: str | None = None,
    clean: Sequence[str] = (),
    required: Sequence[str] = (),
    numbers: Mapping[str, tuple[int, int]] | None = None,
    compare: Iterable[str] = (),
    prompt: Sequence[str] = (),
    answer: Sequence[str] = (),
    text: Sequence[str] = (),
    group: str | None = None,
) -> tuple[Dataset, TableReport]:
    """The rows of a table that can be used, and a report of what was dropped, cleaned or noticed.

    source, names: see formats.read_raw. needed: columns that must be there.
    id: column that identifies a row; otherwise file and line do ("train.csv line 7").
    clean: text columns in which HTML entities become characters and space around the cell goes.
    required: columns in which no cell may be empty. numbers: columns of whole numbers, with the
    lowest and the highest that is allowed. compare: columns in which duplicates are equal (all but
    the id). prompt: columns that the model reads. answer: columns of the answer, where a prompt
    can have only one. text: columns of which the one with the most text is searched for near
    copies. group: rows with the same value here are compared with each other.

    Types: the cells of a CSV or a workbook are text, unless a column holds whole numbers alone
    (int) or True and False alone (bool). Empty text is "", any other missing value None; "None" and
    "NA" are text. The column row_id comes last. Raises TableError.
    """
    raw, numbers = read_raw(source, names), dict(numbers or {})
    frame = raw.frame
    needed = {*needed, *clean, *required, *numbers, *prompt, *answer}
    if missing := sorted(needed - {*frame}):
        hint = ""
        if len(missing) == len(needed) and raw.unit == "line":
            hint = "If line 1 is a row, not a header, name the columns: columns: [label, text]. "
        raise refused(
            source,
            f"lacks the column {format_names(missing)}. It has: {format_names(frame)}. {hint}"
            "Correct the name in the task file or its template, or rename a column of the table.",
        )
    compare = [name for name in frame if name in {*compare}] or [c for c in frame if c != id]
    frame["row_id"] = _row_ids(raw, id or ("row_id" if "row_id" in frame else None))
    used = [name for name in frame if name in {*compare, *prompt, *answer}]
    findings: list[Finding] = []

    def note(remarks: Iterable[_Remark]) -> None:
        nonlocal frame
        found = [Finding(line, frame.at[line, "row_id"], *rest) for line, *rest in remarks]
        findings.extend(found)
        frame = frame.drop(index={one.line for one in found if ACTIONS[one.kind] == "dropped"})

    for name in clean:
        note(clean_column(frame, name))
    note(_unusable(frame, used, required, numbers, prompt))
    note(_empty_cells(frame, compare))
    note(_equal_rows(frame, compare))
    if prompt and answer:
        note(_other_answers(frame, prompt, answer))
    if frame.empty:
        dropped = [one for one in findings if ACTIONS[one.kind] == "dropped"]
        first = min(dropped, key=lambda one: one.line)
        problem = f"is why none of its {len(raw.frame):,} rows can be used, as the first: "
        raise refused(source, f"{problem}{first.detail}. Mend the file.", first.line, first.column)
    if column := longest_text(frame, text):
        groups = frame[group].map(group_key) if group else pandas.Series("", frame.index)
        known = KnownTexts(sum(n * (n - 1) // 2 for n in groups.value_counts()))
        note(_near_copies(frame, column, groups, known))
        raw.notes += [known.limit] if known.limit else []

    frame["row_id"] = frame.pop("row_id")  # the last column
    data = {name: _storable(cells.tolist()) for name, cells in frame.items()}
    try:
        dataset = Dataset.from_dict(data)
    except _UNFIT as error:
        column = next(name for name in data if not _fit(data[name]))
        first = bisect(range(len(frame)), False, key=lambda n: not _fit(data[column][: n + 1]))
        problem = "is where the cells of a column begin to differ in form: "
        problem += f"{format_names([error])}. Write them all the same way, or delete that column."
        raise refused(source, problem, frame.index[first], column) from None
    findings.sort(key=lambda finding: finding.line)
    return dataset, TableReport(
        str(source), len(raw.frame), len(frame), tuple(findings), tuple(raw.notes)
    )


def _row_ids(raw: RawTable, id: str | None) -> pandas.Series:
    """A name for each row that no other has."""
    index = raw.frame.index
    places = pandas.Series([f"{raw.name} {raw.unit} {line}" for line in index], index)
    if not id:
        return places
    cells = raw.frame[id]
    names = places.where(cells.map(is_empty), cells.map(str).str.strip())
    doubled = names.duplicated()
    if doubled.any():
        raw.notes.append(
            f"{doubled.sum():,} rows have the {id} of an earlier row; their place is added to it."
        )
    return names.mask(doubled, names + " (" + places + ")")


def _storable(cells: list) -> list:
    """Where lists stand among text, they are written as JSON: a Dataset's column has one type."""
    kinds = {isinstance(cell, list | dict) for cell in cells if cell is not None}
    if kinds != {True, False}:
        return cells
    return [
        cell if isinstance(cell, str) else json.dumps(cell, ensure_ascii=False) for cell in cells
    ]


_UNFIT = pyarrow.ArrowException, OverflowError, TypeError


def _fit(cells: list) -> bool:
    """Whether these cells can be one column of a Dataset."""
    try:
        Dataset.from_dict({"cells": cells})
    except _UNFIT:
        return False
    return True


# Checks: what is to be said of the rows, and of those before them

_Remark = tuple[int, str, str, str]  # line, column, kind, detail


def clean_column(frame: pandas.DataFrame, name: str) -> Iterator[_Remark]:
    """Clean the cells of a column in place, while what was done is asked for; space inside a cell
    stays as it is."""
    for line, cell in frame[name].items():
        if not isinstance(cell, str):
            continue
        plain = cell
        for _ in range(2):  # entities may be escaped twice: &amp;#39;
            plain = _ENTITY.sub(lambda entity: html.unescape(entity[0]), plain)
        if plain != cell:
            entities = sorted(found for found in set(_ENTITY.findall(cell)) if found not in plain)
            detail = f"{format_names(entities)} written as plain text"
            yield line, name, "html_entity", detail
        if space := len(plain) - len(plain.strip()):
            yield line, name, "stray_space", f"{space} characters of space removed"
        frame.at[line, name] = plain.strip()


def whole_number(cell: object) -> int | None:
    """The whole number that stands in a cell, also as 5.0; None if it is none."""
    found = re.fullmatch(r"([+-]?[0-9]{1,18})(\.0+)?", str(cell).strip())
    return int(found[1]) if found else None


def _unusable(
    frame: pandas.DataFrame,
    used: Sequence[str],
    required: Sequence[str],
    numbers: Mapping[str, tuple[int, int]],
    prompt: Sequence[str],
) -> Iterator[_Remark]:
    """Rows that cannot be used; cells of `numbers` become int."""
    mixed = [name for name in used if _storable(cells := frame[name].tolist()) is not cells]
    for line, row in frame.to_dict("index").items():
        for name in mixed:
            if isinstance(row[name], list | dict):
                detail = f"{_short(row[name])} where other rows hold text"
                yield line, name, "not_text", detail
        missing = [name for name in required if is_empty(row[name])]
        for name in missing:
            yield line, name, "missing_value", "the cell is empty"
        if prompt and not missing and all(is_empty(row[name]) for name in prompt):
            detail = "there is nothing for the prompt"
            yield line, format_names(prompt), "missing_value", detail
        for name, (low, high) in numbers.items():
            number = whole_number(row[name])
            if number is not None and low <= number <= high:
                frame.at[line, name] = number
            else:
                text = str("" if row[name] is None else row[name]).strip()
                detail = f"{_short(text)} is not a whole number from {low} to {high}"
                yield line, name, "bad_number", detail
    for name in mixed:
        frame[name] = frame[name].map(lambda cell: "" if cell is None else cell)


def _empty_cells(frame: pandas.DataFrame, columns: Sequence[str]) -> Iterator[_Remark]:
    for name in columns:
        for line in frame.index[frame[name].map(is_empty).astype(bool)]:
            yield line, name, "empty_cell", "the cell is empty"


def _keys(frame: pandas.DataFrame, columns: Sequence[str]) -> pandas.Series:
    """The cells of these columns as one text for each row, to tell which rows are equal."""
    return pandas.Series([repr(row) for row in frame[[*columns]].to_numpy().tolist()], frame.index)


def _equal_rows(frame: pandas.DataFrame, columns: Sequence[str]) -> Iterator[_Remark]:
    first = frame.groupby(_keys(frame, columns))["row_id"].transform("first")
    for line in frame.index[first != frame["row_id"]]:
        detail = f"equal to {first[line]} in {format_names(columns)}"
        yield line, "whole row", "exact_duplicate", detail


def _other_answers(
    frame: pandas.DataFrame, prompt: Sequence[str], answer: Sequence[str]
) -> Iterator[_Remark]:
    for _, rows in frame.groupby(_keys(frame, prompt)):
        first, *said = rows[[*answer]].itertuples(index=False, name=None)
        for line, now in zip(rows.index[1:], said, strict=True):
            if now != first:
                detail = f"{_short(now)}, and {_short(first)} in {rows['row_id'].iloc[0]}, with "
                detail += f"the same {format_names(prompt)}"
                yield line, format_names(answer), "two_answers", detail


def _near_copies(
    frame: pandas.DataFrame, column: str, groups: pandas.Series, known: "KnownTexts"
) -> Iterator[_Remark]:
    for line, text, row_id in frame[[column, "row_id"]].itertuples(name=None):
        if original := known.find(text, groups[line]):
            yield line, column, "near_duplicate", f"nearly the text of {original}"
        known.add(text, row_id, groups[line])


def is_empty(cell: object) -> bool:
    """Whether a cell holds nothing: no value, no text but space, an empty list."""
    return cell is None or (isinstance(cell, str) and not cell.strip()) or cell in ([], {})


def _short(value: object) -> str:
    text = repr(" ".join(map(str, value)) if isinstance(value, tuple) else value)
    return text if len(text) <= 42 else f"{text[:40]}..."


# Copies of a text


def longest_text(table: pandas.DataFrame | Dataset, columns: Sequence[str]) -> str | None:
    """The one of these columns that holds the most text; None if none of them holds text."""
    sizes = {n: sum(len(c) for c in table[n] if isinstance(c, str)) for n in columns}
    return max(filter(sizes.get, sizes), key=sizes.get, default=None)


def group_key(value: object) -> str:
    """The value of a group column, spelled in one way: names that differ in case or space are one.

    An empty value gives "": such a row belongs to no group.
    """
    return " ".join(str("" if value is None else value).casefold().split())


def same_text(a: str, b: str) -> bool:
    """Whether two texts on one subject are one text, posted again with small edits.

    From a share of SAME_TEXT common words on it is the same text; an empty text is the same as no
    other. Two short texts on different subjects may share as many words by chance. In a script
    that puts no space between words, a run of characters counts as one word.
    """
    return _same_words(_words(a), _words(b))


def share_of_common_words(a: str, b: str) -> float:
    """Twice the number of common words over the number of words in both texts, 0 to 1.

    A repeated word is common as often as both texts have it. Case, punctuation and the order of
    the words do not count. Two empty texts have nothing in common. (The Dice coefficient.)
    """
    words_a, words_b = _words(a), _words(b)
    return 2 * len(words_a & words_b) / max(1, len(words_a) + len(words_b))


Words = frozenset[tuple[str, int]]


def _same_words(a: Words, b: Words) -> bool:
    least = SAME_TEXT * (len(a) + len(b)) / 2
    # The common words cannot be more than the shorter text has: most pairs end here.
    return min(len(a), len(b)) >= least > 0 and len(a & b) >= least


def _words(text: str) -> Words:
    """Each word, with the number of times that it came before, so that repeated words count."""
    before: Counter[str] = Counter()
    words = set()
    for word in re.findall(r"\w+", text.casefold().replace("'", "").replace("\u2019", "")):
        words.add((word, before[word]))
        before[word] += 1
    return frozenset(words)


class KnownTexts:
    """Texts with their row_id and group, to find the one that another text repeats.

    A text is compared with all known ones of its group, and it also repeats any text, of whatever
    group, that has the very same words. pairs: how many comparisons that will be; when there are
    more than MOST_PAIRS, only the latter is done, and `limit` says so.
    """

    def __init__(self, pairs: int):
        self.limit = ""
        if pairs > MOST_PAIRS:
            self.limit = (
                f"There are {pairs:,} pairs of texts, too many to compare: only those with the "
                "same words count as near copies."
            )
        self._by_group: dict[str, list[tuple[Words, str]]] = defaultdict(list)
        self._by_words: dict[Words | str, str] = {}

    def add(self, text: object, row_id: str, group: str = "") -> None:
        """Make the text of a cell known."""
        text = str(text or "")
        words = _words(text)
        self._by_group[group].append((words, row_id))
        self._by_words.setdefault(words or text.strip(), row_id)

    def find(self, text: object, group: str = "") -> str | None:
        """The row_id of the first known text that this one repeats, those of its group first."""
        text = str(text or "")
        if not text.strip():
            return None
        words = _words(text)
        near = () if self.limit else self._by_group[group]
        found = next((row_id for other, row_id in near if _same_words(words, other)), None)
        return found or self._by_words.get(words or text.strip())
