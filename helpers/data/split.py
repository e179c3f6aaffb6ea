"""Train, validation and test: groups on one side, leaks counted, the test set locked."""

import hashlib
import json
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from datasets import Dataset, DatasetDict

from helpers.data.table import KnownTexts, group_key, is_empty
from helpers.errors import CourseError
from helpers.files import write_whole

PARTS = ("train", "validation", "test")
SHARES = (0.70, 0.15, 0.15)
Stratum = tuple[tuple[str, ...], tuple]  # columns, and the values that a row has in them


class SplitError(CourseError):
    """Rows that cannot be split as asked, or a locked test set that cannot be opened."""


@dataclass(frozen=True)
class Leaks:
    """What the training rows already tell about the test rows, or those of another part.

    group: the column of groups. same_group: number of test rows whose group is also in train.
    copies: pairs of row_id, a test row and the train row whose text it repeats.
    note: how texts were compared, where that was not each with each. part: whose rows they are.
    """

    test_rows: int
    group: str | None
    same_group: int
    copies: tuple[tuple[str, str], ...]
    note: str = ""
    part: str = "test"

    def __str__(self) -> str:
        about = f"{self.same_group} have a {self.group} that is also in train, and "
        nearly = f", or nearly within one {self.group}" if self.group else " or nearly"
        return (
            f"Of {self.test_rows} {self.part} rows, {about * bool(self.group)}{len(self.copies)} "
            f"repeat the text of a train row, word for word{nearly}. {self.note}".strip()
        )


def split_by_group(
    table: Dataset,
    group: str | None = None,
    stratify: Sequence[str] = (),
    seed: int = 0,
) -> DatasetDict:
    """Split so that all rows with the same value in the column `group` land in the same part.

    Without a group column, and where its cell is empty, a row is a group of its own. The parts are
    also alike: each has nearly its share (SHARES) of all rows, of the rows of each value of each
    `stratify` column, and of each combination of these values. The groups, the largest first, go
    one by one to the part where they fit best; then single groups move as long as that makes the
    parts more alike. Each part is shuffled. The same rows and seed give the same split. (A greedy
    method of our own; scikit-learn's StratifiedGroupKFold has the same aim.)

    Raises SplitError: no rows, a missing column, a class (a value of a stratify column) that cannot
    be in every part, an empty part, validation or test rows of a single group, and a part that
    misses its share by more than the largest of these: two points (0.02), one row, the largest
    group (of which at most ten points count).
    """
    _check(table, group, *stratify)
    values = {
        column: [str(c).strip() if isinstance(c, str | list | dict) else c for c in table[column]]
        for column in stratify
    }
    groups: dict[str, list[int]] = defaultdict(list)
    for i, value in enumerate(table[group] if group else [None] * len(table)):
        groups[group_key(value) or f"\0row {i:09}"].append(i)
    rng = random.Random(seed)
    names = sorted(groups)
    rng.shuffle(names)
    names.sort(key=lambda name: -len(groups[name]))
    # The parts should be alike in all rows (no column), each column, and all columns together.
    column_sets = sorted({(), *((column,) for column in stratify), tuple(stratify)})
    counts = {  # of each group: how many rows it has in each Stratum
        name: Counter(
            (columns, tuple(values[column][i] for column in columns))
            for i in groups[name]
            for columns in column_sets
        )
        for name in names
    }
    part_of = _assign(names, counts)

    parts: list[list[int]] = [[] for _ in PARTS]
    for i, part in sorted((i, part_of[name]) for name in names for i in groups[name]):
        parts[part].append(i)
    _check_parts(parts, values, groups, group)
    for part in parts:
        rng.shuffle(part)
    return DatasetDict({name: table.select(rows) for name, rows in zip(PARTS, parts, strict=True)})


def leaked_rows(train: Iterable[Mapping], test: Iterable[Mapping], column: str) -> list[dict]:
    """The test rows whose value in the column is also in train, in their order.

    Values that differ in case or space are one (table.group_key); an empty one is in no train.
    """
    known = {group_key(row[column]) for row in train} - {""}
    return [dict(row) for row in test if group_key(row[column]) in known]


