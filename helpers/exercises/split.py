"""Exercises of notebook 03: parts and their jobs, leaks, a split by product, enough test rows."""

import copy
import inspect
import math
import random
from collections.abc import Callable
from types import CodeType
from typing import Any

from helpers.data.split import leaked_rows
from helpers.data.table import group_key
from helpers.evaluation.uncertainty import wilson_interval
from helpers.exercises.exercise import Case, Exercise, altered, wrong_answers

NOTEBOOK = "03_split"

Row = dict[str, Any]


def _rows(*products: str) -> list[Row]:
    """A row for each title, with an id and a department."""
    departments = ("kitchen", "garden")
    return [
        {
            "review_id": f"r{number}",
            "product_title": product,
            "department": departments[len(product) % 2],
        }
        for number, product in enumerate(products, start=1)
    ]


# ---- Which part for which job

_JOBS = {
    "change the weights": "train",
    "choose between two templates": "validation",
    "find solved examples for a prompt": "train",
    "decide how long to train": "validation",
    "report how good the model is": "test",
}
_WHY_NOT = {
    ("train", "validation"): "The model has seen these rows, so they flatter it.",
    ("train", "test"): "The model has seen these rows, so they flatter it.",
    ("validation", "train"): "What is shown to the model can no longer be used to choose.",
    ("validation", "test"): "Every choice was made with these rows, so their score is too good.",
    ("test", "train"): "A test row that the model has seen can no longer test it.",
    ("test", "validation"): "Then the test score is that of the luckiest choice.",
}


def _judge_jobs(given: dict[str, str]) -> str | None:
    if not isinstance(given, dict) or given.keys() != _JOBS.keys():
        return "keep the five jobs as they are, and write a part after each."
    for job, right in _JOBS.items():
        part = given[job]
        if part not in ("train", "validation", "test"):
            return f'after "{job}", write "train", "validation" or "test".'
        if part != right:
            return f"{job}: not with the {part} rows. {_WHY_NOT[part, right]}"
    return None


WHICH_PART = Exercise(
    name="which_part",
    notebook=NOTEBOOK,
    title="Which part for which job?",
    minutes=2,
    difficulty=1,
    judge=_judge_jobs,
    answer="which_part = {\n" + "".join(f'    "{j}": "{p}",\n' for j, p in _JOBS.items()) + "}",
    mistakes=wrong_answers(
        {job: "test" if part == "validation" else part for job, part in _JOBS.items()},
        "You choose with the test rows. What is left for the score at the very end?",
        {job: "validation" if part == "test" else part for job, part in _JOBS.items()},
        "You report the score that you used to choose. The twenty guessers show what that is "
        "worth.",
        _JOBS | {"find solved examples for a prompt": "validation"},
        "An example with its answer in the prompt is something that the model learns from.",
        dict.fromkeys(_JOBS, "train"),
        "With one part for everything, nearest neighbour would be the best method of all.",
    ),
    hints=(
        "Ask of each job: does the model see the answers? Do I choose by the score?",
        'Only "report how good the model is" is `"test"`. What changes weights or is shown in a '
        'prompt is `"train"`, and what you choose by a score is `"validation"`.',
    ),
)

# ---- Spot the leak


def _as_spelled(train: list[Row], test: list[Row], column: str) -> list[Row]:
    known = {row[column] for row in train}
    return [row for row in test if row[column] in known]


def _only_values(train: list[Row], test: list[Row], column: str) -> list[str]:
    return sorted({group_key(row[column]) for row in leaked_rows(train, test, column)})


def _one_each(train: list[Row], test: list[Row], column: str) -> list[Row]:
    first = {group_key(row[column]): row for row in reversed(leaked_rows(train, test, column))}
    return [row for row in test if row in first.values()]


def _leak_cases() -> list[Case]:
    few = _rows("Kettle", "Rake", "Kettle")
    many = _rows("Kettle", "Rake", "Lamp", "Rake", "Mug", "Rake", "Lamp")
    spelled = _rows("Garden Hose", "Lamp", "GARDEN HOSE")
    title = "product_title"
    return [
        Case((few[:1], few[1:2], title), "Another product, so train leaks nothing: an empty list."),
        Case((few[:1], few[2:], title), "Another review, but of the same product."),
        Case(
            (many[:3], many[3:], title),
            "Each test row counts, even a second one of the same product.",
        ),
        Case((spelled[:2], spelled[2:], title), "Is a title in capitals another product?"),
        Case((few[:1], few[1:2], "department"), "Another product, but of the same department."),
    ]


