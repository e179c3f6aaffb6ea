"""Train, validation and test: whole products on one side, leaks counted, the test set sealed."""

import hashlib
import json
import math
import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from helpers.errors import CourseError
from helpers.files import write_whole
from helpers.table import Row, product_of, same_text

PARTS = ("train", "validation", "test")
SHARES = (0.70, 0.15, 0.15)


class SplitError(CourseError):
    """Rows that cannot be split as asked, or a sealed test set that cannot be opened."""


@dataclass(frozen=True)
class Split:
    """The rows of a table in three parts; every row is in exactly one."""

    train: list[Row]
    validation: list[Row]
    test: list[Row]


@dataclass(frozen=True)
class Leaks:
    """What the training rows already tell about the test rows.

    same_product: number of test rows whose product is also in train.
    reposts: pairs of review_id, a test row and the train row whose text it repeats.
    """

    test_rows: int
    same_product: int
    reposts: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        return (
            f"Of {self.test_rows} test rows, {self.same_product} are about a product that is also "
            f"in train, and {len(self.reposts)} repeat the text of a train row."
        )


def split_by_product(
    rows: Sequence[Row],
    shares: Sequence[float] = SHARES,
    stratify: Sequence[str] = ("department", "star_rating"),
    seed: int = 0,
) -> Split:
    """Split so that all rows of a product land in the same part.

    The parts are also alike: each has nearly its share of all rows, of the rows of each value of
    each `stratify` column, and of each combination of these values. The products, the largest
    first, go one by one to the part where they fit best; then single products move as long as
    that makes the parts more alike. Each part is shuffled. The same rows and seed give the same
    split. (A greedy method of our own; scikit-learn's StratifiedGroupKFold has the same aim.)

    shares: of train, validation and test; positive, with the sum 1. Every part comes within two
        points (0.02) of its share; in a small table, within the rows of its largest product, but
        never more than ten points off.

    Raises SplitError: shares that do not add up, a missing column, a class (a value of a stratify
    column) with fewer rows or products than there are parts or that cannot be in every part,
    products too large for these shares.
    """
    _check(rows, shares, ("product_title", *stratify))
    for (column, value), members in _classes(rows, stratify).items():
        products = {product_of(row) for row in members}
        if len(products) < len(PARTS):
            raise SplitError(
                f"The class {column} = {value!r} has {_number(len(members), 'row')} of "
                f"{_number(len(products), 'product')}. It needs rows of at least {len(PARTS)} "
                f"products, one for each of {', '.join(PARTS)}. Add rows, join it with another "
                f"class, or leave {column} out of stratify."
            )
    rng = random.Random(seed)
    groups = defaultdict(list)
    for row in rows:
        groups[product_of(row)].append(row)
    names = sorted(groups)
    rng.shuffle(names)
    names.sort(key=lambda name: -len(groups[name]))
    counts = {
        name: Counter(stratum for row in groups[name] for stratum in _strata(row, stratify))
        for name in names
    }
    part_of = _assign(names, counts, shares)

    parts: list[list[Row]] = [[] for _ in PARTS]
    for row in rows:
        parts[part_of[product_of(row)]].append(row)
    _check_parts(parts, shares, stratify, largest=max(map(len, groups.values())))
    for part in parts:
        rng.shuffle(part)
    return Split(*parts)


def split_at_random(rows: Sequence[Row], shares: Sequence[float] = SHARES, seed: int = 0) -> Split:
    """Split row by row, whatever the product: the naive way, which leaks where products repeat.

    Raises SplitError: shares that do not add up, too few rows for three parts.
    """
    _check(rows, shares, ())
    shuffled = list(rows)
    random.Random(seed).shuffle(shuffled)
    first = round(shares[0] * len(rows))
    second = round((shares[0] + shares[1]) * len(rows))
    split = Split(shuffled[:first], shuffled[first:second], shuffled[second:])
    if not (split.train and split.validation and split.test):
        raise SplitError(
            f"{_number(len(rows), 'row')} cannot be split into {_percent(shares)} without an "
            "empty part. Add rows, or choose other shares."
        )
    return split