def leaks(
    splits: DatasetDict, group: str | None = None, texts: Sequence[str] = (), part: str = "test"
) -> Leaks:
    """Count the rows of test, or another part, that train gives away: by group, by repeated text.

    texts: columns of text. A test row repeats a train row if their texts in one of these columns
    have the very same words, or if both rows are of one group and table.same_text holds (a repost,
    with or without small edits). Without a group column, all rows are one group here.

    Raises SplitError: no training rows, a column that is not there.
    """
    train, test = splits["train"], splits[part]
    _check(train, group, *texts)

    def groups_of(part: Dataset) -> list[str]:
        return [group_key(value) for value in part[group]] if group else [""] * len(part)

    train_groups, test_groups = groups_of(train), groups_of(test)
    sizes = Counter(train_groups)
    pairs = sum(sizes[one] for one in test_groups) * len(texts)
    copies: dict[str, str] = {}
    note = ""
    for column in texts:
        known = KnownTexts(pairs)
        note = known.limit
        for text, row_id, name in zip(train[column], train["row_id"], train_groups, strict=True):
            known.add(text, row_id, name)
        for text, row_id, name in zip(test[column], test["row_id"], test_groups, strict=True):
            if original := known.find(text, name):
                copies.setdefault(row_id, original)
    same = sum(bool(one) and one in sizes for one in test_groups)
    return Leaks(len(test), group, same, tuple(copies.items()), note, part)


# The locked test set


def lock_test_set(test: Dataset, path: str | Path) -> None:
    """Write down which rows are the test set (JSON: their SHA-256 and row ids), in a file that
    counts how often they are opened.

    It is a promise to yourself and no lock of iron. Locking the same rows again changes nothing.
    Raises SplitError: other rows are locked there already, no rows.
    """
    if not len(test):
        raise SplitError("There are no test rows to lock. Split the table first.")
    if Path(path).exists():
        _read_lock(Path(path), test)
    else:
        _write_lock(path, {"sha256": _digest(test), "openings": [], "row_ids": test["row_id"][:]})


def open_test_set(path: str | Path, test: Dataset) -> int:
    """Count one more opening of the locked test set; returns how many there were.

    test: the test part of the split in force. It must be the rows that were locked, in the same
    order: after a change of the table, its cleaning or the split, some of the locked rows may have
    become training rows.

    Raises SplitError: no such file, a file that is no locked test set, other rows than these.
    """
    facts = _read_lock(Path(path), test)
    facts["openings"].append(datetime.now(UTC).isoformat(timespec="seconds"))
    _write_lock(path, facts)
    return len(facts["openings"])


