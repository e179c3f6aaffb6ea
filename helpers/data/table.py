"""Clean the columns of a table that a task names, and report row by row what was found."""

import html
import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html.entities import html5
from pathlib import Path

import pyarrow
from datasets import Dataset

from helpers.data.formats import LINE_END, RawTable, TableError, read_raw
from helpers.errors import format_names

# Two texts count as one, posted twice, from this share of common words on. In the course's table
# the reposts share 0.78 or more, all other pairs of one product below 0.5.
SAME_TEXT = 0.75
# Most pairs of texts that are compared word by word, which takes about two seconds.
MOST_PAIRS = 1_000_000

# Only entities with their semicolon: "AT&T" and "salt&pepper" are ordinary text.
_ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,30});")
_WHOLE = re.compile(r"-?[1-9][0-9]{0,17}|0")  # as Python prints it, so no leading zeros; fits int64


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with one row, and what was done about it.

    line: line of the file where the row starts (JSON, Parquet, hub: number of the row, from 1).
    kind, action: see load_table. action is "dropped" (the row), "cleaned" (the cell) or "kept".
    """

    line: int
    row_id: str
    column: str
    kind: str
    action: str
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

    def of_kind(self, kind: str) -> list[Finding]:
        """The findings of one kind."""
        return [finding for finding in self.findings if finding.kind == kind]

    def __str__(self) -> str:
        name = self.path if self.path.startswith("hub:") else Path(self.path).name
        lines = [f"{name}: {self.rows_read:,} rows read, {self.rows_kept:,} kept"]
        actions = {finding.kind: finding.action for finding in self.findings}
        lines += [f"{n:>6}  {kind:<15}  {actions[kind]}" for kind, n in self.counts().items()]
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

    source: a file (see formats.read_raw) or "hub:owner/name".
    names: the columns, for a CSV or TSV without a header. needed: columns that must be there.
    id: column that identifies a row; otherwise file and line do ("train.csv line 7").
    clean: text columns in which HTML entities become characters and space around the cell goes.
    required: columns in which no cell may be empty. numbers: columns of whole numbers, with the
    lowest and the highest that is allowed. compare: columns in which duplicates are equal (all but
    the id). prompt: columns that the model reads. answer: columns of the answer, where a prompt
    can have only one. text: columns of which the one with the most text is searched for near
    copies. group: rows with the same value here are compared with each other.

    Kinds of findings, and what happens to the row:
    - not_text (a list where other rows hold text), missing_value (an empty `required` cell, or
      nothing in any `prompt` column), bad_number: the row is dropped;
    - html_entity, stray_space: the cell is cleaned;
    - exact_duplicate (equal to an earlier row in `compare`): the row is dropped;
    - empty_cell (in a `compare` column), two_answers (an earlier row has the same prompt, and
      another answer), near_duplicate (same_text as an earlier row): the row is kept, because only
      the task can tell what it means.

    Types: the cells of a CSV are text, unless a column holds whole numbers alone (int) or True and
    False alone (bool). Empty text is "", any other missing value None; "None" and "NA" are text.
    The column row_id comes last. Raises TableError.
    """
    raw = read_raw(source, names)
    numbers = dict(numbers or {})
    _check_columns(raw, {*needed, *clean, *required, *numbers, *prompt, *answer})
    columns = list(raw.columns)
    compare = [name for name in columns if name in {*compare}] or [c for c in columns if c != id]
    mixed = [name for name in raw.mixed if name in {*compare, *prompt, *answer}]
    rows = _name_rows(raw, id)
    findings: list[Finding] = []
    rows = _sift(rows, lambda row: _clean(row, clean), findings)
    rows = _sift(rows, lambda row: _check_values(row, mixed, required, numbers, prompt), findings)
    rows = _sift(rows, lambda row: _check_empty(row, compare), findings)
    rows = _sift(rows, _equal_rows(compare), findings)
    rows = _sift(rows, _other_answers(prompt, answer), findings)
    if not rows:
        first = next(finding for finding in findings if finding.action == "dropped")
        raise TableError(
            f"The table {source} has {len(raw.lines):,} rows and none of them can be used. The "
            f"first: {raw.unit} {first.line}, column {first.column}: {first.detail}. Mend the "
            "file, or name another one."
        )
    if column := longest_text([row for _, row in rows], text):
        known = KnownTexts(_pairs_in([row for _, row in rows], group))
        _sift(rows, _near_copies(known, column, group), findings)
        raw.notes += [known.limit] if known.limit else []
    findings.sort(key=lambda finding: finding.line)

    columns = [*(name for name in columns if name != "row_id"), "row_id"]
    data = {name: [row[name] for _, row in rows] for name in columns}
    for name in columns:
        if name in raw.mixed and name not in mixed:
            data[name] = [json.dumps(cell, ensure_ascii=False) for cell in data[name]]
        elif not raw.typed and name not in {*clean, *numbers, "row_id"}:
            data[name] = _infer(data[name])
    try:
        dataset = Dataset.from_dict(data)
    except (pyarrow.ArrowException, OverflowError, TypeError) as error:
        raise TableError(
            f"The table {source} cannot be stored, because the cells of a column do not have one "
            f"form: {format_names([error])}. Write them alike, or delete that column."
        ) from None
    report = TableReport(str(source), len(raw.lines), len(rows), tuple(findings), tuple(raw.notes))
    return dataset, report