def given_away(train: Sequence[Row], test: Sequence[Row]) -> list[Row]:
    """The test rows whose product is also in train, in their order."""
    known = {product_of(row) for row in train}
    return [row for row in test if product_of(row) in known]


def leaks(split: Split) -> Leaks:
    """Count the test rows that train gives away, by product and by repeated text.

    A repeated text is one of the same product for which table.same_text holds: a repost, with or
    without small edits.

    Raises SplitError: rows without product_title or review_body.
    """
    _check_columns([*split.train, *split.test], ("product_title", "review_body"))
    by_product = defaultdict(list)
    for row in split.train:
        by_product[product_of(row)].append(row)
    reposts = []
    known = given_away(split.train, split.test)
    for row in known:
        for other in by_product[product_of(row)]:
            if same_text(str(row["review_body"]), str(other["review_body"])):
                reposts.append((str(row["review_id"]), str(other["review_id"])))
                break
    return Leaks(len(split.test), len(known), tuple(reposts))


# The sealed test set


def seal(rows: Sequence[Row], path: str | Path) -> None:
    """Write the test rows to a file (JSON) that counts how often it is opened.

    The seal is a promise to yourself and no lock. Sealing the same rows again changes nothing,
    so that a notebook can be run twice; the openings stay counted.

    Raises SplitError: other rows are sealed there already, no rows, a folder that cannot be
    written.
    """
    path = Path(path)
    if not rows:
        raise SplitError("There are no test rows to seal. Split the table first.")
    if path.exists():
        sealed = _read_seal(path)
        if sealed["sha256"] == _digest(list(rows)):
            return
        raise SplitError(
            f"Another test set is sealed in {path} already, and it was opened "
            f"{_number(len(sealed['openings']), 'time')}. Changing the test set after results "
            "were seen makes them worthless. If you do begin anew, delete that file and the "
            "results that belong to it."
        )
    _write(path, {"sha256": _digest(list(rows)), "openings": [], "rows": list(rows)})


def open_sealed(path: str | Path) -> tuple[list[Row], int]:
    """The sealed test rows, and how often they have been opened, this time included.

    The time of each opening is kept in the file.

    Raises SplitError: no such file, a file that is no sealed test set, rows that were changed
    since they were sealed, a file that cannot be written.
    """
    path = Path(path)
    sealed = _read_seal(path)
    sealed["openings"].append(datetime.now(UTC).isoformat(timespec="seconds"))
    _write(path, sealed)
    return sealed["rows"], len(sealed["openings"])


