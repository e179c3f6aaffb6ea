"""Read, check and clean a table of reviews, and say line by line what was wrong with it.

The table is a CSV file in UTF-8 with a header. It is read with the standard csv module, so that
this file shows every decision: what is refused, what is dropped, what is mended, what is kept.
"""

import csv
import html
import io
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from html.entities import html5
from pathlib import Path

from helpers.errors import CourseError

Row = dict[str, str | int]

COLUMNS = (
    "review_id",
    "department",
    "product_title",
    "star_rating",
    "review_headline",
    "review_body",
)
REVIEWS = Path(__file__).resolve().parents[1] / "data" / "reviews.csv"

# Without one of these a review is of no use to any task, so its row is dropped.
NEEDED = ("department", "product_title", "review_body")

# Two texts of one product count as one text, posted twice, from this share of common words on.
# In the course's table the reposts share 0.78 or more, all other pairs of one product below 0.5.
SAME_TEXT = 0.75

LONGEST_CELL = 131_072  # characters; the limit that Python's csv module has by itself

_RATING = re.compile(r"[1-5](\.0+)?")
# Only entities with their semicolon: "AT&T" and "salt&pepper" are ordinary text.
_ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,30});")


class TableError(CourseError):
    """A table that cannot be read. The message names file, line and column."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with one row, and what was done about it.

    line: line of the file where the row starts, the header being line 1.
    kind: exact_duplicate, near_duplicate, missing_headline, missing_value, html_entity,
        stray_space or bad_star_rating.
    action: "dropped" (the row), "mended" (the cell) or "kept" (nothing was changed).
    """

    line: int
    row_id: str
    column: str
    kind: str
    action: str
    detail: str


@dataclass(frozen=True)
class TableReport:
    """What read_table found; findings are in the order of the file."""

    path: str
    rows_read: int
    rows_kept: int
    findings: tuple[Finding, ...]

    def counts(self) -> dict[str, int]:
        """Number of findings of each kind that was found, the most frequent first."""
        return dict(Counter(finding.kind for finding in self.findings).most_common())

    def of_kind(self, kind: str) -> list[Finding]:
        """The findings of one kind."""
        return [finding for finding in self.findings if finding.kind == kind]

    def __str__(self) -> str:
        lines = [f"{self.path}: {self.rows_read:,} rows read, {self.rows_kept:,} kept"]
        actions = {finding.kind: finding.action for finding in self.findings}
        lines += [f"{n:>6}  {kind:<17} {actions[kind]}" for kind, n in self.counts().items()]
        return "\n".join(lines)


