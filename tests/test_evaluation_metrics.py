"""Scores and baselines, held to independent implementations."""

import csv
import random
from pathlib import Path
from statistics import fmean
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from sklearn.metrics import accuracy_score, f1_score
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

from helpers.evaluation.baselines import (
    _lead_words,
    _linear_answers,
    _nearest_answers,
    _prompt_texts,
    baseline_predictions,
    majority_label,
    rival_answers,
)
from helpers.evaluation.metrics import (
    ScoringError,
    _split_words,
    accuracy,
    holds_answer,
    macro_f1,
    main_metric,
    read_answer,
    right_answers,
    rouge,
    row_scores,
    score_all,
)
from helpers.evaluation.uncertainty import paired_test

DATA = Path(__file__).parents[1] / "data" / "reviews.csv"
OPINIONS = ["terrible", "poor", "okay", "good", "excellent"]
ROUGE = ("rouge1", "rouge2", "rougeL")
SCORER = RougeScorer(list(ROUGE), use_stemmer=False)


def random_answers(seed: int) -> tuple[list[str], list[str]]:
    """Predictions and references over the opinions; some labels may be missing from either."""
    draw = random.Random(seed)
    used = draw.sample(OPINIONS, draw.randint(1, 5))
    references = draw.choices(used, k=draw.randint(1, 40))
    predictions = [draw.choice([r, draw.choice(OPINIONS)]) for r in references]
    return predictions, references


# ---- free answers


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("good", "good"),
        (" Good.", "good"),
        ("\n\nGOOD!\nThe customer liked it.", "good"),
        ("**Excellent**", "excellent"),
        ("_okay_", "okay"),
        ('"Poor", I would say', "poor"),
        ("good or excellent", "good"),
        ("terrible, poor, okay, good or excellent", "terrible"),
        ("goods", None),
        ("excellently made", None),
        ("It is good", None),
        ("not good", None),
        ("", None),
        ("...", None),
        ("5", None),
    ],
)
def test_read_answer_compares_first_words(text: str, expected: str | None) -> None:
    assert read_answer(text, OPINIONS) == expected


def test_read_answer_with_choices_of_several_words_and_other_scripts() -> None:
    choices = ["Home", "home & garden", "Café supplies"]
    assert read_answer("home", choices) == "Home"
    assert read_answer("HOME-GARDEN, of course", choices) == "home & garden"
    assert read_answer("home office", choices) == "Home"
    assert read_answer("cafe\u0301 supplies", choices) == "Café supplies"
    assert read_answer("Café", choices) is None
    assert read_answer("好评，因为质量好", ["差评", "好评"]) == "好评"
    # These two differ in vowel signs alone.
    assert read_answer("कीमत", ["कमत", "कीमत"]) == "कीमत"


def test_read_answer_refuses_choices_that_cannot_be_told_apart() -> None:
    for choices in (["Good", "good!"], ["good", ":-)"]):
        with pytest.raises(ScoringError, match="one holds no letter and no digit, or two differ"):
            read_answer("good", choices)


@pytest.mark.parametrize(
    ("text", "answers", "found"),
    [
        ("Tokyo", ["Tokyo"], True),
        ("The capital is TOKYO.", ["Tokyo"], True),
        ("It has 18 legs", ["8", "eight"], False),
        ("How nice", ["ice"], False),
        ("It lies in South\nAmerica!", ["South America"], True),
        ("In the south of America", ["South America"], False),
        ("H₂O, of course", ["H2O"], True),
        ("東京は日本の首都です", ["東京"], True),
        ("", ["8"], False),
        ("anything", ["?"], False),
        ("anything", [], False),
    ],
)
def test_an_answer_is_held_as_whole_words(text, answers, found):
    assert holds_answer(text, answers) is found


# ---- accuracy, F1


@pytest.mark.parametrize("seed", range(20))
def test_scores_equal_scikit_learn(seed: int) -> None:
    predictions, references = random_answers(seed)
    assert accuracy(predictions, references) == accuracy_score(references, predictions)
    theirs = f1_score(references, predictions, labels=OPINIONS, average="macro", zero_division=0)
    assert macro_f1(predictions, references, OPINIONS) == pytest.approx(theirs, abs=1e-12)