LEAKED_ROWS = Exercise(
    name="leaked_rows",
    notebook=NOTEBOOK,
    title="Spot the leak",
    minutes=5,
    difficulty=1,
    reference=leaked_rows,
    cases=_leak_cases(),
    mistakes=wrong_answers(
        lambda train, test, column: leaked_rows(train, test, "review_id"),
        "You find no row in any case. If you look for whole reviews: none is in both parts. "
        "Compare what group_key makes of row[column], on both sides.",
        _as_spelled,
        "Nearly. One product may be spelled in two ways; group_key(row[column]) makes them "
        "the same.",
        lambda train, test, column: leaked_rows(train, test, "department"),
        "Every department is in every part, and has to be. Which column names the thing that "
        "a review is about?",
        lambda train, test, column: leaked_rows(train, test, "product_title"),
        "Compare the column that your function is given: row[column].",
        lambda train, test, column: leaked_rows(test, train, column),
        "These are rows of train. Which part does the score come from?",
        _only_values,
        "These are products. The question is which test rows are known.",
        _one_each,
        "A product may have several test rows; train gives away all of them.",
    ),
    hints=(
        "First collect what train knows: a set of products.",
        "`known = {group_key(row[column]) for row in train}` is that set. Then keep each test "
        "row whose product is in it: `[row for row in test if group_key(row[column]) in known]`.",
    ),
)

# ---- Split by product


def hold_out(rows: list[Row], share: float, seed: int) -> tuple[list[Row], list[Row]]:
    """Rows to keep and rows held out; every product is wholly on one side."""
    products = sorted({group_key(row["product_title"]) for row in rows})
    random.Random(seed).shuffle(products)
    out = set(products[: round(share * len(products))])
    kept = [row for row in rows if group_key(row["product_title"]) not in out]
    held_out = [row for row in rows if group_key(row["product_title"]) in out]
    return kept, held_out


def _hold_out_in_place(rows, share, seed):
    result = hold_out(list(rows), share, seed)
    random.Random(seed).shuffle(rows)
    return result


def _judge_hold_out(attempt) -> str | None:
    plain = _rows(*"Kettle Rake Kettle Lamp Mug Rake Lamp Kettle Pan Mug Jug Pan Jug Vase".split())
    several = _rows(*(f"{name} {number}" for number in range(8) for name in ("Mug", "MUG")))
    for rows, share in ((plain, 0.25), (several, 0.25), (plain, 0.5)):
        wrong = _wrong_with(attempt, rows, share)
        if wrong:
            names = len({group_key(row["product_title"]) for row in rows})
            return f"hold_out(rows, {share}, seed), {len(rows)} rows of {names} products: {wrong}"
    results = [attempt(copy.deepcopy(several), 0.5, seed) for seed in range(6)]
    if all(result == results[0] for result in results):
        return "six seeds all give the same split."
    again = [attempt(copy.deepcopy(several), 0.5, seed) for seed in range(6)]
    if again != results:
        return "called twice with the same seed, it gives two different splits."
    if _depends_on_hashes(attempt):
        return "run in another Python process, it gives a different split for the same seed."
    return None


def _depends_on_hashes(attempt: Callable) -> bool:
    """Whether titles in the same order, but with other hashes, are split in another way.

    An attempt that computes a digest of the titles itself is not tried: that stays the same.

    The hashes of texts, and so the order of a set, stay the same within a process and differ
    between processes. A letter before each title changes its hash and no order by name or place.
    """
    code = getattr(attempt, "__code__", None)
    if code and _names(code) & {"hashlib", "zlib", "sha256", "sha1", "md5", "crc32"}:
        return False
    titles = "Kettle Rake Kettle Lamp Mug Pan Jug Vase Rake Fork Cup Bowl Pot".split()
    splits = []
    for letter in "abcde":
        rows = _rows(*(letter + title for title in titles))
        held = [attempt(copy.deepcopy(rows), 0.5, seed)[1] for seed in range(3)]
        splits.append([[row["review_id"] for row in part] for part in held])
    return any(split != splits[0] for split in splits)


def _names(code: CodeType) -> set[str]:
    """The names that a function uses, and those of the functions inside of it."""
    inner = [_names(one) for one in code.co_consts if isinstance(one, CodeType)]
    return {*code.co_names}.union(*inner)