def read_table(path: str | Path, columns: Sequence[str] = COLUMNS) -> tuple[list[Row], TableReport]:
    """Clean rows of a CSV file, and a report of what was dropped, mended or noticed.

    columns: those that are needed; the file may have more, in any order. For a table of your own,
    name the fields of your template. Every row holds these columns as text without space around
    it, `star_rating` as an int from 1 to 5, and `review_id` ("line 7" where the file has none).

    What happens to a row:
    - html_entity, stray_space: the cell is mended (`&#39;` becomes `'`);
    - bad_star_rating (not 1 to 5; "4.0" passes), missing_value (no department, product_title or
      review_body): the row is dropped;
    - missing_headline: the row is kept with an empty headline;
    - exact_duplicate (equal to an earlier row in all but review_id): the row is dropped;
    - near_duplicate (same_text as an earlier row of its product): the row is kept, because only
      the task can tell whether it matters; splits.leaks counts what comes of it.
    A check applies where its columns are among `columns`.

    Raises TableError: no such file, empty file, header alone, no usable row, a missing or doubled
    column, not UTF-8, a row with too few or too many cells, broken quotes, a cell that is too
    long, a NUL character.
    """
    path = Path(path)
    records = _records(path, _decode(path))
    header = records[0][1]
    header = [name.strip() for name in header]
    _check_header(path, header, columns)

    findings: list[Finding] = []
    kept: list[tuple[int, Row]] = []
    ids_by_content: dict[tuple[str, ...], str] = {}
    rows_read = len(records) - 1
    for line, cells in records[1:]:
        _check_cells(path, line, header, cells)
        text = {name: _mend(cell) for name, cell in zip(header, cells, strict=True)}
        row_id = text.get("review_id") or f"line {line}"
        row: Row = {name: text[name] for name in columns} | {"review_id": row_id}
        remarks = [
            remark
            for name, cell in zip(header, cells, strict=True)
            if name in columns
            for remark in _mended(name, cell)
        ]
        remarks += _check_values(row)
        own = [Finding(line, row_id, *remark) for remark in remarks]
        if all(finding.action != "dropped" for finding in own):
            # Columns that were not asked for count too: rows that differ there are not the same.
            content = tuple(text[name] for name in header if name != "review_id")
            if content in ids_by_content:
                detail = (
                    f"equal to {listed([ids_by_content[content]])} in every column but review_id"
                )
                own.append(Finding(line, row_id, "whole row", "exact_duplicate", "dropped", detail))
            else:
                ids_by_content[content] = row_id
                kept.append((line, row))
        findings += own
    if not rows_read:
        raise TableError(
            f"The table {path} has a header on line 1 and no row below it. "
            "Add rows, or name another file."
        )
    if not kept:
        raise TableError(
            f"The table {path} has {rows_read} rows and none of them can be used. The first: "
            f"line {findings[0].line}, column {listed([findings[0].column])}: "
            f"{findings[0].detail}. "
            "Mend the file, or name another one."
        )
    findings += _near_duplicates(kept)
    findings.sort(key=lambda finding: finding.line)
    return [row for _, row in kept], TableReport(str(path), rows_read, len(kept), tuple(findings))


def listed(names: Iterable[str]) -> str:
    """Names from a stranger's file, fit for a message: one line, the first twenty of them, each cut
    to 60 characters."""
    names = list(names)
    shown = [" ".join(name.split())[:60] for name in names[:20]]
    shown = ["".join(char if char.isprintable() else "\ufffd" for char in name) for name in shown]
    more = f" and {len(names) - 20:,} more" if len(names) > 20 else ""
    return ", ".join(shown) + more


def product_of(row: Row) -> str:
    """The product of a row, spelled in one way: titles that differ in case or space are one."""
    return " ".join(str(row["product_title"]).casefold().split())


def same_text(a: str, b: str) -> bool:
    """Whether two reviews of one product are one text, posted again with small edits.

    From a share of SAME_TEXT common words on it is the same text; an empty text is the same as no
    other. The rule is meant for texts about one product: two short reviews of different products
    may share as many words by chance.
    """
    total_a, total_b = _words(a)[1], _words(b)[1]
    # The common words cannot be more than the shorter text has: most pairs end here.
    if min(total_a, total_b) * 2 < SAME_TEXT * (total_a + total_b):
        return False
    return share_of_common_words(a, b) >= SAME_TEXT


def share_of_common_words(a: str, b: str) -> float:
    """Twice the number of common words over the number of words in both texts, 0 to 1.

    A repeated word is common as often as both texts have it. Case, punctuation and the order of
    the words do not count. Two empty texts have nothing in common. (The Dice coefficient.)
    """
    words_a, total_a = _words(a)
    words_b, total_b = _words(b)
    common = sum(min(count, words_b.get(word, 0)) for word, count in words_a.items())
    return 2 * common / max(1, total_a + total_b)


@lru_cache(maxsize=65536)
def _words(text: str) -> tuple[Counter[str], int]:
    words = Counter(re.findall(r"\w+", text.casefold().replace("'", "").replace("\u2019", "")))
    return words, words.total()


