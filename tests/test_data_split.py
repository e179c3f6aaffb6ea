"""helpers/data/split.py: groups stay whole, parts are alike, leaks are counted, the lock holds."""

import hashlib
import json
import random
from collections import Counter
from functools import partial

import numpy as np
import pytest
from datasets import Dataset, DatasetDict
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn.model_selection import GroupShuffleSplit, StratifiedGroupKFold

from helpers.data.split import (
    PARTS,
    SHARES,
    Leaks,
    SplitError,
    leaked_rows,
    leaks,
    lock_test_set,
    open_test_set,
    split_by_group,
)
from helpers.data.table import group_key
from helpers.data.task import load_task
from helpers.errors import CourseError
from tests.refusals import refusal

CLASSES = ("department", "star_rating")
GROUP = "product_title"

refused = partial(refusal, SplitError)
by_product = partial(split_by_group, group=GROUP, stratify=CLASSES)


@pytest.fixture(scope="module")
def task():
    return load_task("opinion")


@pytest.fixture(scope="module")
def rows(task):
    return task.load_table()


def row(number, product, department="pets", stars=5, body=None):
    return {
        "product_title": product,
        "department": department,
        "star_rating": stars,
        "review_body": body or f"Body number {number}",
        "row_id": f"R{number}",
    }


def ids(part):
    return list(part["row_id"])


def digest(values):
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()


def products(part):
    return {group_key(value) for value in part[GROUP]}


# By group


def test_the_split_of_the_course_is_what_it_always_was(task, rows):
    """The same rows in the same order as the course's first split by product."""
    assert {name: digest(ids(part)) for name, part in task.split(rows).items()} == {
        "train": "dd8e2686bad918386d1002dce1fff75f04b337b27e738a37d7e8155484b7dfae",
        "validation": "1acfa8f07b55fa34e1a1881a4843b5c9cee1741cdfdecd2233b275d2ec89397d",
        "test": "ff799a624948b4c24be85108d71bc9de764137fed60c9ad9cbafa4fea8055d00",
    }
    other = task.split(rows, seed=1)["test"]
    assert digest(ids(other)) == "e4d5343634ec381d53003602d571c2e74517acab692354066185353e1c80fafb"


@pytest.mark.parametrize("seed", range(3))
def test_groups_stay_whole_and_every_class_has_its_share(rows, seed):
    splits = by_product(rows, seed=seed)
    assert list(splits) == list(PARTS)
    assert sorted(sum(map(ids, splits.values()), [])) == sorted(ids(rows))
    train, validation, test = map(products, splits.values())
    assert not (train & validation or train & test or validation & test)
    assert leaks(splits, GROUP, ["review_body"]).same_group == 0
    for part, share in zip(splits.values(), SHARES, strict=True):
        assert abs(len(part) / len(rows) - share) <= 0.02
        for column in CLASSES:
            whole, here = Counter(rows[column]), Counter(part[column])
            assert all(abs(here[value] / n - share) <= 0.02 for value, n in whole.items())
        assert len({*zip(*(part[column] for column in CLASSES), strict=True)}) == 40


def imbalance(whole, part):
    """How far a part is from the mixture of the whole: half the sum of differences in share."""
    a, b = (Counter(zip(*(some[c] for c in CLASSES), strict=True)) for some in (whole, part))
    return sum(abs(b[k] / len(part) - n / len(whole)) for k, n in a.items()) / 2


def test_at_least_as_balanced_as_scikit_learn(rows):
    groups = np.array([group_key(value) for value in rows[GROUP]])
    mixed = np.array([f"{a} {b}" for a, b in zip(*(rows[c] for c in CLASSES), strict=True)])
    theirs = {"shuffle": [], "stratified": []}
    for seed in range(3):
        shuffle = GroupShuffleSplit(1, test_size=0.15, random_state=seed)
        folds = StratifiedGroupKFold(7, shuffle=True, random_state=seed)  # 1/7 is nearly 0.15
        for name, splitter in (("shuffle", shuffle), ("stratified", folds)):
            for train, test in splitter.split(groups, mixed, groups):
                assert not set(groups[train]) & set(groups[test])
                theirs[name].append(imbalance(rows, rows.select(test)))
    splits = [by_product(rows, seed=seed) for seed in range(3)]
    ours = [imbalance(rows, s[name]) for s in splits for name in ("validation", "test")]
    assert np.mean(ours) <= np.mean(theirs["stratified"])
    assert np.mean(ours) <= np.mean(theirs["shuffle"]) / 2


