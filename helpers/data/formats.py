"""Read a file or a dataset of the hub, whatever its format, separator or encoding.

Separator, encoding and compression are told by the content. What cannot be read is refused in one
sentence that says where and why; what had to be guessed is noted.
"""

import csv
import gzip
import io
import json
import re
import warnings
import zlib
from codecs import BOM_UTF8
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import datasets
import pandas
import pyarrow
import pyarrow.parquet

from helpers.errors import CourseError, format_names

# What pandas calls the index when it saves it with a table, and columns without a name.
_INDEX = re.compile(r"\s*|Unnamed: \d+(\.\d+)*|__index_level_\d+__")
_DECIMAL = re.compile(r"-?[0-9]{1,9}\.[0-9]{1,6}")
_JSON_NAME = re.compile(r"\.(json|jsonl|ndjson)(\.gz)?$")
_JSON = re.compile(r'\s*(\{\s*"|\[\s*\{)')  # how a table in JSON begins
_WHOLE = re.compile(r"-?[1-9][0-9]{0,17}|0")  # as Python prints it, so no leading zeros; fits int64


class TableError(CourseError):
    """A table that cannot be read. The message names file, line and column."""


@dataclass
class RawTable:
    """A table as it was read.

    name: how row ids call it. unit: what its rows are counted in (line, item or row), from 1.
    frame: cells as Python objects, missing ones None ("" among text); the index says where in the
    file a row stands, in `unit`s. notes: what was guessed or left out.
    """

    name: str
    unit: str
    frame: pandas.DataFrame
    notes: list[str]


def refused(source: object, problem: str, line: int | str = 0, column: object = None) -> TableError:
    """The error for a table; the problem begins with a verb. line: its number, or what
    _place returns."""
    place = f", line {line}," if line else ""
    place += f" column {format_names([column])}," if column is not None else ""
    return TableError(f"The table {source}{place} {problem}")


def read_raw(source: str | Path, names: Sequence[str] = ()) -> RawTable:
    """Read CSV, TSV, the first sheet of an Excel workbook, JSON, JSON Lines, Parquet (all may be
    gzipped), or "hub:owner/name".

    names: the columns of a CSV, TSV or workbook that has no header. Raises TableError.
    """
    if str(source).startswith("hub:"):
        raw = _read_hub(str(source))
    else:
        path = Path(source)
        data = _read_bytes(path)
        if data[:4] == b"PAR1":
            raw = _read_parquet(path, data)
        elif data[:4] in (b"PK\x03\x04", b"\xd0\xcf\x11\xe0"):
            raw = _with_header(path, *_workbook(path, data), names)
        else:
            text, notes = _decode(path, data)
            is_json = _JSON_NAME.search(path.name.lower()) or _JSON.match(text)
            if is_json:
                raw = _read_json(path, text)
            else:
                raw = _with_header(path, *_records(path, text), names)
            raw.notes[:0] = notes
    if raw.frame.empty:
        raise refused(source, "has no rows. Add rows, or name another table.")
    if raw.unit != "line":
        raw.frame.index = range(1, len(raw.frame) + 1)
    for name, cells in raw.frame.items():
        numbers = cells.astype(str).str.fullmatch("[0-9]+").all()
        if not name.strip() or (numbers and _INDEX.fullmatch(name)):
            what = "pandas' row numbers" if numbers else "a column without a name"
            raw.notes.append(f"The column {name.strip()!r} ({what}) is left out.")
            raw.frame = raw.frame.drop(columns=name)
    if raw.frame.columns.empty:
        raise refused(source, "has no column with a name. Write the names into its first line.")
    for name in [name for name in raw.frame if not name.isidentifier()]:
        plain = re.sub(r"\W+", "_", name).strip("_")
        plain = plain if plain.isidentifier() else f"column_{plain}"
        if plain not in raw.frame:  # templates can only use names of one word
            raw.notes.append(f"The column {name!r} is called {plain}.")
            raw.frame = raw.frame.rename(columns={name: plain})
    columns = {name: _settle(name, cells.tolist(), raw.notes) for name, cells in raw.frame.items()}
    raw.frame = pandas.DataFrame(columns, raw.frame.index, dtype=object)
    return raw