def _digest(rows: Dataset) -> str:
    text = json.dumps(list(rows), ensure_ascii=False, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _read_lock(path: Path, expected: Dataset) -> dict:
    """What the file says, if it is a lock of the expected rows."""
    if not path.exists():
        raise SplitError(
            f"There is no locked test set {path}. Make it with lock_test_set, as notebook 03 does."
        )
    try:
        facts = json.loads(path.read_text("utf-8"))
        digest, locked, times = facts["sha256"], facts["row_ids"], len(facts["openings"])
    except (OSError, ValueError, KeyError, TypeError):
        raise SplitError(
            f"The file {path} is not a locked test set, or it is damaged. Delete it and lock the "
            "test set again, as notebook 03 does."
        ) from None
    if digest != _digest(expected):
        common = len({*map(str, locked)} & {*expected["row_id"]})
        raise SplitError(
            f"Another test set is locked in {path}: {_number(len(locked), 'row')}, of which "
            f"{common} are, by their row_id, among the {len(expected)} test rows at hand; the "
            "table, its cleaning or the split has changed. It was opened "
            f"{_number(times, 'time')}. Changing the test set after results were seen makes them "
            "worthless: go back to the rows that were locked. If you do start over, delete that "
            "file and the results that belong to it."
        )
    return facts


def _write_lock(path: str | Path, facts: dict) -> None:
    write_whole(Path(path), json.dumps(facts, ensure_ascii=False, indent=1))


# The greedy method

# Worth of the first row of a class in a part: above any gain in balance.
_PRESENCE = 1e4


def _assign(names: list[str], counts: dict[str, Counter[Stratum]]) -> dict[str, int]:
    """The part of each group: greedy in the order of names, then moved while that helps.

    The cost of a part is the sum over the strata of (rows - wanted)^2 / wanted, as in the
    chi-squared statistic: two rows too many weigh more in a small stratum. A part without any
    row of a class costs _PRESENCE more.
    """
    totals: Counter[Stratum] = Counter()
    for count in counts.values():
        totals.update(count)
    wanted = [{stratum: share * n for stratum, n in totals.items()} for share in SHARES]
    have: list[Counter[Stratum]] = [Counter() for _ in SHARES]

    def rise(part: int, name: str) -> float:
        """How much the cost of the part rises when the group comes to it."""
        total = 0.0
        for stratum, n in counts[name].items():
            now, goal = have[part][stratum], wanted[part][stratum]
            # ((now + n - goal)^2 - (now - goal)^2) / goal
            total += (2 * n * (now - goal) + n * n) / goal
            if now == 0 and len(stratum[0]) < 2:  # all rows or a class, not a combination
                total -= _PRESENCE
        return total

    def best(name: str) -> int:
        return min(range(len(SHARES)), key=lambda part: rise(part, name))

    part_of = {}
    for name in names:
        part_of[name] = best(name)
        have[part_of[name]].update(counts[name])
    moved = True
    while moved:
        moved = False
        for name in names:
            here = part_of[name]
            have[here].subtract(counts[name])
            there = best(name)
            if rise(there, name) < rise(here, name) - 1e-6:
                part_of[name] = there
                moved = True
            have[part_of[name]].update(counts[name])
    return part_of


# Checks


def _check(table: Dataset, *columns: str | None) -> None:
    if not len(table):
        raise SplitError("There are no rows. Load a table, or look at the step before this one.")
    for column in columns:
        if column and column not in table.column_names:
            raise SplitError(
                f"The table has no column {column} to split by; it has "
                f"{', '.join(table.column_names)}. Correct group or stratify in the task file."
            )


def _check_parts(
    parts: list[list[int]],
    values: dict[str, list],
    groups: dict[str, list[int]],
    group: str | None,
) -> None:
    """Refuse a class that is not in every part, and parts that are far from their shares."""
    for column, cells in values.items():
        classes = [{cells[i] for i in part} for part in parts]
        for value in dict.fromkeys(cells):  # each value once, in the order of the table
            if is_empty(value):  # no class, so it need not be in every part
                continue
            lacking = [name for name, here in zip(PARTS, classes, strict=True) if value not in here]
            if lacking:
                size = _number(cells.count(value), "row")
                if group:
                    number = sum(any(cells[i] == value for i in rows) for rows in groups.values())
                    size += f" with {_number(number, 'value')} of {group}"
                raise SplitError(
                    f"The class {column} = {value!r:.60} has {size}, too few to be in each of "
                    f"{', '.join(PARTS)}: {lacking[0]} would have none of it. Add rows, combine it "
                    f"with another class, or leave {column} out of stratify."
                )
    total, largest = sum(map(len, parts)), max(map(len, groups.values()))
    allowed = max(0.02, 1 / total, min(largest / total, 0.10)) + 1e-9
    why = "there are so few"
    if group:
        why = f"rows with one {group} stay together and the largest group has "
        why += _number(largest, "row")
    for name, part, share in zip(PARTS, parts, SHARES, strict=True):
        if not part or abs(len(part) / total - share) > allowed:
            shares = " / ".join(f"{100 * one:g} %" for one in SHARES)
            raise SplitError(
                f"These {total} rows cannot be split into {shares}: {name} would have {len(part)} "
                f"of them, because {why}. Add rows, or group them by another column."
            )
    found = {row: name for name, rows in groups.items() for row in rows}
    scored = list(zip(PARTS, parts, strict=True))[1:]  # validation and test
    for name, part in scored if group else ():
        if len({found[row] for row in part}) < 2:
            raise SplitError(
                f"All rows of {name} have one value of {group}, so no interval could be computed. "
                "Add rows with other values, or group by another column."
            )


def _number(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
