"""Measures of what one task does to others, on a tiny model; the mixture; the texts in data/."""

from statistics import fmean

import pytest
import torch

from helpers.encoding import IGNORE, encode_all
from helpers.errors import CourseError
from helpers.forgetting import (
    Change,
    Look,
    Measure,
    Panel,
    calibrate,
    encode_text,
    load_prose,
    load_questions,
    loss_of_each,
    mix,
    paired_change,
)
from helpers.scoring import ScoringError, bootstrap_interval
from helpers.templates import Example
from helpers.training import mean_loss
from tests.tiny import tiny_model, tiny_tokenizer

CHOICES = ("good", "bad")
CHAT = (
    "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
TEXTS = ["The kettle broke on the first day.", "Fine.", "It does what it should do, and no more."]


def examples(task: str) -> list[Example]:
    return [
        Example(f"Review: {text}\n{task}:", CHOICES[place % 2], f"R{place}", CHOICES)
        for place, text in enumerate(TEXTS)
    ]


def panel(course=None) -> Panel:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = CHAT
    headlines = [
        Example(f"Review: {text}\nHeadline:", "A headline", f"R{place}")
        for place, text in enumerate(TEXTS)
    ]
    groups = {"R0": "kettle", "R1": "kettle", "R2": "lamp"}
    course = course or examples("Rating")
    return Panel(tokenizer, course, examples("Kind"), headlines, groups, ("rating", "kind"))


# ---- losses of single texts


@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_loss_of_each_is_that_of_the_text_alone_in_the_given_order(batch_size):
    model, tokenizer = tiny_model(), tiny_tokenizer()
    encoded = encode_all(examples("Rating"), tokenizer, 256)
    encoded += [encode_text(text, tokenizer) for text in TEXTS]
    alone = [mean_loss(model, [one], tokenizer.pad_token_id) for one in encoded]
    losses = loss_of_each(model, encoded, tokenizer.pad_token_id, batch_size)
    assert losses == pytest.approx(alone, rel=1e-4)


def test_each_token_of_a_plain_text_counts_but_the_first():
    encoded = encode_text(TEXTS[0], tiny_tokenizer())
    assert tiny_tokenizer().decode(encoded.input_ids) == TEXTS[0]
    assert encoded.labels == [IGNORE, *encoded.input_ids[1:]]


def test_calibrated_choices_are_equally_liked_on_the_whole():
    scores = torch.tensor([[-1.0, -5.6], [-1.5, -4.5], [-1.2, -6.4]])
    assert calibrate(scores).mean(0).tolist() == pytest.approx([0, 0], abs=1e-6)
    assert calibrate(scores).argmax(1).tolist() == [0, 1, 0]


# ---- the panel


def test_a_look_has_a_number_for_each_unit_of_each_measure():
    one = panel()
    look = one.look(tiny_model())
    assert list(look.values) == list(one.measures)
    for name, measure in one.measures.items():
        assert len(look.values[name]) == len(measure.groups), name
        if measure.counted:
            assert set(look.values[name]) <= {0.0, 1.0}
    assert (len(look.headlines), len(look.answers)) == (3, len(load_questions()))


def test_two_looks_at_one_model_are_equal_and_at_another_are_not():
    one = panel()
    look = one.look(tiny_model())
    assert one.look(tiny_model()) == look
    assert one.look(tiny_model(seed=1)).values != look.values


def test_the_loss_on_choices_is_that_of_the_right_one():
    right, losses = panel()._choices(tiny_model(), examples("Kind"))
    for hit, loss in zip(right, losses, strict=True):
        # Of two choices the better one has more than half of the probability.
        assert (loss < 0.6931472) == bool(hit)


def test_the_version_changes_with_what_is_measured_and_what_is_trained():
    one = panel()
    assert one.version([1], "a") == panel().version([1], "a")
    assert one.version([1], "a") != one.version([2], "a")
    assert one.version([1]) != panel(examples("Stars")).version([1])


# ---- measures and changes


def test_counts_have_a_wilson_interval_which_never_has_no_width():
    counted = Measure("m", True, False, ("a", "b", "c"))
    mean, low, high = counted.interval([1.0, 1.0, 1.0])
    assert mean == 1 and low < 0.7 and high == 1


def test_other_measures_are_drawn_by_group():
    values = [1.0, 1.0, 5.0, 5.0, 3.0]
    by_group = Measure("m", False, True, ("a", "a", "b", "b", "c")).interval(values)
    assert by_group == (3.0, *bootstrap_interval(values, ("a", "a", "b", "b", "c")))
    assert by_group[1:] != bootstrap_interval(values)


def test_pairing_sees_a_change_that_two_intervals_hide():
    before = [float(place) for place in range(20)]
    after = [value + 0.1 + 0.01 * (place % 3) for place, value in enumerate(before)]
    mean, low, high = paired_change(before, after)
    assert mean == pytest.approx(fmean(after) - fmean(before))
    assert 0.1 <= low <= mean <= high < 0.13
    assert bootstrap_interval(before)[1] > bootstrap_interval(after)[0]


def test_unequal_lists_are_refused():
    with pytest.raises(ScoringError):
        paired_change([1.0, 2.0], [1.0])


@pytest.mark.parametrize(
    ("low", "high", "moved", "lower_is_better", "verdict"),
    [
        (0.1, 0.3, 9, False, "better"),
        (0.1, 0.3, 9, True, "worse"),
        (-0.3, -0.1, 9, False, "worse"),
        (-0.3, -0.1, 9, True, "better"),
        (-0.1, 0.3, 9, False, "no clear difference"),
        (0.0, 0.3, 9, False, "no clear difference"),
        (0.0, 0.0, 0, True, "the same on all 12"),
    ],
)
def test_verdict_follows_the_interval_and_what_is_better(
    low, high, moved, lower_is_better, verdict
):
    change = Change((low + high) / 2, low, high, moved, 12, lower_is_better)
    assert change.verdict == verdict
    assert str(change).endswith(verdict)


def test_a_change_counts_the_units_that_moved():
    measure = Measure("m", True, False, ("a", "b", "c"))
    assert measure.change([0.0, 1.0, 1.0], [1.0, 1.0, 0.0]).moved == 2
    assert measure.change([0.0, 1.0, 1.0], [0.0, 1.0, 1.0]).verdict == "the same on all 3"


def test_a_look_is_made_of_what_json_can_hold():
    look = panel().look(tiny_model())
    assert Look(**vars(look)) == look


# ---- the mixture


def test_the_mixture_is_as_long_as_before():
    course, others = [f"c{n}" for n in range(96)], [f"o{n}" for n in range(40)]
    mixed = mix(course, others, 0.1)
    assert len(mixed) == 96 and len(set(mixed)) == 96
    assert mixed[:86] == course[:86] and mixed[86:] == others[:10]
    assert mix(course, others, 0) == course
    assert mix(course[:4], others, 1) == others[:4]


@pytest.mark.parametrize(("others", "share"), [(["o"], 0.5), (["o"] * 9, 1.5), (["o"] * 9, -0.1)])
def test_a_mixture_that_cannot_be_made_is_refused(others, share):
    with pytest.raises(CourseError):
        mix(["c"] * 4, others, share)


# ---- the texts


def test_the_prose_is_twenty_or_more_paragraphs_of_like_length():
    lengths = [len(text.split()) for text in load_prose()]
    assert len(lengths) == len(set(load_prose())) >= 20  # fewer make bootstrap intervals too narrow
    assert min(lengths) > 30 and max(lengths) < 60


def test_no_question_holds_its_answer():
    questions = load_questions()
    assert len({one.question for one in questions}) == len(questions) == 24
    for one in questions:
        assert one.answers and not any(
            answer.lower() in one.question.lower().split() for answer in one.answers
        )