def _settle(name: str, cells: list, notes: list[str]) -> list:
    """None for what is missing ("" among text); a mixture of types becomes text.

    But lists among text stay what they are: whether they matter, only the task knows.
    """
    cells = [None if cell != cell else cell for cell in cells]  # NaN
    types = {type(cell) for cell in cells} - {type(None)}
    if types == {int, float}:  # as a Dataset stores them, so that they print alike everywhere
        return [None if cell is None else float(cell) for cell in cells]
    if types & {list, dict} or (len(types) == 1 and types != {str}):
        return cells
    if types - {str}:
        notes.append(f"The column {name} mixes types and is read as text.")
    return ["" if cell is None else str(cell) for cell in cells]


def _read_bytes(path: Path) -> bytes:
    try:
        data = path.read_bytes()
        data = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    except FileNotFoundError:
        raise TableError(
            f"There is no table {path}. Check the name and the folder; a path in a task file "
            "starts from the folder of that file."
        ) from None
    except (OSError, EOFError, zlib.error) as error:
        raise refused(path, f"cannot be read: {error}. Name another file.") from None
    return data


def _decode(path: Path, data: bytes) -> tuple[str, list[str]]:
    """The text of the file, with \\n as its line ends, and a note if it is not in plain UTF-8."""
    problem = "is not text in UTF-8, UTF-16 or cp1252. Save it again as CSV UTF-8."
    is_utf16 = data[:2] in (b"\xff\xfe", b"\xfe\xff")
    codec = "utf-16" if is_utf16 else "utf-8"
    notes = ["The file is read as UTF-16."] if is_utf16 else []
    if data[:3] == BOM_UTF8:
        data, notes = data[3:], ["The file is read as UTF-8 with a byte order mark."]
    try:
        text = data.decode(codec)
    except UnicodeDecodeError as error:
        place = _place(data[: error.start].decode(codec, errors="ignore"))
        text = data.decode("cp1252", errors="replace")
        letters = re.findall(r"[^\W\d_]", text)
        # Many accented letters: another alphabet, such as Cyrillic, is taken for cp1252.
        foreign = sum(not letter.isascii() for letter in letters) > len(letters) / 4
        # Good UTF-8 beside the wrong byte: its other accents would come out wrong.
        damaged = not data.decode(errors="ignore").isascii()
        if is_utf16 or foreign or damaged or "\ufffd" in text:
            raise refused(path, problem, place) from None
        notes = [
            f"The file is not in UTF-8 (line {place}, has the byte 0x{data[error.start]:02x}). It "
            "is read as cp1252, the encoding of Western European Windows; check that this line "
            "reads correctly."
        ]
    if "\0" in text:
        raise refused(path, problem, _place(text[: text.index("\0")]))
    if not text.strip():
        raise refused(path, "is empty. Copy the file again, or name another one.")
    return text.replace("\r\n", "\n").replace("\r", "\n"), notes


def _place(before: str) -> str:
    """Line and character at which a file goes on after this text."""
    lines = before.split("\n")
    return f"{len(lines)}, character {len(lines[-1]) + 1}"


# Formats

_NAMES = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}


def _with_header(
    path: Path, records: dict[int, list[str]], notes: list[str], names: Sequence[str]
) -> RawTable:
    """The table of a CSV or a workbook, from the cells of each record by its line."""
    first = next(iter(records))
    while len(records) > 1 and not any(map(str.strip, records[first])):  # as Excel keeps them
        del records[first]
        first = next(iter(records))
    header = [cell.strip() for cell in records[first]]
    if names and header != list(names):
        header = list(names)
    else:
        del records[first]
    if doubled := [name for name in header if name and header.count(name) > 1]:
        raise refused(path, "appears twice in the header. Rename one of them.", first, doubled[0])
    for line, cells in records.items():
        if len(cells) != len(header):
            column = header[min(len(cells), len(header) - 1)]
            problem = f"does not fit: {len(cells)} cells where the header has {len(header)}. Write "
            problem += "empty cells out, and put a cell that holds a separator in double quotes."
            raise refused(path, problem, line, column)
    # Nameless columns, as pandas and Excel leave them, must not fall into one.
    header = [name or " " * number for number, name in enumerate(header, start=1)]
    cells = list(zip(*records.values(), strict=True)) or [()] * len(header)
    columns = {name: _typed([*column]) for name, column in zip(header, cells, strict=True)}
    frame = pandas.DataFrame(columns, list(records), dtype=object)
    return RawTable(path.name, "line", frame, notes)