def test_no_answer_is_a_wrong_answer() -> None:
    predictions, references = ["good", None, None, "poor"], ["good", "good", "okay", "poor"]
    assert accuracy(predictions, references) == 0.5
    named = [prediction or "no answer" for prediction in predictions]
    theirs = f1_score(references, named, labels=OPINIONS, average="macro", zero_division=0)
    assert macro_f1(predictions, references, OPINIONS) == pytest.approx(theirs, abs=1e-12)


ROW_BY_ROW = [
    accuracy,
    lambda predictions, references: macro_f1(predictions, references, OPINIONS),
]


@pytest.mark.parametrize("score", [*ROW_BY_ROW, paired_test])
def test_every_score_refuses_lists_that_are_no_pairs(score) -> None:
    with pytest.raises(ScoringError, match="There is nothing to score"):
        score([], [])
    with pytest.raises(ScoringError, match="There are 2 predictions for 1 references"):
        score(["good", "good"], ["good"])
    with pytest.raises(ScoringError, match="predictions have to be a list .* of type str"):
        score("good", ["good"])
    with pytest.raises(ScoringError, match="references have to be a list .* of type NoneType"):
        score(["good"], None)


@pytest.mark.parametrize("score", ROW_BY_ROW)
@pytest.mark.parametrize(
    ("predictions", "references", "message"),
    [
        ([1, 0], ["1", "0"], "A text never equals a number"),
        (["good", 3], ["good", "poor"], "A text never equals a number"),
        (["good"], [None], "The reference None is not a label"),
    ],
)
def test_answers_that_could_never_be_right_are_refused(
    score, predictions, references, message
) -> None:
    with pytest.raises(ScoringError, match=message):
        score(predictions, references)


@pytest.mark.parametrize("make", [np.array, torch.tensor, list])
def test_numbers_of_any_library_are_numbers(make) -> None:
    predictions, references = make([1, 0, 2, 2]), np.array([1, 1, 2, 0])
    assert accuracy(predictions, references) == accuracy_score(references, list(predictions))
    theirs = f1_score(references, list(predictions), average="macro")
    assert macro_f1(predictions, references, [0, 1, 2]) == pytest.approx(theirs)
    assert accuracy([1.0, 2.0], [1, 3]) == 0.5


def test_labels_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ScoringError, match="'great' is not a label .*: the labels are .'terrible'"):
        macro_f1(["good"], ["great"], OPINIONS)


# ---- ROUGE


def assert_rouge_equal(prediction: str, references: list[str], scorer=SCORER) -> None:
    theirs = scorer.score_multi(references, prediction)
    expected = {name: pytest.approx(theirs[name].fmeasure, abs=1e-12) for name in ROUGE}
    assert rouge(prediction, references) == expected
    if len(references) == 1:
        assert rouge(prediction, references[0]) == expected


ASCII = st.text(st.characters(max_codepoint=127), max_size=40) | st.lists(
    st.sampled_from(["a", "b", "A", "b2", "don't", "a_b", "x\ny", "3.5", "-", "_"]), max_size=12
).map(" ".join)


@given(ASCII, st.lists(ASCII, min_size=1, max_size=3))
def test_rouge_equals_the_package_for_ascii_texts(prediction, references) -> None:
    assert_rouge_equal(prediction, references)


def test_rouge_equals_the_package_on_the_reviews() -> None:
    with DATA.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    draw = random.Random(0)
    for row in draw.sample(rows, 300):
        assert_rouge_equal(_lead_words(row["review_body"], 8), [row["review_headline"]])
        assert_rouge_equal(row["review_body"], [draw.choice(rows)["review_body"]])


