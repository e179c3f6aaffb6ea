"""Few-shot prompts: which shots, what text, and how much of the window they take."""

from collections import Counter

import pytest
from datasets import Dataset
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from helpers.errors import CourseError
from helpers.inference import (
    Budget,
    draw_shots,
    few_shot_prompt,
    fit_shots,
    prompt_budget,
    shots_prefix,
)
from tests.families import DECODERS, family_tokenizer

LABELS = ["poor", "okay", "good"]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    """One token for every character that is no space: easy to count by hand."""
    characters = {chr(code): code for code in range(128)}
    plain = Tokenizer(models.WordLevel(characters, unk_token="?"))
    plain.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex("."), "isolated")]
    )
    return PreTrainedTokenizerFast(tokenizer_object=plain)


def row(number: int, answer: str, prompt: str = "Text?") -> dict:
    return {
        "row_id": f"R{number}",
        "prompt": f"{prompt}{number}",
        "completion": f" {answer}",
        "answer": answer,
        "choices": LABELS,
    }


def many(counts: dict[str, int]) -> list[dict]:
    labels = [label for label, count in counts.items() for _ in range(count)]
    return [row(number, label) for number, label in enumerate(labels)]


def ids(rows: list[dict]) -> list[str]:
    return [row["row_id"] for row in rows]


# Drawing


@pytest.mark.parametrize("seed", range(20))
def test_shots_are_balanced_as_far_as_k_allows(seed: int) -> None:
    examples = many({"poor": 30, "okay": 5, "good": 10})
    for k in range(16):
        shots = draw_shots(examples, k, seed)
        assert len(shots) == len(set(ids(shots))) == k
        assert all(shot in examples for shot in shots)
        counts = Counter(shot["answer"] for shot in shots)
        # 5 of each are there: until then no label is ahead by more than one.
        assert max(counts[x] for x in LABELS) - min(counts[x] for x in LABELS) <= 1


def test_a_label_that_runs_out_leaves_its_turns_to_the_others() -> None:
    shots = draw_shots(many({"poor": 4, "okay": 1, "good": 9}), 9, seed=0)
    assert Counter(shot["answer"] for shot in shots) == {"poor": 4, "okay": 1, "good": 4}


def test_all_examples_can_be_drawn_and_a_dataset_is_as_good_as_a_list() -> None:
    examples = many({"poor": 3, "good": 1})
    assert sorted(draw_shots(examples, 4, seed=1), key=str) == sorted(examples, key=str)
    assert draw_shots(examples, 0, seed=1) == draw_shots([], 0, seed=1) == []
    assert draw_shots(Dataset.from_list(examples), 3, seed=1) == draw_shots(examples, 3, seed=1)


def test_draws_are_repeatable_nested_and_varied() -> None:
    examples = many({"poor": 20, "okay": 20, "good": 20})
    assert draw_shots(examples, 8, seed=5) == draw_shots(examples, 8, seed=5)
    for few, more in [(1, 2), (2, 4), (4, 8)]:
        assert set(ids(draw_shots(examples, few, 5))) < set(ids(draw_shots(examples, more, 5)))
    orders = {tuple(shot["answer"] for shot in draw_shots(examples, 3, s)) for s in range(100)}
    assert len(orders) == 6
    # Shuffled as a whole: not always one of each label before the second of any.
    firsts = [{shot["answer"] for shot in draw_shots(examples, 6, s)[:3]} for s in range(50)]
    assert {len(labels) for labels in firsts} == {2, 3}
    assert len({draw_shots(examples, 1, seed)[0]["row_id"] for seed in range(300)}) > 50


def test_draw_refusals() -> None:
    with pytest.raises(
        CourseError, match="4 shots were asked for, but there are 3 examples.*0 .none. to 3"
    ):
        draw_shots(many({"good": 3}), 4, seed=0)
    with pytest.raises(CourseError, match="-1 shots were asked for"):
        draw_shots(many({"good": 3}), -1, seed=0)


# The prompt


def test_few_shot_prompt_is_shots_then_question() -> None:
    shots = [
        {"row_id": "R1", "prompt": "A?", "completion": " good", "answer": "good"},
        {"row_id": "R2", "prompt": "B\n", "completion": "poor", "answer": "poor"},
    ]
    question = row(3, "okay", prompt="C?")
    asked = few_shot_prompt(shots, question)
    assert asked == {**question, "prompt": "A? good\n\nB\npoor\n\nC?3"}
    assert question["prompt"] == "C?3" and asked["prompt"].startswith(shots_prefix(shots))
    assert few_shot_prompt([], question) == question
    assert shots_prefix([]) == ""


def test_a_row_is_not_both_shot_and_question() -> None:
    shots = [row(1, "good"), row(2, "poor")]
    for question in (row(2, "poor"), row(2, "poor", prompt="Another template?")):
        with pytest.raises(CourseError, match="Row 'R2' is both a shot and the question"):
            few_shot_prompt(shots, question)
    # Another row with the same text: the shot tells its answer all the same.
    with pytest.raises(CourseError, match="Row 'R9' is both.*row 'R2'"):
        few_shot_prompt(shots, {**row(2, "poor"), "row_id": "R9"})


# The window


def test_budget_adds_up(tokenizer) -> None:
    prefix, prompt = shots_prefix([row(1, "good", prompt="b?")]), "xy?"
    budget = prompt_budget(prefix, prompt, tokenizer, window=20, answer_tokens=4)
    assert budget == Budget(shots=7, question=3, answer=4, free=6, window=20)
    assert budget.fits
    assert prompt_budget(prefix, prompt, tokenizer, window=14, answer_tokens=4).fits
    over = prompt_budget(prefix, prompt, tokenizer, window=13, answer_tokens=4)
    assert (over.free, over.fits) == (-1, False)
    assert prompt_budget("", prompt, tokenizer, window=13, answer_tokens=4).shots == 0


@pytest.mark.parametrize("family", DECODERS)
def test_budget_counts_what_the_model_reads(family: str) -> None:
    tokenizer = family_tokenizer(family)
    # The end token, spelled out by a review, is text; a BOS token stands before it all.
    prompt = f"It said {tokenizer.eos_token}.\nRating:"
    for prefix in ("", "It broke.\nRating: poor\n\n"):
        plain = tokenizer(prefix + prompt, split_special_tokens=True).input_ids
        budget = prompt_budget(prefix, prompt, tokenizer, window=200, answer_tokens=1)
        assert budget.shots + budget.question == len(plain)
        assert (budget.shots > 0) == bool(prefix)


def test_fit_shots_drops_from_the_front(tokenizer) -> None:
    # A shot takes 10 tokens, the question 6 and its answer 4.
    shots = [row(number, "good") for number in range(4)]
    question = row(9, "good")
    for window, kept in [(50, 4), (49, 3), (40, 3), (39, 2), (20, 1), (19, 0), (10, 0)]:
        assert fit_shots(shots, question, tokenizer, window, 4) == shots[len(shots) - kept :]


def test_window_refusals(tokenizer) -> None:
    message = "row 'R9' does not fit, even without shots: it has 6 tokens and its answer may have 4"
    with pytest.raises(CourseError, match=message):
        fit_shots([row(1, "good")], row(9, "good"), tokenizer, 9, 4)