def _digest(rows: list[Row]) -> str:
    text = json.dumps(rows, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _read_seal(path: Path) -> dict:
    try:
        sealed = json.loads(path.read_text("utf-8"))
        digest = _digest(sealed["rows"])
    except FileNotFoundError:
        raise SplitError(
            f"There is no sealed test set {path}. Make it with seal, as notebook 03 does."
        ) from None
    except OSError as error:
        raise SplitError(
            f"The sealed test set {path} cannot be read: {error.strerror}. Make it readable."
        ) from None
    except (ValueError, KeyError, TypeError):
        sealed = None
    well_formed = isinstance(sealed, dict) and {
        key: type(value) for key, value in sealed.items()
    } == {"sha256": str, "openings": list, "rows": list}
    if not well_formed:
        raise SplitError(
            f"The file {path} is no sealed test set, or it is damaged. Delete it and seal the "
            "test set again, as notebook 03 does."
        )
    if digest != sealed["sha256"]:
        raise SplitError(
            f"The sealed test set {path} is damaged: its rows are not those that were sealed "
            "(their SHA-256 differs). Delete it and seal the test set again, as notebook 03 does."
        )
    return sealed


def _write(path: Path, sealed: dict) -> None:
    try:
        write_whole(path, json.dumps(sealed, ensure_ascii=False, indent=1))
    except OSError as error:
        raise SplitError(
            f"The sealed test set {path} cannot be written: {error.strerror}. "
            "Choose a folder with space where you are allowed to write."
        ) from None


# The greedy method

Stratum = tuple[tuple[str, ...], tuple]  # columns, and the values that a row has in them

# Worth of the first row of a class in a part: above any gain in balance.
_PRESENCE = 1e4


def _strata(row: Row, stratify: Sequence[str]) -> list[Stratum]:
    """What the parts should be alike in: all rows, each value of a column, their combination."""
    sets = {(), *((column,) for column in stratify), tuple(stratify)}
    return [(columns, tuple(row[column] for column in columns)) for columns in sorted(sets)]


def _assign(
    names: list[str], counts: dict[str, Counter[Stratum]], shares: Sequence[float]
) -> dict[str, int]:
    """The part of each product: greedy in the order of names, then moved while that helps.

    The cost of a part is the sum over the strata of (rows - wanted)^2 / wanted, as in the
    chi-squared statistic: two rows too many weigh more in a small stratum. A part without any
    row of a class costs _PRESENCE more.
    """
    totals: Counter[Stratum] = Counter()
    for count in counts.values():
        totals.update(count)
    wanted = [{stratum: share * n for stratum, n in totals.items()} for share in shares]
    have: list[Counter[Stratum]] = [Counter() for _ in shares]

    def rise(part: int, name: str) -> float:
        """How much the cost of the part rises when the product comes to it."""
        total = 0.0
        for stratum, n in counts[name].items():
            now, goal = have[part][stratum], wanted[part][stratum]
            total += (2 * n * (now - goal) + n * n) / goal
            if now == 0 and len(stratum[0]) < 2:
                total -= _PRESENCE
        return total

    def best(name: str) -> int:
        return min(range(len(shares)), key=lambda part: rise(part, name))

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


def _check(rows: Sequence[Row], shares: Sequence[float], columns: Sequence[str]) -> None:
    good = len(shares) == len(PARTS) and all(0 < share < 1 for share in shares)
    if not good or not math.isclose(sum(shares), 1, abs_tol=1e-6):
        raise SplitError(
            f"The shares {tuple(shares)} are not three positive numbers with the sum 1. "
            f"Give those of {', '.join(PARTS)}, such as {SHARES}."
        )
    if not rows:
        raise SplitError("There are no rows to split. Read a table first.")
    _check_columns(rows, columns)


def _check_columns(rows: Sequence[Row], columns: Sequence[str]) -> None:
    for column in columns:
        if any(column not in row for row in rows):
            raise SplitError(
                f"The rows have no column {column}. Read the table with it "
                "(read_table(path, columns=...)). Rows that belong to no product can only be "
                "split with split_at_random."
            )


def _classes(rows: Sequence[Row], stratify: Sequence[str]) -> dict[tuple[str, str | int], list]:
    classes = defaultdict(list)
    for row in rows:
        for column in stratify:
            classes[column, row[column]].append(row)
    return classes


def _check_parts(
    parts: list[list[Row]], shares: Sequence[float], stratify: Sequence[str], largest: int
) -> None:
    total = sum(map(len, parts))
    allowed = max(0.02, min(largest / total, 0.10)) + 1e-9
    for name, part, share in zip(PARTS, parts, shares, strict=True):
        if not part or abs(len(part) / total - share) > allowed:
            raise SplitError(
                f"These products cannot be split into {_percent(shares)}: {name} has "
                f"{len(part)} of {total} rows, because a product is never divided and the largest "
                f"has {_number(largest, 'row')}. Add products, or choose other shares."
            )
    for column, value in _classes([row for part in parts for row in part], stratify):
        for name, part in zip(PARTS, parts, strict=True):
            if all(row[column] != value for row in part):
                raise SplitError(
                    f"The class {column} = {value!r} has too few products to be in every part: "
                    f"{name} has none of it. Add rows, join it with another class, or leave "
                    f"{column} out of stratify."
                )


def _number(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def _percent(shares: Sequence[float]) -> str:
    return " / ".join(f"{100 * share:g} %" for share in shares)
