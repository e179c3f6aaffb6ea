"""helpers/splits.py: products stay whole, parts are alike, leaks are counted, the seal holds."""

import json
import random
from collections import Counter
from functools import partial

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn.model_selection import GroupShuffleSplit, StratifiedGroupKFold

from helpers.errors import CourseError
from helpers.splits import (
    PARTS,
    SHARES,
    Leaks,
    Split,
    SplitError,
    leaks,
    open_sealed,
    seal,
    split_at_random,
    split_by_product,
)
from helpers.table import REVIEWS, product_of, read_table
from tests.refusals import refusal

CLASSES = ("department", "star_rating")


@pytest.fixture(scope="module")
def rows():
    return read_table(REVIEWS)[0]


def row(number, product, department="pets", stars=5, body=None):
    return {
        "review_id": f"R{number}",
        "product_title": product,
        "department": department,
        "star_rating": stars,
        "review_headline": "Nice",
        "review_body": body or f"Body number {number}",
    }


def parts_of(split):
    return [split.train, split.validation, split.test]


def ids(part):
    return [one["review_id"] for one in part]


refused = partial(refusal, SplitError)


# By product


@pytest.mark.parametrize("seed", range(5))
def test_course_table_is_split_by_product(rows, seed):
    split = split_by_product(rows, seed=seed)
    assert sorted(sum(map(ids, parts_of(split)), [])) == sorted(ids(rows))
    products = [{product_of(one) for one in part} for part in parts_of(split)]
    assert not products[0] & products[1] | products[0] & products[2] | products[1] & products[2]
    for part, share in zip(parts_of(split), SHARES, strict=True):
        assert abs(len(part) / len(rows) - share) <= 0.02
    assert leaks(split) == Leaks(len(split.test), 0, ())


@pytest.mark.parametrize("seed", range(3))
def test_every_class_has_its_share(rows, seed):
    for part, share in zip(parts_of(split_by_product(rows, seed=seed)), SHARES, strict=True):
        for column in CLASSES:
            whole, here = (Counter(one[column] for one in some) for some in (rows, part))
            for value, n in whole.items():
                assert abs(here[value] / n - share) <= 0.02
        cells = Counter(tuple(one[c] for c in CLASSES) for one in part)
        assert len(cells) == 40


def imbalance(rows, part):
    """How far a part is from the mixture of the whole: half the sum of differences in share."""
    whole, here = (Counter(tuple(one[c] for c in CLASSES) for one in s) for s in (rows, part))
    return sum(abs(here[k] / len(part) - n / len(rows)) for k, n in whole.items()) / 2


def test_at_least_as_balanced_as_scikit_learn(rows):
    """The same property holds for scikit-learn's splits, and ours are no less balanced."""
    groups = np.array([product_of(one) for one in rows])
    cells = np.array([f"{one['department']} {one['star_rating']}" for one in rows])
    theirs = {"shuffle": [], "stratified": []}
    for seed in range(3):
        shuffle = GroupShuffleSplit(1, test_size=0.15, random_state=seed)
        folds = StratifiedGroupKFold(7, shuffle=True, random_state=seed)  # 1/7 is nearly 0.15
        for name, splitter in (("shuffle", shuffle), ("stratified", folds)):
            for train, test in splitter.split(groups, cells, groups):
                assert not set(groups[train]) & set(groups[test])
                theirs[name].append(imbalance(rows, [rows[i] for i in test]))
    ours = [
        imbalance(rows, part)
        for seed in range(3)
        for part in parts_of(split_by_product(rows, seed=seed))[1:]
    ]
    assert np.mean(ours) <= np.mean(theirs["stratified"])
    assert np.mean(ours) <= np.mean(theirs["shuffle"]) / 2


def test_same_seed_same_split_and_other_seed_other_split(rows):
    assert split_by_product(rows, seed=3) == split_by_product(rows, seed=3)
    assert set(ids(split_by_product(rows, seed=3).test)) != set(
        ids(split_by_product(rows, seed=4).test)
    )


def test_products_of_a_part_do_not_depend_on_the_order_of_rows(rows):
    one, other = split_by_product(rows), split_by_product(rows[::-1])
    assert set(ids(one.test)) == set(ids(other.test))