class BertWords:
    """Words as BERT finds them, in lower case and without its tokens for punctuation."""

    def tokenize(self, text: str) -> list[str]:
        text = BertNormalizer(strip_accents=False, lowercase=True).normalize_str(text)
        words = [word for word, _ in BertPreTokenizer().pre_tokenize_str(text)]
        return [word for word in words if any(c.isalnum() for c in word)]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Чайник сломался в первый день.", "Чайник работал только один день!"),
        ("Schön, aber die Tür schließt nicht", "schon gut: die Tür schließt"),
        ("水壶第一天就坏了，很失望。", "水壶很好，第一天就用了"),
        ("केतली पहले दिन ही टूट गई", "केतली पहली बार में टूटी"),
        ("انكسر الإبريق في اليوم الأول", "الإبريق جيد في اليوم الأول"),
        ("주전자가 첫날에 고장났다.", "주전자가 첫날부터 좋다"),
    ],
)
def test_rouge_finds_the_words_of_any_script(one, other) -> None:
    scorer = RougeScorer(list(ROUGE), tokenizer=BertWords())
    assert_rouge_equal(one, [other], scorer)
    assert_rouge_equal(one, [other, one], scorer)
    assert rouge(one, one) == dict.fromkeys(ROUGE, 1.0)


def test_words() -> None:
    assert rouge("schön", "schän")["rouge1"] == 0
    assert rouge("scho\u0308n", "SCHÖN")["rouge1"] == 1  # one character or two, any case
    assert _split_words("Straße, don't a_b") == ["strasse", "don", "t", "a", "b"]
    # Thai, as Japanese and Chinese, is written without spaces; a mark goes with its letter.
    assert _split_words("ที่นี่ดี") == ["ที่", "นี่", "ดี"]
    assert _split_words("東京タワー2024") == [*"東京タワー", "2024"]


def test_rouge_compares_whole_texts() -> None:
    lines = "boil water\nadd tea\nwait"
    assert rouge(lines, lines)["rougeL"] == 1
    assert rouge("boil water", lines)["rouge1"] == pytest.approx(2 * 2 / (2 + 5))
    assert rouge("", "the cat") == dict.fromkeys(ROUGE, 0.0)


@pytest.mark.parametrize(("prediction", "reference"), [(None, "a"), ("a", ["b", 3]), ("a", [])])
def test_rouge_refuses_what_is_no_text(prediction, reference) -> None:
    with pytest.raises(ScoringError, match="ROUGE compares one text with another"):
        rouge(prediction, reference)


# ---- the scores of a task


def task_of(kind: str, metrics=(), choices=(), references=()) -> SimpleNamespace:
    return SimpleNamespace(
        name="mine", kind=kind, metrics=metrics, choices=choices, references=references
    )


def rows_of(answers: list[str], **columns: list) -> list[dict]:
    columns = {"answer": answers, **columns}
    rows = zip(*columns.values(), strict=True)
    return [dict(zip(columns, row, strict=True)) for row in rows]


def test_a_row_with_choices_is_right_or_wrong() -> None:
    task, (predictions, references) = task_of("classification"), random_answers(3)
    scores = row_scores(task, [*predictions, None], rows_of([*references, "good"]))
    assert set(scores) <= {0.0, 1.0} and scores[-1] == 0
    assert fmean(scores[:-1]) == accuracy_score(references, predictions)
    assert main_metric(task) == "accuracy"


def test_a_text_scores_rouge_with_the_best_of_its_references() -> None:
    task = task_of("text", ("rouge",), references=("second", "more"))
    rows = rows_of(["a b", "c d", "e f"], second=["a c", "", None], more=[["b"], [], ["e", "f g"]])
    predictions = ["a c", "d", None]
    right = [right_answers(task, row) for row in rows]
    assert right == [["a b", "a c", "b"], ["c d"], ["e f", "e", "f g"]]
    theirs = [
        SCORER.score_multi(["a b", "a c", "b"], "a c")["rouge1"].fmeasure,
        SCORER.score("c d", "d")["rouge1"].fmeasure,
        0.0,
    ]
    assert row_scores(task, predictions, rows) == pytest.approx(theirs)
    assert main_metric(task) == "ROUGE-1"
    assert score_all(task, predictions, rows)["rouge1"] == pytest.approx(fmean(theirs))


