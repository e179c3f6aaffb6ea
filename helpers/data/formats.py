"""Read a file or a dataset of the hub into columns, whatever its format, separator or encoding.

Separator, encoding and compression are told by the content. What cannot be read is refused in one
sentence that says where and why; what had to be guessed is noted.
"""

import csv
import gzip
import io
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import datasets
import pandas
import pyarrow
import pyarrow.parquet

from helpers.errors import CourseError, format_names

LINE_END = re.compile(r"\r\n|\r|\n")
# What pandas calls the index when it saves it with a table, and columns without a name.
_INDEX = re.compile(r"\s*|Unnamed: \d+(\.\d+)*|__index_level_\d+__")
_FOREIGN = {
    b"PK\x03\x04": "an Excel workbook or another zip archive",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook",
}


class TableError(CourseError):
    """A table that cannot be read. The message names file, line and column."""


@dataclass
class RawTable:
    """A table as it was read.

    name: how row ids call it. lines: where each row stands, counted in `unit`s (line, item or row)
    from 1. columns: cells as Python objects, missing ones None ("" among text). typed: whether the
    format tells numbers from text. notes: what was guessed or left out. mixed: columns in which
    lists stand among text.
    """

    source: str
    name: str
    unit: str
    lines: list[int]
    columns: dict[str, list]
    typed: bool
    notes: list[str]
    mixed: tuple[str, ...] = ()


def read_raw(source: str | Path, names: Sequence[str] = ()) -> RawTable:
    """Read CSV, TSV, JSON, JSON Lines, Parquet (all may be gzipped), or "hub:owner/name".

    names: the columns of a CSV or TSV that has no header. Raises TableError.
    """
    if str(source).startswith("hub:"):
        raw = _read_hub(str(source))
    else:
        path = Path(source)
        data = _read_bytes(path)
        if data[:4] == b"PAR1":
            raw = _read_parquet(path, data)
        else:
            text, notes = _decode(path, data)
            is_json = "json" in path.name.lower() or text.lstrip()[:2] in ('{"', "[{")
            raw = _read_json(path, text) if is_json else _read_separated(path, text, names)
            raw.notes[:0] = notes
    if not raw.lines:
        raise TableError(f"The table {source} has no row. Add rows, or name another table.")
    _drop_index(raw)
    _settle(raw)
    return raw


# Bytes and text


def _read_bytes(path: Path) -> bytes:
    try:
        data = path.read_bytes()
        data = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    except FileNotFoundError:
        raise TableError(
            f"There is no table {path}. Check the name and the folder; a path in a task file "
            "starts from the folder of that file."
        ) from None
    except (OSError, EOFError) as error:
        reason = getattr(error, "strerror", None) or error
        raise TableError(f"The table {path} cannot be read: {reason}. Name another file.") from None
    if foreign := _FOREIGN.get(data[:4]):
        raise TableError(
            f"The table {path} is {foreign}, which the course does not read. Unpack it, or save "
            'the table as "CSV UTF-8" in the program that made it.'
        )
    return data


def _decode(path: Path, data: bytes) -> tuple[str, list[str]]:
    """The text of the file, without a byte order mark, and a note if it is not in UTF-8."""
    encoding, notes = "utf-8-sig", []
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        encoding = "utf-16"
    elif 0 in data[:2]:
        encoding = "utf-16-le" if data[1:2] == b"\0" else "utf-16-be"
    if encoding != "utf-8-sig":
        notes.append("The file is read as UTF-16.")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        place = _place(data[: error.start].decode(encoding, errors="replace"))
        place += f" has the byte 0x{data[error.start]:02x}"
        text = _decode_western(data) if encoding == "utf-8-sig" else ""
        if not text:
            raise TableError(
                f"The table {path} is no text in UTF-8, UTF-16 or cp1252: {place}, which means "
                'nothing there. Save the file again as "CSV UTF-8", or copy it again if it is '
                "damaged."
            ) from None
        notes.append(
            f"The file is not in UTF-8 ({place}). It is read as cp1252, the encoding of Western "
            "European Windows; look whether that cell reads right."
        )
    if "\0" in text:
        raise TableError(
            f"The table {path} is no text: {_place(text[: text.index(chr(0))])} holds a NUL "
            "character. Name a CSV, TSV, JSON, JSON Lines or Parquet file, or copy it again."
        )
    if not text.strip():
        raise TableError(f"The table {path} is empty. Copy the file again, or name another one.")
    return text, notes