def _records(path: Path, text: str) -> tuple[dict[int, list[str]], list[str]]:
    """The cells of each record of a CSV, with commas, semicolons, tabs or bars between them, by the
    line on which it starts, and notes; no empty lines.

    A quoted cell may hold line breaks, so records and lines are counted apart. (pandas tells no
    line, and fills rows that lack cells without a word.)
    """

    def fit(separator: str) -> tuple[int, int]:
        """How many of the first lines have as many cells as line 1 has, and how many cells."""
        head = text[:50_000].split("\n")[:100]
        widths = [len(cells) for cells in csv.reader(head, delimiter=separator) if cells] or [0]
        return sum(width == widths[0] > 1 for width in widths), widths[0]

    csv.field_size_limit(2**31 - 1)
    separator = max(_NAMES, key=fit)
    records, problem, line = {}, None, 1
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        for cells in reader:
            if cells:
                records[line] = cells
            line = reader.line_num + 1
    except csv.Error as error:
        problem = f"cannot be read from there on: {error}. Close each quotation mark, and double it"
        problem += " inside a cell, or save the file again as CSV."
    if separator == "\t":
        # Many programs write tabs and quote nothing. Then a cell that begins with a quotation mark
        # would swallow the lines below it, without an error if another mark ends it.
        plain = {n: one.split("\t") for n, one in enumerate(text.split("\n"), 1) if one}
        even = len({len(cells) for cells in plain.values()}) == 1
        if even and (problem or len(plain) != len(records)):
            return plain, ["Cells are separated by tabs, and quotation marks are taken as text."]
    if problem:
        raise refused(path, problem, line)
    return records, [] if separator == "," else [f"Cells are separated by {_NAMES[separator]}."]


def _typed(cells: list[str]) -> list:
    """Cells of a CSV as int or bool, if all that are not empty are, or as float, if all cells are;
    otherwise, and where numbers would be printed in another way, as they are."""
    filled = {*cells} - {""}
    if filled and all(map(_WHOLE.fullmatch, filled)):
        return [int(cell) if cell else None for cell in cells]
    if cells and all(_DECIMAL.fullmatch(cell) and repr(float(cell)) == cell for cell in cells):
        return [*map(float, cells)]
    if filled and filled <= {"True", "False"}:
        return [cell == "True" if cell else None for cell in cells]
    return cells


def _workbook(path: Path, data: bytes) -> tuple[dict[int, list[str]], list[str]]:
    """The cells of the first sheet as a CSV has them, by line, and notes; no empty lines."""
    if data[:2] != b"PK":
        problem = "is an old Excel workbook, or has a password. Save it as .xlsx without one."
        raise refused(path, problem)
    try:
        import openpyxl

        with warnings.catch_warnings(action="ignore"):  # of what it leaves out, such as styles
            book = openpyxl.load_workbook(io.BytesIO(data), data_only=True)
        first, *others = book.worksheets
    except ImportError:
        problem = "is an Excel workbook, which needs the package openpyxl. Install it "
        problem += "(python -m pip install openpyxl), or save the table as CSV UTF-8."
        raise refused(path, problem) from None
    except Exception:  # whatever a broken file raises: zipfile, the XML or openpyxl itself
        problem = "is a damaged Excel workbook, or a zip archive of another kind. Unpack it, or "
        problem += "save the table as CSV UTF-8."
        raise refused(path, problem) from None
    rows = enumerate(first.iter_rows(values_only=True), start=1)
    records = {n: [*map(_as_text, row)] for n, row in rows if any(c is not None for c in row)}
    if not records:
        problem = f"has nothing in its first sheet, {first.title!r}. Move the table there."
        raise refused(path, problem)
    notes = [f"Of {len(others) + 1} sheets, the first is read: {first.title!r}."] if others else []
    return records, notes