def test_parts_are_shuffled():
    some = [row(n, f"Toy {n}", stars=1 + n // 100) for n in range(500)]
    first = split_by_product(some).train[:50]
    assert {one["star_rating"] for one in first} == {1, 2, 3, 4, 5}


def test_titles_that_differ_in_case_or_space_are_one_product():
    some = [row(n, ("Rope Toy", "rope  toy", " ROPE TOY ")[n % 3]) for n in range(3)]
    some += [row(n, f"Toy {n}") for n in range(3, 30)]
    split = split_by_product(some, stratify=())
    assert (
        sum(any(one["review_id"] in ("R0", "R1", "R2") for one in p) for p in parts_of(split)) == 1
    )


def test_each_part_has_a_rare_class():
    some = [row(n, f"Toy {n // 2}") for n in range(400)]
    some += [row(400 + n, f"Book {n}", "books") for n in range(3)]
    for part in parts_of(split_by_product(some)):
        assert any(one["department"] == "books" for one in part)


@given(
    st.lists(st.tuples(st.integers(0, 30), st.sampled_from("abc"), st.integers(1, 3)), min_size=30),
    st.integers(0, 3),
    st.sampled_from([SHARES, (0.5, 0.25, 0.25), (0.8, 0.1, 0.1)]),
)
def test_a_split_of_any_table_never_shares_a_product(table, seed, shares):
    some = [row(n, f"P{product}", kind, stars) for n, (product, kind, stars) in enumerate(table)]
    try:
        split = split_by_product(some, shares, seed=seed)
    except SplitError as error:
        assert "\n" not in str(error)
        assume(False)
    assert split == split_by_product(some, shares, seed=seed)
    assert sorted(sum(map(ids, parts_of(split)), [])) == sorted(ids(some))
    homes = {(product_of(one), i) for i, part in enumerate(parts_of(split)) for one in part}
    assert len(homes) == len({product for product, _ in homes})
    largest = max(Counter(map(product_of, some)).values())
    for part, share in zip(parts_of(split), shares, strict=True):
        assert abs(len(part) / len(some) - share) <= max(0.02, min(largest / len(some), 0.1)) + 1e-9
        for column in CLASSES:
            assert {one[column] for one in part} == {one[column] for one in some}


@given(
    st.lists(st.tuples(st.text(max_size=8), st.text(max_size=8)), max_size=30),
    st.lists(st.floats(), max_size=4),
)
def test_any_rows_and_shares_are_split_or_refused(table, shares):
    some = [row(n, product, kind) for n, (product, kind) in enumerate(table)]
    for split in (split_by_product, split_at_random):
        for wanted in (shares, SHARES):
            try:
                found = split(some, wanted)
            except SplitError as error:
                assert "\n" not in str(error) and len(str(error)) < 1000
            else:
                assert sorted(sum(map(ids, parts_of(found)), [])) == sorted(ids(some))
                assert found.train and found.validation and found.test


# At random, and what leaks


def test_random_split_has_the_shares_and_leaks(rows):
    split = split_at_random(rows, seed=1)
    assert [len(part) for part in parts_of(split)] == [910, 195, 195]
    assert sorted(sum(map(ids, parts_of(split)), [])) == sorted(ids(rows))
    assert split == split_at_random(rows, seed=1) != split_at_random(rows, seed=2)
    found = leaks(split)
    train = {product_of(one) for one in split.train}
    assert found.same_product == sum(product_of(one) in train for one in split.test) > 150
    # The reposts that the loader reports, where the two rows fell on the two sides.
    near = {
        frozenset((f.row_id, f.detail.split()[4].rstrip(",")))
        for f in read_table(REVIEWS)[1].of_kind("near_duplicate")
    }
    apart = {
        pair
        for pair in near
        if len(pair & set(ids(split.train))) == len(pair & set(ids(split.test))) == 1
    }
    assert {frozenset(pair) for pair in found.reposts} == apart != set()


def test_leaks_are_counted_and_told():
    train = [row(1, "Ball", body="It bounces very high and my dog likes it."), row(2, "Rope")]
    test = [
        row(3, "ball", body="it bounces very high and my dog likes it!"),
        row(4, "Ball", body="Lost on the first day."),
        row(5, "Cup", body="It bounces very high and my dog likes it."),
    ]
    found = leaks(Split(train, [], test))
    assert found == Leaks(3, 2, (("R3", "R1"),))
    assert "Of 3 test rows, 2 " in str(found) and "1 repeat" in str(found)


# What is refused


def test_class_with_too_few_rows():
    some = [row(n, f"Toy {n}") for n in range(40)] + [row(40, "Novel", "books")]
    words = ("department = 'books'", "1 row of 1 product", "Add rows", "stratify")
    refused(lambda: split_by_product(some), *words)


def test_class_with_too_few_products():
    some = [row(n, f"Toy {n}") for n in range(40)]
    some += [row(40 + n, f"Novel {n % 2}", stars=1) for n in range(8)]
    refused(lambda: split_by_product(some), "star_rating = 1", "8 rows of 2 products")


def test_class_whose_products_are_too_large_for_the_smaller_parts():
    some = [row(n, f"Toy {n}") for n in range(30)]
    some += [row(30 + n, f"Book {n % 3}", "books", 1) for n in range(30)]
    refused(lambda: split_by_product(some, (0.9, 0.05, 0.05)), "cannot be split", "largest has 10")


def test_class_that_cannot_be_in_every_part():
    # Books needs products 1, 2, 3 in three parts, and pets 1, 2, 4; then 3 and 4 share a part,
    # which sports forbids.
    needs = {"books": (1, 2, 3), "pets": (1, 2, 4), "sports": (1, 3, 4)}
    some = [row(n, f"Toy {n}", "toys") for n in range(60)]
    some += [row(60, f"Set {n}", kind) for kind, products in needs.items() for n in products]
    words = ("The class department = ", "too few products", "has none of it", "stratify")
    refused(lambda: split_by_product(some, stratify=["department"]), *words)


def test_one_product_with_most_rows():
    some = [row(n, f"Toy {n}") for n in range(10)] + [row(10 + n, "Ball") for n in range(90)]
    words = ("70 % / 15 % / 15 %", "train has 90 of 100", "largest has 90 rows", "Add products")
    refused(lambda: split_by_product(some, stratify=()), *words)
    assert len(split_by_product(some, (0.9, 0.05, 0.05), stratify=()).train) == 90


@pytest.mark.parametrize("split", [split_by_product, split_at_random])
@pytest.mark.parametrize("shares", [(0.7, 0.3), (0.7, 0.2, 0.2), (1.2, -0.1, -0.1), (1, 0, 0)])
def test_shares(rows, split, shares):
    refused(lambda: split(rows, shares), str(shares), "sum 1", ", ".join(PARTS))


@pytest.mark.parametrize("split", [split_by_product, split_at_random])
def test_no_rows(split):
    refused(lambda: split([]), "no rows", "Read a table")


def test_too_few_rows_at_random():
    refused(lambda: split_at_random([row(1, "a"), row(2, "b")]), "2 rows", "empty part", "Add rows")


def test_missing_column():
    some = [{"review_id": "line 2", "question": "Why?"}] * 10
    refused(lambda: split_by_product(some), "product_title", "split_at_random")
    refused(lambda: leaks(Split(some, some, some)), "product_title")
    some = [{"product_title": f"P{n}"} for n in range(10)]
    refused(lambda: split_by_product(some), "department", "columns=")


def test_refusals_are_course_errors():
    assert issubclass(SplitError, CourseError)


# The seal


def test_seal_counts_its_openings(tmp_path, rows):
    path = tmp_path / "new folder" / "test.json"
    seal(rows[:20], path)
    assert open_sealed(path) == (rows[:20], 1)
    assert open_sealed(path) == (rows[:20], 2)
    assert len(json.loads(path.read_text("utf-8"))["openings"]) == 2
    assert [file.name for file in path.parent.iterdir()] == ["test.json"]


def test_sealing_the_same_rows_again_keeps_the_count(tmp_path, rows):
    path = tmp_path / "test.json"
    seal(rows[:20], path)
    open_sealed(path)
    seal([dict(one) for one in rows[:20]], path)
    assert open_sealed(path)[1] == 2


def test_another_test_set_is_not_sealed_over_the_first(tmp_path, rows):
    path = tmp_path / "test.json"
    seal(rows[:20], path)
    open_sealed(path)
    words = ("test.json", "opened 1 time", "delete that file")
    refused(lambda: seal(rows[:19], path), *words)
    assert open_sealed(path) == (rows[:20], 2)


def test_changed_rows_are_noticed(tmp_path, rows):
    path = tmp_path / "test.json"
    seal(rows[:20], path)
    sealed = json.loads(path.read_text("utf-8"))
    sealed["rows"][3]["star_rating"] = 6 - sealed["rows"][3]["star_rating"] % 2
    path.write_text(json.dumps(sealed), encoding="utf-8")
    refused(lambda: open_sealed(path), "test.json", "damaged", "SHA-256", "seal")
    refused(lambda: seal(rows[:20], path), "test.json", "damaged")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"rows": []}', "\ud800"])
def test_what_is_no_seal(tmp_path, text):
    path = tmp_path / "test.json"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    refused(lambda: open_sealed(path), "test.json", "no sealed test set", "Delete it")


def test_half_a_seal(tmp_path, rows):
    path = tmp_path / "test.json"
    seal(rows[:20], path)
    path.write_bytes(path.read_bytes()[:-100])
    refused(lambda: open_sealed(path), "test.json", "damaged")


def test_a_seal_with_any_bit_flipped_or_any_end_missing_is_named(tmp_path, rows):
    path = tmp_path / "test.json"
    seal(rows[:2], path)
    open_sealed(path)
    whole = path.read_bytes()
    draw, refusals = random.Random(0), 0
    for position in range(0, len(whole), 3):
        flipped = bytearray(whole)
        flipped[position] ^= 1 << draw.randrange(8)
        for damaged in (bytes(flipped), whole[:position]):
            path.write_bytes(damaged)
            try:
                # Nothing is said only when the rows are the very same.
                seal(rows[:2], path)
                assert json.loads(damaged)["rows"] == rows[:2]
            except SplitError as error:
                assert "damaged" in str(error)
                refusals += 1
    assert refusals > len(whole) / 2


def test_no_seal(tmp_path):
    refused(lambda: open_sealed(tmp_path / "none.json"), "none.json", "notebook 03")


def test_nothing_to_seal(tmp_path):
    refused(lambda: seal([], tmp_path / "test.json"), "no test rows", "Split")


def test_folders_that_do_not_do(tmp_path, rows):
    (tmp_path / "file").write_text("x")
    refused(lambda: seal(rows[:2], tmp_path / "file" / "test.json"), "cannot be written", "folder")
    refused(lambda: open_sealed(tmp_path), "cannot be read")