def _wrong_with(attempt, rows: list[Row], share: float) -> str | None:
    given = copy.deepcopy(rows)
    result = attempt(given, share, 0)
    if given != rows:
        return "the function changed the list that it was given."
    pair = isinstance(result, tuple | list) and len(result) == 2
    if not pair or not all(isinstance(part, tuple | list) for part in result):
        return "it has to return two lists: return kept, held_out."
    kept, held_out = map(list, result)
    if sorted(str(row) for row in kept + held_out) != sorted(map(str, rows)):
        return "every row has to be in exactly one of the two lists, unchanged."
    sides = [{group_key(row["product_title"]) for row in part} for part in (kept, held_out)]
    if sides[0] & sides[1]:
        how = " in two spellings" if rows[0]["product_title"].lower() == "mug 0" else ""
        return f"a product is on both sides{how}."
    wanted = round(share * len(sides[0] | sides[1]))
    if len(sides[1]) != wanted:
        return f"{len(sides[1])} products are held out. The share asks for {wanted}."
    return None


HOLD_OUT = Exercise(
    name="hold_out",
    notebook=NOTEBOOK,
    title="Split whole products",
    minutes=10,
    difficulty=3,
    judge=_judge_hold_out,
    answer="import random\n\nfrom helpers.data import group_key\n\n\n"
    + inspect.getsource(hold_out).replace("list[Row]", "list[dict]"),
    mistakes=wrong_answers(
        altered(hold_out, {'group_key(row["product_title"])': 'row["review_id"]'}),
        "You split the rows, so two reviews of one product can be separated. Split the products.",
        altered(hold_out, {'group_key(row["product_title"])': 'row["product_title"]'}),
        "A title in capitals is not another product. group_key makes the spellings the same.",
        altered(hold_out, {"sorted(": "list("}),
        "A set has a different order in every run of Python, because the hashes of strings "
        "change. Then the same seed shuffles a different list. Sort the products before you "
        "shuffle them.",
        altered(hold_out, {"random.Random(seed).shuffle(products)": ""}),
        "Which products are held out depends on nothing but their order. Shuffle them, with "
        "the seed.",
        lambda rows, share, seed: hold_out(rows, share, random.SystemRandom().randrange(10**9)),
        "Nobody could repeat your split. random.Random(seed) gives the same random numbers "
        "every time.",
        lambda rows, share, seed: hold_out(rows, share, seed)[::-1],
        "Are the two lists in the right order? The larger one is the one to keep.",
        _hold_out_in_place,
        "`rows` is not as it was: random.shuffle and .sort work in place, and so does writing into "
        "a row. Work on a list of your own.",
    ),
    hints=(
        "Shuffle and cut a list of products, not of rows. Sort it first, because a set has a "
        "different order in every run.",
        '`products = sorted({group_key(row["product_title"]) for row in rows})` is the list, and '
        "`random.Random(seed).shuffle(products)` shuffles it the same way for the same seed.",
        "The first of them are held out: `out = set(products[: round(share * len(products))])`. "
        "Then divide the rows into two lists by their product.",
    ),
)

# ---- How many rows


def rows_needed(share: float, width: float) -> int:
    """The least number of rows whose 95 % interval is at most this wide, both from 0 to 1."""
    n = 1
    while True:
        low, high = wilson_interval(round(share * n), n)
        if high - low <= width:
            return n
        n += 1


ROWS_NEEDED = Exercise(
    name="rows_needed",
    notebook=NOTEBOOK,
    title="How many test rows do you need?",
    minutes=5,
    difficulty=2,
    reference=rows_needed,
    cases=(
        Case((0.75, 0.5), "An interval this wide needs few rows. Try n = 1, 2, 3 and so on."),
        Case((0.75, 0.2), "Is the interval really too wide with one row fewer?"),
        Case((0.9, 0.1), "The share matters as well."),
        Case((0.5, 0.08), "Half the width takes about four times the rows."),
    ),
    mistakes=wrong_answers(
        lambda share, width: rows_needed(share, width) - 1,
        "With so few rows the interval is still too wide. You need one more.",
        lambda share, width: rows_needed(share, 2 * width),
        "The width goes from low to high, not from the share to one side.",
        lambda share, width: math.ceil(share * (1 - share) * (2 * 1.96 / width) ** 2),
        "That is the textbook formula, the share plus or minus so many standard errors. It "
        "comes close, but the interval here is that of wilson_interval.",
        lambda share, width: round(share * rows_needed(share, width)),
        "That is the number of right answers. How many rows does that take?",
        lambda share, width: rows_needed(share, min(1.0, 100 * width)),
        "Widths go from 0 to 1 here: do not mix percentage points with shares.",
    ),
    hints=(
        "Try 1 row, then 2, then 3 …, and stop at the first interval that is narrow enough.",
        "`low, high = wilson_interval(round(share * n), n)` is the interval for `n` rows. Count "
        "`n` up from 1, and return it with `if high - low <= width: return n`.",
    ),
)