def _decode(path: Path) -> str:
    """The text of the file; a byte order mark at its start is dropped."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise TableError(
            f"There is no table {path}. Check the name and the folder (the notebooks run in "
            "their own folder); the course's table is data/reviews.csv."
        ) from None
    except OSError as error:
        raise TableError(
            f"The table {path} cannot be read: {error.strerror}. "
            "Name a CSV file that you are allowed to read."
        ) from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("utf-8-sig", errors="replace")
        raise TableError(
            f"The table {path} is not UTF-8: {_place(before)} has a byte "
            f"(0x{data[error.start]:02x}) that means nothing there. Save the file again as "
            '"CSV UTF-8" in your spreadsheet program, or convert it to UTF-8.'
        ) from None
    if text[:1] == "\0" or text[1:2] == "\0":
        raise TableError(
            f"The table {path} is not UTF-8: line 1 begins with a NUL character, as in UTF-16. "
            'Save the file again as "CSV UTF-8" in your spreadsheet program, or convert it.'
        )
    if not text.strip():
        raise TableError(
            f"The table {path} is empty. Line 1 must be a header with the names of the columns; "
            "copy the file again, or name another one."
        )
    return text


def _place(before: str) -> str:
    """Line and column of the character that follows the text `before`."""
    line = len(re.findall(r"\r\n|\r|\n", before)) + 1
    try:
        records = list(csv.reader(io.StringIO(before + "x", newline="")))
    except csv.Error:
        return f"line {line}"
    header, last = records[0], len(records[-1])
    known = len(records) > 1 and last <= len(header)
    return f"line {line}, column {listed([header[last - 1]])}," if known else f"line {line}"


def _records(path: Path, text: str) -> list[tuple[int, list[str]]]:
    """Every record with the line on which it starts; empty lines are passed over.

    A quoted cell may hold line breaks, so records and lines are counted apart.
    """
    records = []
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    # A cell that is too long is refused later, by the name of its column.
    limit = csv.field_size_limit(len(text))
    try:
        while True:
            line = reader.line_num + 1
            cells = next(reader, None)
            if cells is None:
                return records
            if cells:
                records.append((line, cells))
    except csv.Error as error:
        raise TableError(
            f"The table {path} cannot be read from line {line} on: {error}. Most often a "
            "quotation mark is missing, or one inside a cell is not doubled; save the file "
            "again as CSV."
        ) from None
    finally:
        csv.field_size_limit(limit)


def _check_header(path: Path, header: list[str], columns: Sequence[str]) -> None:
    doubled = [name for name, times in Counter(header).items() if name and times > 1]
    if doubled:
        raise TableError(
            f"The table {path} has more than one column {listed(doubled[:1])} in its header "
            "(line 1). Rename one of them, or delete it."
        )
    missing = [name for name in columns if name not in header]
    if missing:
        hint = ""
        if len(header) == 1 and re.search(r"[;\t|]", header[0]):
            hint = (
                " The cells seem to be separated by semicolons, tabs or bars: save it with commas."
            )
        raise TableError(
            f"The table {path} lacks the column {listed(missing)}. Its header (line 1) names: "
            f"{listed(header)}.{hint} Rename a column of the file, or use a template that "
            "asks for the columns it has."
        )


def _check_cells(path: Path, line: int, header: list[str], cells: list[str]) -> None:
    if len(cells) < len(header):
        raise TableError(
            f"The table {path}, line {line}, has {len(cells)} cells where the header has "
            f"{len(header)}: nothing is left for column {listed([header[len(cells)]])}. "
            "Add the missing cells (they may be empty), or delete the line."
        )
    if len(cells) > len(header):
        raise TableError(
            f"The table {path}, line {line}, has {len(cells)} cells where the header has "
            f"{len(header)}: {cells[len(header)][:40]!r} stands after the last column, "
            f"{listed(header[-1:])}. A cell that holds a comma must stand in double quotes."
        )
    for name, cell in zip(header, cells, strict=True):
        if len(cell) > LONGEST_CELL:
            raise TableError(
                f"The table {path}, line {line}, column {listed([name])}, has a cell of "
                f"{len(cell):,} characters, and {LONGEST_CELL:,} characters is the most. Often a "
                "quotation mark is missing or one too many. Mend the line, or delete it."
            )
        if "\0" in cell:
            raise TableError(
                f"The table {path}, line {line}, column {listed([name])}, holds a NUL character: "
                "the file is damaged or is no text. Write it again from its source."
            )


def _plain_entities(cell: str) -> str:
    """The cell with its HTML entities as the characters they mean, doubly escaped ones too."""
    for _ in range(2):
        cell = _ENTITY.sub(_character, cell)
    return cell


def _character(entity: re.Match[str]) -> str:
    # html.unescape alone would also turn an unknown "&ampere;" into "&ere;".
    known = entity[0].startswith("&#") or entity[0][1:] in html5
    return html.unescape(entity[0]) if known else entity[0]


def _mend(cell: str) -> str:
    """The cell without HTML entities, space around it, and runs of space; line breaks stay."""
    lines = re.split(r"\r\n|\r|\n", _plain_entities(cell).strip())
    return "\n".join(" ".join(line.split()) for line in lines)


_Remark = tuple[str, str, str, str]  # column, kind, action, detail


def _mended(name: str, cell: str) -> Iterator[_Remark]:
    """What _mend changes in this cell."""
    plain = _plain_entities(cell)
    if plain != cell:
        entities = sorted(found for found in set(_ENTITY.findall(cell)) if found not in plain)
        yield name, "html_entity", "mended", f"{listed(entities)} written as plain text"
    if plain != _mend(cell):
        detail = f"{len(plain) - len(_mend(cell))} characters of space removed"
        yield name, "stray_space", "mended", detail


def _check_values(row: Row) -> Iterator[_Remark]:
    """Check the course's own columns where the row has them; star_rating becomes an int."""
    for name in NEEDED:
        if row.get(name) == "":
            yield name, "missing_value", "dropped", "the cell is empty"
    if row.get("review_headline") == "":
        yield "review_headline", "missing_headline", "kept", "the cell is empty"
    if "star_rating" in row:
        rating = str(row["star_rating"])
        if _RATING.fullmatch(rating):
            row["star_rating"] = int(rating[0])
        else:
            detail = f"{rating[:40]!r} is no whole number from 1 to 5"
            yield "star_rating", "bad_star_rating", "dropped", detail