def _as_text(cell: object) -> str:
    """A cell of a workbook as a CSV has it. Excel shows 15 digits of a number: 5.0 is 5, and
    19.989999999999998 is 19.99."""
    if isinstance(cell, float):
        return f"{cell:.15g}"
    if isinstance(cell, datetime):
        return cell.isoformat().removesuffix("T00:00:00")
    return "" if cell is None else str(cell)


def _read_json(path: Path, text: str) -> RawTable:
    """JSON Lines, a list of objects, an object of columns, one that holds a list of objects, or a
    single row."""
    unit, line, lines, content = "item", 1, None, None
    try:
        try:
            content = None if ".jsonl" in path.name.lower() else json.loads(text)
        except ValueError:
            if text.lstrip()[0] != "{":
                raise
        if content is None:
            unit, content, lines = "line", [], []
            for line, one in enumerate(text.split("\n"), start=1):
                if one.strip():
                    content.append(json.loads(one))
                    lines.append(line)
        if "\\ud" in text.lower():  # half an emoji, where a text was cut by its length
            whole = json.dumps(content, ensure_ascii=False).encode("utf-8", "replace")
            content = json.loads(whole)
        if isinstance(content, dict):
            inner = [rows for rows in content.values() if isinstance(rows, list) and rows]
            inner = [rows for rows in inner if isinstance(rows[0], dict)]
            if len(inner) == 1:
                content = inner[0]
            elif not all(isinstance(cells, list | dict) for cells in content.values()):
                content = [content]
        frame = pandas.DataFrame(content, lines, dtype=object).rename(columns=str)
    except json.JSONDecodeError as error:
        place = f"{line + error.lineno - 1}, character {error.colno}"
        raise refused(path, f"is not valid JSON: {error.msg}. Correct it.", place) from None
    except (ValueError, TypeError, AttributeError):  # by the version of pandas
        problem = (
            "holds no table. Write each row as {column: value, ...}, all in one list or one per "
            "line."
        )
        raise refused(path, problem) from None
    return RawTable(path.name, unit, frame, [])


def _read_parquet(path: Path, data: bytes) -> RawTable:
    try:
        columns = pyarrow.parquet.read_table(io.BytesIO(data)).to_pydict()
    except (pyarrow.ArrowException, OSError) as error:
        problem = f"is a damaged Parquet file: {format_names([error])}. Copy it again."
        raise refused(path, problem) from None
    return RawTable(path.name, "row", pandas.DataFrame(columns, dtype=object), [])


def hub_name(source: str) -> tuple[str, str]:
    """(name, configuration) in "hub:owner/name:configuration"; that is "" if it has only one."""
    name, _, configuration = source.removeprefix("hub:").partition(":")
    return name, configuration


def _read_hub(source: str) -> RawTable:
    name, configuration = hub_name(source)
    try:
        parts = datasets.load_dataset(name, configuration or None)
    except Exception as error:  # whatever the hub, the network or a broken file raises
        raise TableError(
            f"The dataset {source} cannot be loaded: {' '.join(str(error).split())[:200]} Check "
            "the name (hub:owner/name or hub:owner/name:configuration) and the connection, make "
            "sure that HF_HUB_OFFLINE is not set, or name a file that you have downloaded."
        ) from None
    part = "train" if "train" in parts else next(iter(parts))
    notes = [f"Of the parts {format_names(parts)}, {part!r} is read."]
    frame = pandas.DataFrame(parts[part].to_dict(), dtype=object)
    return RawTable(f"{name} {part}", "row", frame, notes)