def _check_columns(raw: RawTable, needed: set[str]) -> None:
    missing = sorted(needed - raw.columns.keys())
    hint = ""
    if not raw.typed and not needed & raw.columns.keys():
        hint = (
            " If line 1 is a row and no header, name the columns in the task file, in their order, "
            "as in columns: [label, text]."
        )
    if missing:
        raise TableError(
            f"The table {raw.source} lacks the column {format_names(missing)}. It has: "
            f"{format_names(raw.columns)}.{hint} Correct the name in the task file or its "
            "template, or rename a column of the table."
        )


def _name_rows(raw: RawTable, id: str | None) -> list[tuple[int, dict]]:
    """Each row with its line, and with a row_id that no other has."""
    id = id or ("row_id" if "row_id" in raw.columns else None)
    if id != "row_id" and "row_id" in raw.columns:
        raise TableError(
            f"The table {raw.source} has a column row_id, which the course makes itself, beside "
            f"its id {id}. Rename that column, or name it as the id."
        )
    rows, seen = [], Counter()
    for line, *cells in zip(raw.lines, *raw.columns.values(), strict=True):
        row = dict(zip(raw.columns, cells, strict=True))
        name = place = f"{raw.name} {raw.unit} {line}"
        if id and not is_empty(row[id]):
            name = str(row[id]).strip()
        seen[name] += 1
        row["row_id"] = name if seen[name] == 1 else f"{name} ({place})"
        rows.append((line, row))
    if doubled := sum(times - 1 for times in seen.values()):
        raw.notes.append(
            f"{doubled:,} rows have the {id} of an earlier row; their place is added to it."
        )
    return rows


# Checks: what each says of a row, given those before it

_Remark = tuple[str, str, str, str]  # column, kind, action, detail
_Check = Callable[[dict], Iterable[_Remark]]


def _sift(
    rows: list[tuple[int, dict]], check: _Check, findings: list[Finding]
) -> list[tuple[int, dict]]:
    """The rows, each with its line, that the check does not drop; its remarks go to findings."""
    kept = []
    for line, row in rows:
        remarks = list(check(row))
        findings += [Finding(line, row["row_id"], *remark) for remark in remarks]
        if all(action != "dropped" for _, _, action, _ in remarks):
            kept.append((line, row))
    return kept


def _check_values(
    row: dict,
    mixed: Sequence[str],
    required: Sequence[str],
    numbers: Mapping[str, tuple[int, int]],
    prompt: Sequence[str],
) -> Iterator[_Remark]:
    """Whether the row can be used; cells of `numbers` become int."""
    for name in mixed:
        if isinstance(row[name], list | dict):
            yield name, "not_text", "dropped", f"{_short(row[name])} where other rows hold text"
        else:
            row[name] = "" if row[name] is None else str(row[name])
    missing = [name for name in required if is_empty(row[name])]
    for name in missing:
        yield name, "missing_value", "dropped", "the cell is empty"
    if prompt and not missing and all(is_empty(row[name]) for name in prompt):
        yield format_names(prompt), "missing_value", "dropped", "there is nothing for the prompt"
    for name, (low, high) in numbers.items():
        text = str("" if row[name] is None else row[name]).strip()
        whole = re.fullmatch(r"([+-]?[0-9]{1,18})(\.0+)?", text)
        if whole and low <= int(whole[1]) <= high:
            row[name] = int(whole[1])
        else:
            detail = f"{_short(text)} is no whole number from {low} to {high}"
            yield name, "bad_number", "dropped", detail


def _clean(row: dict, columns: Sequence[str]) -> Iterator[_Remark]:
    """Clean these cells of the row; space inside a cell stays as it is."""
    for name in columns:
        cell = plain = row[name]
        if not isinstance(cell, str):
            continue
        for _ in range(2):  # entities may be escaped twice: &amp;#39;
            plain = _ENTITY.sub(_character, plain)
        if plain != cell:
            entities = sorted(found for found in set(_ENTITY.findall(cell)) if found not in plain)
            yield name, "html_entity", "cleaned", f"{format_names(entities)} written as plain text"
        if space := len(plain) - len(plain.strip()):
            yield name, "stray_space", "cleaned", f"{space} characters of space removed"
        row[name] = LINE_END.sub("\n", plain.strip())


