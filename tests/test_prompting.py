"""Few-shot prompts: which shots, what text, and how much of the window they take."""

from collections import Counter

import pytest
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import (
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    tokenization_utils_base,
)

from helpers.errors import CourseError
from helpers.prompting import (
    Budget,
    draw_shots,
    few_shot_prompt,
    fit_shots,
    prefix_of,
    prompt_budget,
)
from helpers.templates import Example

LABELS = ["poor", "okay", "good"]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    """One token for every character that is no space: easy to count by hand."""
    characters = {chr(code): code for code in range(128)}
    plain = Tokenizer(models.WordLevel(characters, unk_token="?"))
    plain.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex("."), "isolated")]
    )
    return PreTrainedTokenizerFast(tokenizer_object=plain, model_max_length=8)


def example(number: int, label: str, prompt: str = "Text?") -> Example:
    return Example(f"{prompt}{number}", label, f"R{number}", tuple(LABELS))


def many(counts: dict[str, int]) -> list[Example]:
    labels = [label for label, count in counts.items() for _ in range(count)]
    return [example(number, label) for number, label in enumerate(labels)]


# Drawing


@pytest.mark.parametrize("seed", range(20))
def test_shots_are_balanced_as_far_as_k_allows(seed: int) -> None:
    examples = many({"poor": 30, "okay": 5, "good": 10})
    for k in range(16):
        shots = draw_shots(examples, k, seed)
        assert len(shots) == len(set(shots)) == k
        assert set(shots) <= set(examples)
        counts = Counter(shot.completion for shot in shots)
        # 5 of each are there: until then no label is ahead by more than one.
        assert max(counts[x] for x in LABELS) - min(counts[x] for x in LABELS) <= 1


def test_a_label_that_runs_out_leaves_its_place_to_the_others() -> None:
    shots = draw_shots(many({"poor": 4, "okay": 1, "good": 9}), 9, seed=0)
    assert Counter(shot.completion for shot in shots) == {"poor": 4, "okay": 1, "good": 4}


def test_all_examples_can_be_drawn() -> None:
    examples = many({"poor": 3, "good": 1})
    assert sorted(draw_shots(examples, 4, seed=1), key=str) == sorted(examples, key=str)
    assert draw_shots(examples, 0, seed=1) == []
    assert draw_shots([], 0, seed=1) == []


def test_draws_are_repeatable_nested_and_varied() -> None:
    examples = many({"poor": 20, "okay": 20, "good": 20})
    assert draw_shots(examples, 8, seed=5) == draw_shots(examples, 8, seed=5)
    for smaller, larger in [(1, 2), (2, 4), (4, 8)]:
        assert set(draw_shots(examples, smaller, 5)) < set(draw_shots(examples, larger, 5))
    orders = {tuple(shot.completion for shot in draw_shots(examples, 3, s)) for s in range(100)}
    assert len(orders) == 6
    # Shuffled as a whole: not always one of each label before the second of any.
    firsts = [{shot.completion for shot in draw_shots(examples, 6, s)[:3]} for s in range(50)]
    assert {len(labels) for labels in firsts} == {2, 3}
    single = Counter(draw_shots(examples, 1, seed)[0].row_id for seed in range(300))
    assert len(single) > 50


def test_draw_refusals() -> None:
    with pytest.raises(CourseError, match="4 shots were asked for, but there are 3 examples"):
        draw_shots(many({"good": 3}), 4, seed=0)
    with pytest.raises(CourseError, match="-1 shots were asked for"):
        draw_shots(many({"good": 3}), -1, seed=0)


# The prompt


def test_few_shot_prompt_is_shots_then_question() -> None:
    shots = [Example("A?", "good", "R1"), Example("B\n", "poor", "R2")]
    target = Example("C?", "okay", "R3", tuple(LABELS))
    prompt = few_shot_prompt(shots, target)
    assert prompt == Example("A? good\n\nB\npoor\n\nC?", "okay", "R3", tuple(LABELS))
    assert prompt.prompt == prefix_of(shots) + target.prompt
    assert few_shot_prompt([], target) == target
    assert prefix_of([]) == ""


def test_the_target_is_no_shot_in_any_wording() -> None:
    shots = [example(1, "good"), example(2, "poor")]
    for target in (example(2, "poor"), example(2, "poor", prompt="Another wording?")):
        with pytest.raises(CourseError, match="Row 'R2' is both a shot and the question"):
            few_shot_prompt(shots, target)


def test_rows_without_an_id_are_the_same_only_when_equal() -> None:
    shot, target = Example("A?", "good", ""), Example("B?", "poor", "")
    assert few_shot_prompt([shot], target).prompt == "A? good\n\nB?"
    with pytest.raises(CourseError, match="Row '' is both a shot and the question"):
        few_shot_prompt([shot], shot)


# The window


def test_budget_adds_up(tokenizer) -> None:
    prefix, prompt = prefix_of([Example("ab?", "good", "R1")]), "xy?"
    budget = prompt_budget(prefix, prompt, tokenizer, window=20, answer_tokens=4)
    assert budget == Budget(shots=7, question=3, answer=4, free=6, window=20)
    assert budget.fits
    assert prompt_budget(prefix, prompt, tokenizer, window=14, answer_tokens=4).fits
    over = prompt_budget(prefix, prompt, tokenizer, window=13, answer_tokens=4)
    assert (over.free, over.fits) == (-1, False)
    assert prompt_budget("", prompt, tokenizer, window=13, answer_tokens=4).shots == 0


def test_counting_past_the_window_gives_no_warning(tokenizer, monkeypatch) -> None:
    warnings = []
    monkeypatch.setattr(tokenization_utils_base.logger, "warning", warnings.append)
    assert not prompt_budget("", "x" * 50, tokenizer, window=8, answer_tokens=1).fits
    assert warnings == []
    tokenizer("x" * 50)
    assert len(warnings) == 1, "the library no longer warns: verbose=False can go"


def test_fit_shots_drops_from_the_front(tokenizer) -> None:
    # A shot takes 10 tokens, the question 6 and its answer 4.
    shots = [example(number, "good") for number in range(4)]
    target = example(9, "good")
    for window, kept in [(50, 4), (49, 3), (40, 3), (39, 2), (20, 1), (19, 0), (10, 0)]:
        assert fit_shots(shots, target, tokenizer, window, 4) == shots[len(shots) - kept :]


def test_window_refusals(tokenizer) -> None:
    message = "row 'R9' does not fit, even without shots: it has 6 tokens and its answer may have 4"
    with pytest.raises(CourseError, match=message):
        fit_shots([example(1, "good")], example(9, "good"), tokenizer, 9, 4)
    for window, answer in [(0, 4), (10, 0)]:
        with pytest.raises(CourseError, match=f"window of {window} tokens with {answer} for"):
            prompt_budget("", "x", tokenizer, window, answer)