def _near_duplicates(kept: list[tuple[int, Row]]) -> list[Finding]:
    """Rows whose body is the same_text as an earlier body of the product.

    A body of n words is the same text as another only if they have n * SAME_TEXT / (2 - SAME_TEXT)
    words in common. So the other one has at least one of its rarest words, as many as may be
    missing and one more; only such pairs are compared.
    """
    findings: list[Finding] = []
    by_product: defaultdict[str, list[Row]] = defaultdict(list)
    # Product and word → places, in by_product, of the rows that have the word.
    places: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
    if not {"product_title", "review_body"} <= kept[0][1].keys():
        return findings
    for line, row in kept:
        product, body = product_of(row), str(row["review_body"])
        earlier = by_product[product]
        words, total = _words(body)
        by_rarity = sorted(words.elements(), key=lambda word: len(places[product, word]))
        missing = int(total * (1 - SAME_TEXT / (2 - SAME_TEXT)) + 1e-9)
        near = {place for word in set(by_rarity[: missing + 1]) for place in places[product, word]}
        candidates = (earlier[place] for place in sorted(near))
        original = next(
            (one for one in candidates if same_text(body, str(one["review_body"]))), None
        )
        if original is not None:
            detail = f"nearly the text of {listed([str(original['review_id'])])}, same product"
            findings.append(
                Finding(
                    line, str(row["review_id"]), "review_body", "near_duplicate", "kept", detail
                )
            )
        for word in words:
            places[product, word].append(len(earlier))
        earlier.append(row)
    return findings