def test_parts_do_not_depend_on_the_order_of_rows_and_are_shuffled(rows):
    reverse = rows.select(range(len(rows) - 1, -1, -1))
    assert {*ids(by_product(rows)["test"])} == {*ids(by_product(reverse)["test"])}
    some = Dataset.from_list([row(n, f"Toy {n}", stars=1 + n // 100) for n in range(500)])
    assert {*by_product(some)["train"][:50]["star_rating"]} == {1, 2, 3, 4, 5}


def test_names_that_differ_in_case_or_space_are_one_group():
    some = [row(n, ("Rope Toy", "rope  toy", " ROPE TOY ")[n % 3]) for n in range(3)]
    some += [row(n, f"Toy {n}") for n in range(3, 30)]
    splits = split_by_group(Dataset.from_list(some), GROUP)
    assert sum(bool({"R0", "R1", "R2"} & {*ids(part)}) for part in splits.values()) == 1


@pytest.mark.parametrize("group", [None, GROUP])
def test_without_a_group_each_row_is_one(group):
    some = [row(n, "", department="ab"[n % 2]) for n in range(200)]
    splits = split_by_group(Dataset.from_list(some), group, ["department"])
    assert [len(part) for part in splits.values()] == [140, 30, 30]
    assert [Counter(part["department"])["a"] for part in splits.values()] == [70, 15, 15]


@pytest.mark.parametrize("number", [4, 5, 7, 10, 24])
def test_small_tables_are_split_to_the_row(number):
    some = Dataset.from_list([row(n, "x") for n in range(number)])
    parts = [len(part) for part in split_by_group(some).values()]
    assert sum(parts) == number and min(parts) >= 1
    assert all(abs(n - share * number) <= 1 for n, share in zip(parts, SHARES, strict=True))


def test_each_part_has_a_rare_class_also_one_of_lists():
    some = [row(n, f"Toy {n // 2}", ["a"]) for n in range(400)]
    some += [row(400 + n, f"Book {n}", ["b", "c"]) for n in range(3)]
    for part in by_product(Dataset.from_list(some)).values():
        assert ["b", "c"] in list(part["department"])


@given(
    st.lists(st.tuples(st.integers(0, 30), st.sampled_from("abc"), st.integers(1, 3)), min_size=30),
    st.integers(0, 3),
)
def test_a_split_of_any_table_never_shares_a_group(table, seed):
    some = [row(n, f"P{product}", kind, stars) for n, (product, kind, stars) in enumerate(table)]
    data = Dataset.from_list(some)
    try:
        splits = by_product(data, seed=seed)
    except SplitError as error:
        assert "\n" not in str(error)
        assume(False)
    again = by_product(data, seed=seed)
    assert all(ids(again[name]) == ids(splits[name]) for name in PARTS)
    assert sorted(sum(map(ids, splits.values()), [])) == sorted(ids(data))
    homes = {(product, name) for name, part in splits.items() for product in products(part)}
    assert len(homes) == len(products(data))
    largest = max(Counter(data[GROUP]).values())
    for part, share in zip(splits.values(), SHARES, strict=True):
        assert abs(len(part) / len(some) - share) <= max(0.02, min(largest / len(some), 0.1)) + 1e-9
        assert all({*part[column]} == {*data[column]} for column in CLASSES)


# At random, and what leaks


def test_random_split_leaks(task, rows):
    shuffled = list(range(len(rows)))
    random.Random(0).shuffle(shuffled)
    cuts = {"train": shuffled[:910], "validation": shuffled[910:1105], "test": shuffled[1105:]}
    splits = DatasetDict({name: rows.select(numbers) for name, numbers in cuts.items()})
    found = leaks(splits, GROUP, ["review_body"])
    assert found.same_group == len(leaked_rows(splits["train"], splits["test"], GROUP)) == 180
    # The reposts that the loader reports, where the two rows fell on the two sides.
    near = {
        frozenset((one.row_id, one.detail.split()[-1]))
        for one in task.report().findings
        if one.kind == "near_duplicate"
    }
    sides = [{*ids(splits[name])} for name in ("train", "test")]
    apart = {pair for pair in near if all(len(pair & side) == 1 for side in sides)}
    assert {frozenset(pair) for pair in found.copies} == apart != set()


def both(train, test):
    return DatasetDict(train=Dataset.from_list(train), test=Dataset.from_list(test))


def test_leaks_are_counted_and_told():
    body = "It bounces very high and my dog likes it."
    train = [row(1, "Ball", body=body), row(2, "Rope")]
    test = [
        row(3, "ball", body="it bounces very high and my dog likes it, too!"),
        row(4, "Ball", body="Lost on the first day."),
        row(5, "Cup", body="it likes my dog and bounces very high: it"),
        row(6, "Cup", body=f"{body} So far."),
        row(7, "", body="Another."),
    ]
    splits = both(train, test)
    # Of another group, only a text with the very same words is a copy.
    found = leaks(splits, GROUP, ["review_body"])
    assert found == Leaks(5, GROUP, 2, (("R3", "R1"), ("R5", "R1")))
    assert "Of 5 test rows, 2 have a product_title" in str(found) and "2 repeat" in str(found)
    assert str(found).endswith("word for word, or nearly within one product_title.")
    found = leaks(splits, None, ["review_body"])
    assert found.copies == (("R3", "R1"), ("R5", "R1"), ("R6", "R1"))
    assert str(found).startswith("Of 5 test rows, 3 repeat the text")
    assert leaks(splits).copies == ()
    assert [one["row_id"] for one in leaked_rows(train, test, GROUP)] == ["R3", "R4"]
    assert leaked_rows(splits["train"], splits["test"], GROUP) == test[:2]


def test_leaks_in_the_answer_and_in_many_rows(monkeypatch):
    train = [row(n, "x", body=f"{n} a b c d") for n in range(4)]
    splits = both(train, [row(9, "x", body="d c b a 2"), row(10, "x", body="5 a b c d")])
    assert leaks(splits, None, ["review_body", "department"]).copies[0] == ("R9", "R0")
    monkeypatch.setattr("helpers.data.table.MOST_PAIRS", 7)
    found = leaks(splits, None, ["review_body"])
    assert found.copies == (("R9", "R2"),) and "8 pairs" in str(found)


# What is refused


def table(*some):
    return Dataset.from_list(list(some))


def test_class_with_too_few_rows_or_groups():
    toys = [row(n, f"Toy {n}") for n in range(40)]
    some = table(*toys, row(40, "Novel", "books"))
    words = ("department = 'books'", "1 row with 1 value of product_title", "Add rows", "stratify")
    refused(lambda: by_product(some), *words)
    words = ("department = 'books' has 1 row, too few", "combine it with another class")
    refused(lambda: split_by_group(some, None, ["department"]), *words)
    some = table(*toys, *(row(40 + n, f"Novel {n % 2}", stars=1) for n in range(8)))
    refused(lambda: by_product(some), "star_rating = 1", "8 rows with 2 values")


def test_a_row_without_a_label_is_no_class():
    toys = [row(n, f"Toy {n}") for n in range(40)]
    some = table(*toys, row(40, "Novel", " "), row(41, "Pen", ""))
    assert sum(split_by_group(some, None, ["department"]).num_rows.values()) == 42


def test_space_around_a_label_makes_no_class_of_its_own():
    toys = [row(n, f"Toy {n}") for n in range(40)]
    parts = split_by_group(table(*toys, row(40, "Toy", "pets ")), None, ["department"])
    assert sum(parts.num_rows.values()) == 41


def test_class_that_cannot_be_in_every_part():
    # Books needs products 1, 2, 3 in three parts, and pets 1, 2, 4; then 3 and 4 share a part,
    # which sports forbids.
    needs = {"books": (1, 2, 3), "pets": (1, 2, 4), "sports": (1, 3, 4)}
    some = [row(n, f"Toy {n}", "toys") for n in range(60)]
    some += [row(60, f"Set {n}", kind) for kind, those in needs.items() for n in those]
    words = ("The class department = ", "too few", "would have none of it", "stratify")
    refused(lambda: split_by_group(table(*some), GROUP, ["department"]), *words)


def test_one_group_with_most_rows():
    some = table(*(row(n, f"Toy {n}" if n < 10 else "Ball") for n in range(100)))
    words = ("70 % / 15 % / 15 %", "train would have 90", "largest group has 90 rows", "Add rows")
    refused(lambda: split_by_group(some, GROUP), *words)


def test_too_few_rows():
    refused(lambda: split_by_group(Dataset.from_dict({"t": []})), "no rows", "Load a table")
    refused(lambda: split_by_group(table({"t": 1}, {"t": 2})), "2 rows", "Add rows")


def test_missing_column(rows):
    refused(lambda: split_by_group(rows, "colour"), "no column colour", "product_title", "group")
    refused(lambda: split_by_group(rows, None, ["colour"]), "no column colour")
    refused(lambda: leaks(both(rows.to_list()[:3], rows.to_list()[3:5]), "colour"), "colour")
    assert issubclass(SplitError, CourseError)


# The lock


def test_lock_counts_its_openings(tmp_path, rows):
    path, test = tmp_path / "new folder" / "test.json", rows.select(range(20))
    lock_test_set(test, path)
    for times in (1, 2):
        assert open_test_set(path, test) == times
    lock_test_set(Dataset.from_list(test.to_list()), path)  # the same rows: still counted
    assert open_test_set(path, test) == 3
    assert len(json.loads(path.read_text("utf-8"))["openings"]) == 3
    assert [file.name for file in path.parent.iterdir()] == ["test.json"]


def test_the_test_set_of_another_table_or_split_is_refused(tmp_path, task, rows):
    """Before, whatever lay in the file was opened, training rows included."""
    path = tmp_path / "test.json"
    splits, other = task.split(rows), task.split(rows, seed=1)
    lock_test_set(other["test"], path)
    known = len({*ids(splits["test"])} & {*ids(other["test"])})
    words = (str(path), f"{len(other['test'])} rows, of which {known} are", "opened 0 times")
    refused(lambda: open_test_set(path, splits["test"]), *words, "delete that file")
    refused(lambda: lock_test_set(splits["test"], path), *words)
    assert open_test_set(path, other["test"]) == 1


@pytest.mark.parametrize("change", ["cell", "order", "fewer", "column"])
def test_changed_rows_are_another_test_set(tmp_path, rows, change):
    path, test = tmp_path / "test.json", rows.select(range(20))
    lock_test_set(test, path)
    some = test.to_list()
    if change == "cell":
        some[3]["star_rating"] = 6 - some[3]["star_rating"] % 2
    elif change == "column":
        some = [{**one, "new": 1} for one in some]
    else:
        some = some[::-1] if change == "order" else some[1:]
    refused(lambda: open_test_set(path, Dataset.from_list(some)), "Another test set")
    assert json.loads(path.read_text("utf-8"))["openings"] == []


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"row_ids": []}', "\ud800"])
def test_what_is_no_lock(tmp_path, rows, text):
    path = tmp_path / "test.json"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    refused(lambda: open_test_set(path, rows), "test.json", "not a locked test set", "Delete it")


def test_other_refusals_of_the_lock(tmp_path, rows):
    refused(lambda: open_test_set(tmp_path / "none.json", rows), "none.json", "notebook 03")
    refused(lambda: lock_test_set(rows.select([]), tmp_path / "test.json"), "no test rows")
    (tmp_path / "file").write_text("x")
    path = tmp_path / "file" / "test.json"
    refusal(CourseError, lambda: lock_test_set(rows, path), "could not be written", "folder")


def test_a_part_with_a_single_group_is_refused():
    some = Dataset.from_list([row(n, f"Toy {n // 30}") for n in range(150)])
    refused(lambda: split_by_group(some, GROUP), "one value of product_title", "another column")