def _decode_western(data: bytes) -> str:
    """The text if it can be cp1252, else "".

    It cannot where other characters are good UTF-8 (that is a damaged file), nor where accented
    letters are many, as when Cyrillic is read in this way.
    """
    if not data.decode("utf-8-sig", errors="replace").replace("\ufffd", "").isascii():
        return ""
    text = data.decode("cp1252", errors="replace")
    letters = [char for char in text if char.isalpha()]
    foreign = sum(not char.isascii() for char in letters)
    return text if "\ufffd" not in text and foreign <= len(letters) / 4 else ""


def _place(before: str) -> str:
    """Line and, where it is known, column of the character that follows the text `before`."""
    csv.field_size_limit(2**31 - 1)
    reader = csv.reader(io.StringIO(before + "x", newline=""), delimiter=_separator(before))
    header, *rows = list(reader)
    line = f"line {len(LINE_END.findall(before)) + 1}"
    known = rows and len(rows[-1]) <= len(header)
    return f"{line}, column {format_names([header[len(rows[-1]) - 1]])}," if known else line


# Formats


def _separator(text: str) -> str:
    """The separator at which most of the first lines have as many cells as line 1 has."""
    head = LINE_END.split(text[:50_000])[:100]

    def fit(separator: str) -> tuple[int, int]:
        widths = [len(cells) for cells in csv.reader(head, delimiter=separator) if cells] or [0]
        return sum(width == widths[0] > 1 for width in widths), widths[0]

    return max((",", ";", "\t", "|"), key=fit)


def _read_separated(path: Path, text: str, names: Sequence[str]) -> RawTable:
    """CSV, with commas, semicolons, tabs or bars between the cells."""
    separator = _separator(text)
    records, notes = _records(path, text, separator)
    header = [cell.strip() for cell in records[0][1]]
    if names and header != list(names):
        header = list(names)
    else:
        del records[0]
    doubled = [name for name, times in Counter(header).items() if name and times > 1]
    if doubled:
        raise TableError(
            f"The table {path} has more than one column {format_names(doubled[:1])} in its header "
            "(line 1). Rename one of them, or delete it."
        )
    for line, cells in records:
        if len(cells) != len(header):
            what = f"nothing is left for column {format_names(header[len(cells) :][:1])}"
            if len(cells) > len(header):
                what = f"{cells[len(header)][:40]!r} stands after the last column"
            raise TableError(
                f"The table {path}, line {line}, has {len(cells)} cells where the header has "
                f"{len(header)}: {what}. Write empty cells out, and put a cell that holds a "
                f"{separator!r} in double quotes."
            )
    # Nameless columns, as pandas and Excel leave them, must not fall into one.
    header = [name or " " * number for number, name in enumerate(header, start=1)]
    columns = {name: [cells[n] for _, cells in records] for n, name in enumerate(header)}
    lines = [line for line, _ in records]
    return RawTable(str(path), path.name, "line", lines, columns, False, notes)


def _records(
    path: Path, text: str, separator: str
) -> tuple[list[tuple[int, list[str]]], list[str]]:
    """Every record with the line on which it starts, and notes; empty lines are passed over.

    A quoted cell may hold line breaks, so records and lines are counted apart. (pandas tells no
    line, and fills rows that lack cells without a word.)
    """
    csv.field_size_limit(2**31 - 1)
    records, problem, line = [], None, 1
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        for cells in reader:
            if cells:
                records.append((line, cells))
            line = reader.line_num + 1
    except csv.Error as error:
        problem = error
    if separator == "\t":
        # Many programs write tabs and quote nothing. Then a cell that begins with a quotation mark
        # would swallow the lines below it, without an error if another mark ends it.
        plain = [(n, one.split("\t")) for n, one in enumerate(LINE_END.split(text), 1) if one]
        even = len({len(cells) for _, cells in plain}) == 1
        if even and (problem or len(plain) != len(records)):
            return plain, ["Cells are separated by tabs, and quotation marks are taken as text."]
    if problem:
        raise TableError(
            f"The table {path} cannot be read from line {line} on: {problem}. Most often a "
            "quotation mark is missing, or one inside a cell is not doubled; save the file again "
            "as CSV."
        )
    return records, []