def test_references_may_be_numbers_and_space_around_them_does_not_count() -> None:
    task = task_of("text", references=("more",))
    rows = rows_of(["2", "yes"], more=[[3, 4.5], " no "])
    assert [right_answers(task, row) for row in rows] == [["2", "3", "4.5"], ["yes", "no"]]
    rows = rows_of(["2"], more=[7])
    assert right_answers(task, rows[0]) == ["2", "7"]


def test_a_column_that_render_has_moved_is_still_a_reference() -> None:
    task = task_of("text", references=("completion",))
    rows = rows_of(["a b"], completion=[" a b"], table_completion=["c"])
    assert row_scores(task, ["c"], rows) == [1.0] and row_scores(task, ["b"], rows) < [1.0]


def test_several_right_choices_are_all_right() -> None:
    task = task_of("classification", ("accuracy",), ("a", "b"), references=("also",))
    assert score_all(task, ["a", "b"], rows_of(["b", "a"], also=["a", ""])) == {"accuracy": 0.5}


def test_the_metrics_are_those_of_the_task() -> None:
    predictions, references = random_answers(5)
    task = task_of("classification", ("macro_f1", "accuracy"), (*OPINIONS, "never said nor meant"))
    theirs = f1_score(references, predictions, average="macro", zero_division=0)
    assert score_all(task, predictions, rows_of(references)) == {
        "macro_f1": pytest.approx(theirs),
        "accuracy": accuracy_score(references, predictions),
    }
    exact = score_all(task_of("text", ("accuracy", "rouge")), ["a b", "c"], rows_of(["a b", "c d"]))
    assert exact["accuracy"] == 0.5 and list(exact) == ["accuracy", *ROUGE]


def test_scores_of_a_task_are_refused_in_words() -> None:
    with pytest.raises(ScoringError, match="The prediction 1 is not a text"):
        row_scores(task_of("classification"), ["1", 1], rows_of(["1", "1"]))
    with pytest.raises(ScoringError, match="There are 1 predictions for 2 references"):
        row_scores(task_of("text"), ["a"], rows_of(["a", "b"]))


# ---- baselines


def test_majority_label() -> None:
    assert majority_label(["good", "poor", "good"]) == "good"
    assert majority_label(["poor", "good"]) == majority_label(["good", "poor"]) == "good"
    with pytest.raises(ScoringError, match="the list of labels is empty"):
        majority_label([])


def test_lead_words() -> None:
    assert _lead_words("  It broke\nat once. Bad.", 3) == "It broke at"
    assert _lead_words("Bad.", 3) == "Bad."
    assert _lead_words(" ", 3) == ""
    assert _lead_words("水壶坏了，很失望。", 4) == "水壶坏了，"


def test_the_baseline_of_choices_is_the_commonest_training_answer_that_a_row_allows() -> None:
    train = rows_of(["b", "b", "c", "c", "c", "a"])
    rows = rows_of(["a"] * 4, choices=[["a", "b", "c"], ["a", "b"], ["a"], ["x", "y"]])
    assert baseline_predictions(task_of("classification"), train, rows) == ["c", "b", "a", "x"]


def test_the_baseline_of_texts_is_the_lead_of_the_longest_column() -> None:
    task = task_of("text")
    task.wording = SimpleNamespace(shown_fields={"title", "body", "stars", "note"})
    train = rows_of(
        ["one two", "one two three four five"],  # 3.5 words on average
        title=["short", "t"],
        body=["a long enough text", "and another one here"],
        stars=[100000, 5],
        note=[None, "x"],
    )
    rows = rows_of(["a b c", "d"], title=["t", "t"], body=["w1 w2 w3 w4 w5", None], stars=[1, 2])
    assert baseline_predictions(task, train, rows) == ["w1 w2 w3 w4", ""]
    task.wording.shown_fields = {"prompt"}  # a column of the table, which render has moved
    asked = rows_of(["a b"], prompt=["In two words: the lid"], table_prompt=["the lid sticks"])
    assert baseline_predictions(task, asked, asked) == ["the lid"]
    task.wording.shown_fields = {"stars"}
    assert baseline_predictions(task, train, rows) == ["one two"] * 2
    with pytest.raises(ScoringError, match="the list of labels is empty"):
        baseline_predictions(task, [], rows)