def _character(entity: re.Match[str]) -> str:
    # html.unescape alone would also turn an unknown "&ampere;" into "&ere;".
    known = entity[0].startswith("&#") or entity[0][1:] in html5
    return html.unescape(entity[0]) if known else entity[0]


def _check_empty(row: dict, columns: Sequence[str]) -> Iterator[_Remark]:
    for name in columns:
        if is_empty(row[name]):
            yield name, "empty_cell", "kept", "the cell is empty"


def _equal_rows(columns: Sequence[str]) -> _Check:
    first: dict[tuple, dict] = {}

    def check(row: dict) -> Iterator[_Remark]:
        earlier = first.setdefault(_key(row, columns), row)
        if earlier is not row:
            detail = f"equal to {earlier['row_id']} in {format_names(columns)}"
            yield "whole row", "exact_duplicate", "dropped", detail

    return check


def _other_answers(prompt: Sequence[str], answer: Sequence[str]) -> _Check:
    first: dict[tuple, dict] = {}

    def check(row: dict) -> Iterator[_Remark]:
        earlier = first.setdefault(_key(row, prompt), row)
        said, now = _key(earlier, answer), _key(row, answer)
        if prompt and said != now:
            detail = f"{_short(now)}, and {_short(said)} in {earlier['row_id']}, with the same "
            detail += format_names(prompt)
            yield format_names(answer), "two_answers", "kept", detail

    return check


def _near_copies(known: "KnownTexts", column: str, group: str | None) -> _Check:
    def check(row: dict) -> Iterator[_Remark]:
        text, of = str(row[column] or ""), group_key(row[group]) if group else ""
        if original := known.find(text, of):
            yield column, "near_duplicate", "kept", f"nearly the text of {original}"
        known.add(text, row["row_id"], of)

    return check


def is_empty(cell: object) -> bool:
    """Whether a cell holds nothing: no value, no text but space, an empty list."""
    return cell is None or (isinstance(cell, str) and not cell.strip()) or cell in ([], {})


def _key(row: dict, columns: Sequence[str]) -> tuple:
    """The cells of these columns, fit for a dictionary."""
    cells = [row[name] for name in columns]
    return tuple(json.dumps(c, default=str) if isinstance(c, list | dict) else c for c in cells)


def _short(value: object) -> str:
    if isinstance(value, tuple):
        value = " ".join(map(str, value))
    text = repr(value)
    return text if len(text) <= 42 else f"{text[:40]}..."


def _infer(cells: list[str]) -> list:
    """Cells of a CSV as int or bool, if all that are not empty are; otherwise as they are."""
    filled = [cell for cell in cells if cell]
    if filled and all(map(_WHOLE.fullmatch, filled)):
        return [int(cell) if cell else None for cell in cells]
    if filled and {*filled} <= {"True", "False"}:
        return [cell == "True" if cell else None for cell in cells]
    return cells


# Copies of a text


def longest_text(rows: Sequence[dict] | Dataset, columns: Sequence[str]) -> str | None:
    """The one of these columns that holds the most text; None if none of them holds text."""
    texts = {name: [row[name] for row in rows] for name in columns}
    sizes = {n: sum(len(c) for c in cells if isinstance(c, str)) for n, cells in texts.items()}
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


def _pairs_in(rows: Iterable[dict], group: str | None) -> int:
    """The number of pairs of rows in one group; of all pairs, without a group column."""
    sizes = Counter(group_key(row[group]) if group else "" for row in rows)
    return sum(n * (n - 1) // 2 for n in sizes.values())


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
                f"There are {pairs:,} pairs of texts, too many to compare: near copies are only "
                "those that have the same words."
            )
        self._by_group: dict[str, list[tuple[Words, str]]] = defaultdict(list)
        self._by_words: dict[Words | str, str] = {}

    def add(self, text: str, row_id: str, group: str = "") -> None:
        """Make a text known."""
        words = _words(text)
        self._by_group[group].append((words, row_id))
        self._by_words.setdefault(words or text.strip(), row_id)

    def find(self, text: str, group: str = "") -> str | None:
        """The row_id of the first known text that this one repeats, those of its group first."""
        if not text.strip():
            return None
        words = _words(text)
        near = () if self.limit else self._by_group[group]
        found = next((row_id for other, row_id in near if _same_words(words, other)), None)
        return found or self._by_words.get(words or text.strip())