def _read_json(path: Path, text: str) -> RawTable:
    """JSON Lines, a list of objects, an object of columns, or one that holds a list of objects."""
    unit, line, lines, content = "item", 1, [], None
    try:
        try:
            content = None if ".jsonl" in path.name.lower() else json.loads(text)
        except ValueError:
            if text.lstrip()[0] != "{":
                raise
        if content is None:
            unit, content = "line", []
            for line, one in enumerate(LINE_END.split(text), start=1):
                if one.strip():
                    content.append(json.loads(one))
                    lines.append(line)
        elif isinstance(content, dict):
            inner = [rows for rows in content.values() if isinstance(rows, list) and rows]
            inner = [rows for rows in inner if isinstance(rows[0], dict)]
            content = inner[0] if len(inner) == 1 else content
        frame = pandas.DataFrame(content, dtype=object).rename(columns=str)
    except json.JSONDecodeError as error:
        raise TableError(
            f"The table {path}, line {line + error.lineno - 1}, is no JSON: {error.msg}. Mend that "
            "line, or write the file again from its source."
        ) from None
    except ValueError:
        raise TableError(
            f"The table {path} holds no rows. Each must be written as {{column: value, ...}}, all "
            "in one list or one in a line."
        ) from None
    lines = lines or list(range(1, len(frame) + 1))
    return RawTable(str(path), path.name, unit, lines, frame.to_dict("list"), True, [])


def _read_parquet(path: Path, data: bytes) -> RawTable:
    try:
        table = pyarrow.parquet.read_table(io.BytesIO(data))
    except (pyarrow.ArrowException, OSError) as error:
        raise TableError(
            f"The table {path} is a damaged Parquet file: {format_names([error])}. Copy it again."
        ) from None
    lines = list(range(1, len(table) + 1))
    return RawTable(str(path), path.name, "row", lines, table.to_pydict(), True, [])


def _read_hub(source: str) -> RawTable:
    """A dataset of the hub; "hub:owner/name:configuration" where it has several configurations."""
    name, _, configuration = source.removeprefix("hub:").partition(":")
    try:
        parts = datasets.load_dataset(name, configuration or None)
    except Exception as error:  # whatever the hub, the network or a broken file raises
        raise TableError(
            f"The dataset {source} cannot be loaded: {' '.join(str(error).split())[:200]} Check "
            "the name (hub:owner/name or hub:owner/name:configuration) and the connection, or "
            "name a file that you have downloaded."
        ) from None
    part = "train" if "train" in parts else next(iter(parts))
    notes = [f"Read is the part {part!r} of: {format_names(parts)}."]
    lines = list(range(1, len(parts[part]) + 1))
    return RawTable(source, f"{name} {part}", "row", lines, parts[part].to_dict(), True, notes)


# Columns


def _drop_index(raw: RawTable) -> None:
    """Drop what pandas calls its index, if it holds whole numbers, and columns without a name."""
    for name in filter(_INDEX.fullmatch, list(raw.columns)):
        numbers = all(re.fullmatch("[0-9]+", str(cell)) for cell in raw.columns[name])
        if numbers or not name.strip():
            what = "pandas' row numbers" if numbers else "a column without a name"
            raw.notes.append(f"The column {name.strip()!r} ({what}) is left out.")
            del raw.columns[name]


def _settle(raw: RawTable) -> None:
    """Give each column one type, as a Dataset needs it; missing values become None or ""."""
    for name, cells in raw.columns.items():
        cells = [None if cell != cell else cell for cell in cells]  # NaN
        types = {type(cell) for cell in cells} - {type(None)}
        if types & {list, dict} and types - {list, dict}:
            raw.mixed += (name,)
        elif types <= {str} or (len(types) > 1 and types != {int, float}):
            if types - {str}:
                raw.notes.append(f"The column {name} mixes types and is read as text.")
            cells = ["" if cell is None else str(cell) for cell in cells]
        raw.columns[name] = cells