def seen_task(kind: str = "classification") -> SimpleNamespace:
    """A task whose prompt shows the column body, with groups in the column product."""
    task = task_of(kind)
    task.wording = SimpleNamespace(shown_fields={"body"})
    task.group = "product"
    return task


def shop(bodies: list[str], answers: list[str], choices: list[str]) -> list[dict]:
    return rows_of(
        answers,
        choices=[choices] * len(answers),
        body=bodies,
        product=[str(number // 2) for number in range(len(answers))],
        secret=answers,
    )


def test_rivals_see_what_the_prompt_shows_and_nothing_else() -> None:
    rows = shop(["nice lid", ""], ["good", "poor"], ["good", "poor"])
    assert _prompt_texts(seen_task(), rows) == ["nice lid", ""]
    rows = rows_of(["good"] * 3, body=[0, False, None])
    assert _prompt_texts(seen_task(), rows) == ["0", "False", ""]


def test_nearest_neighbour_repeats_the_most_similar_allowed_answer() -> None:
    train = shop(["a fine lid", "it broke at once", "so so"], ["good", "poor", "okay"], OPINIONS)
    asked = shop(["once it broke", "the lid is fine"], ["okay", "okay"], OPINIONS)
    assert _nearest_answers(seen_task(), train, asked) == ["poor", "good"]
    asked[0]["choices"] = ["good", "okay"]  # the nearest row's answer is not allowed here
    assert _nearest_answers(seen_task(), train, asked)[0] != "poor"
    asked[0]["choices"] = ["new"]
    assert _nearest_answers(seen_task(), train, asked)[0] == "new"


def test_the_linear_rival_learns_words_and_keeps_to_the_choices() -> None:
    words = {"good": "fine sturdy lovely", "poor": "broken cheap awful", "okay": "average plain"}
    draw = random.Random(0)
    answers = [draw.choice(list(words)) for _ in range(60)]
    bodies = [f"the kettle is {draw.choice(words[a].split())}" for a in answers]
    train = shop(bodies, answers, list(words))
    asked = shop(["a lovely lamp", "an awful lamp", "a plain lamp"], ["good"] * 3, list(words))
    assert _linear_answers(seen_task(), train, asked) == ["good", "poor", "okay"]
    asked[1]["choices"] = ["okay", "good"]
    assert _linear_answers(seen_task(), train, asked)[1] in ("okay", "good")
    asked[1]["choices"] = ["x", "y"]
    assert _linear_answers(seen_task(), train, asked)[1] == "x"


def test_the_linear_rival_does_with_one_answer_few_rows_and_one_group() -> None:
    choices = ["good", "poor"]
    asked = shop(["a lid"], ["poor"], choices)
    alike = shop(["a lid", "a pot"], ["good", "good"], choices)
    assert _linear_answers(seen_task(), alike, asked) == ["good"]
    pair = shop(["a lid", "a pot"], choices, choices)  # one group: nothing to cross-validate with
    assert _linear_answers(seen_task(), pair, asked) == ["good"]


def test_the_rivals_of_each_kind_of_task() -> None:
    train = shop(["a fine lid", "it broke"], ["good", "poor"], OPINIONS)
    asked = shop(["it broke"], ["okay"], OPINIONS)
    found = rival_answers(seen_task(), train, asked)
    assert list(found) == ["majority", "nearest neighbour", "TF-IDF + regression"]
    assert found["nearest neighbour"] == ["poor"]
    found = rival_answers(seen_task("text"), train, asked)
    assert found == {"lead words": ["it"], "nearest neighbour": ["poor"]}
