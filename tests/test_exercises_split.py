"""The check of `hold_out`: what depends on the order of a set is no split that can be repeated."""

import hashlib
import os
import random
import subprocess
import sys

import pytest

from helpers.data import group_key
from helpers.exercises import split, verdict
from helpers.profiles import ROOT

UNSORTED = """
import random
from helpers.data import group_key

def hold_out(rows, share, seed):
    names = list({group_key(row["product_title"]) for row in rows})
    random.Random(seed).shuffle(names)
    out = set(names[: round(share * len(names))])
    kept = [row for row in rows if group_key(row["product_title"]) not in out]
    return kept, [row for row in rows if group_key(row["product_title"]) in out]
"""
VERDICTS = """
from helpers.exercises import split
from helpers.exercises.verdict import assess

for source in (unsorted, unsorted.replace("list(", "sorted("), split.HOLD_OUT.answer):
    namespace = {}
    exec(source, namespace)
    print(assess(split.HOLD_OUT, namespace["hold_out"]).text.splitlines())
print([row["review_id"] for row in namespace["hold_out"](split._rows(*"abcdefgh"), 0.5, 0)[1]])
exec(unsorted)
print([row["review_id"] for row in hold_out(split._rows(*"abcdefgh"), 0.5, 0)[1]])
"""


def test_the_verdict_is_the_same_in_every_process_although_the_order_of_sets_is_not():
    printed = []
    for seed in ("0", "1"):
        done = subprocess.run(
            [sys.executable, "-c", f"unsorted = '''{UNSORTED}'''\n{VERDICTS}"],
            cwd=ROOT,
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        printed.append(done.stdout.splitlines())
    first = printed[0]
    assert first[0].startswith("['not yet: run in another Python process") and "Sort" in first[0]
    assert first[1] == first[2] == "['right']"
    assert all(lines[:4] == first[:4] for lines in printed)
    assert len({lines[4] for lines in printed}) > 1, "here the order of sets made no difference"


def cut(names, rows, share, seed, key):
    random.Random(seed).shuffle(names)
    out = set(names[: round(share * len(names))])
    return [r for r in rows if key(r) not in out], [r for r in rows if key(r) in out]


def in_order_of_appearance(rows, share, seed):
    names = list(dict.fromkeys(group_key(row["product_title"]) for row in rows))
    return cut(names, rows, share, seed, lambda row: group_key(row["product_title"]))


def spelled_by_hand(rows, share, seed):
    names = sorted({row["product_title"].upper() for row in rows})
    return cut(names, rows, share, seed, lambda row: row["product_title"].upper())


def by_digest(rows, share, seed):
    names = {group_key(row["product_title"]) for row in rows}
    names = sorted(names, key=lambda name: hashlib.sha256(f"{seed} {name}".encode()).digest())
    out = set(names[: round(share * len(names))])
    sides = [[r for r in rows if (group_key(r["product_title"]) in out) == o] for o in (0, 1)]
    return sides[0], sides[1]


@pytest.mark.parametrize("attempt", [in_order_of_appearance, spelled_by_hand, by_digest])
def test_every_split_that_can_be_repeated_is_right(attempt):
    assert verdict.assess(split.HOLD_OUT, attempt).text == verdict.RIGHT


def unsorted_by_hand(rows, share, seed):
    names = [*{f"{row['product_title']}".upper() for row in rows}]
    return cut(names, rows, share, seed, lambda row: row["product_title"].upper())


def by_hash(rows, share, seed):
    names = sorted({group_key(row["product_title"]) for row in rows}, key=hash)
    return cut(names, rows, share, seed, lambda row: group_key(row["product_title"]))


@pytest.mark.parametrize("attempt", [unsorted_by_hand, by_hash])
def test_what_depends_on_hashes_is_told(attempt):
    text = verdict.assess(split.HOLD_OUT, attempt).text
    assert text.startswith("not yet: run in another") and "Sort the products" in text
