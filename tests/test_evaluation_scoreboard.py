"""The scoreboard: scores, paired changes and what follows from them."""

import json

import pytest
from datasets import Dataset

from helpers.data import load_task
from helpers.evaluation import (
    ScoringError,
    boards_json,
    boards_page,
    mean_interval,
    paired_change,
    scoreboard,
)

TASK = load_task("opinion")
TRUTH = ["good", "poor", "okay", "good"] * 10
EXAMPLES = Dataset.from_dict(
    {"answer": TRUTH, "product_title": [f"product {i // 2}" for i in range(40)]}
)
GROUPS = [i // 2 for i in range(40)]


def wrong(count: int) -> list[str]:
    return ["terrible"] * count + TRUTH[count:]


def board(**answers):
    return scoreboard(TASK, "test", EXAMPLES, answers)


def test_lines_are_the_scores_and_differences_of_the_same_rows():
    found = board(majority=wrong(30), tuned=wrong(4))
    assert (found.part, found.metric, found.rows) == ("test", "accuracy", 40)
    majority, tuned = found.lines
    hits = [
        [float(said == right) for said, right in zip(wrong(n), TRUTH, strict=True)] for n in (30, 4)
    ]
    assert majority.score == pytest.approx(mean_interval(hits[0], GROUPS))
    assert majority.change == pytest.approx(paired_change(*hits, GROUPS))
    assert majority.verdict == "clearly better" and tuned.change is None
    assert tuned.cells[0] == "tuned" and tuned.cells[1].startswith("0.90 (")


def test_the_conclusion_names_what_is_not_beaten():
    said = board(majority=wrong(30), tuned=wrong(4)).conclusion()
    assert "clearly better than everything" in said
    close = {"nearest neighbour": wrong(5), "best prompt": wrong(30), "tuned": wrong(4)}
    said = board(**close).conclusion()
    assert "nearest neighbour" in said and "a simple model may be enough" in said
    said = board(**{"best prompt": wrong(5), "majority": wrong(30), "tuned": wrong(4)}).conclusion()
    assert "not clearly better than best prompt" in said and "simple model" not in said


def test_the_conclusion_holds_whoever_leads():
    said = board(**{"lead words": wrong(4), "tuned": wrong(30)}).conclusion()
    assert "clearly worse than lead words" in said and "More rows" not in said
    # A board on which both a learner and a prompt are as good does not name one of them alone.
    close = {"TF-IDF + regression": wrong(5), "best prompt": wrong(4), "tuned": wrong(4)}
    said = board(**close).conclusion()
    assert "not clearly better than TF-IDF + regression and best prompt: tuning" in said
    ahead = {"nearest neighbour": wrong(30), "best prompt": wrong(4), "tuned": wrong(29)}
    assert "clearly worse than best prompt: what is simpler" in board(**ahead).conclusion()


def test_boards_as_json_and_as_a_page():
    one = board(**{"<rival>": wrong(30), "tuned": wrong(4)})
    (kept,) = json.loads(boards_json([one]))
    assert kept["lines"][1]["score"][0] == 0.9 and kept["rows"] == 40
    page = boards_page("A & B", [one])
    assert "<h1>A &amp; B</h1>" in page and "<td>&lt;rival&gt;" in page
    assert one.conclusion() in page and "http" not in page


def test_answers_that_do_not_fit_the_rows_are_refused():
    with pytest.raises(ScoringError, match="39 predictions for 40"):
        board(tuned=TRUTH[:-1])
