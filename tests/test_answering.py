"""Asking the model: the fast ways give what the plain ways give."""

import pytest
import torch

from helpers import answering
from helpers.answering import (
    AnsweringError,
    answer_both_ways,
    generate_answers,
    score_choices,
)
from tests.tiny import tiny_model, tiny_tokenizer

PROMPTS = [
    "Review: It broke.\nRating:",
    "Review: I love it so much, the best thing I ever bought for the kitchen.\nRating:",
    "Review: ok I guess\nRating:",
    "Review: fine\nRating:",
    "Review: I would not buy it again\nRating:",
]
CHOICES = ("terrible", "very good", "okay", "x")


@torch.no_grad()
def brute_force(model, tokenizer, prompt, choice):
    before = tokenizer(prompt).input_ids
    ids = before + tokenizer(" " + choice).input_ids
    scores = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    return sum(scores[i - 1, ids[i]].item() for i in range(len(before), len(ids)))


@pytest.mark.parametrize("batch_size", [1, 2, 16])
@pytest.mark.parametrize("shots", ["", "Review: bad\nRating: poor\n\nReview: so\nRating: okay\n\n"])
def test_constrained_scores_equal_brute_force(batch_size, shots):
    model, tokenizer = tiny_model(), tiny_tokenizer()
    prompts = [shots + prompt for prompt in PROMPTS]
    scores = score_choices(model, tokenizer, prompts, CHOICES, batch_size=batch_size)
    expected = [[brute_force(model, tokenizer, p, c) for c in CHOICES] for p in prompts]
    torch.testing.assert_close(scores, torch.tensor(expected), atol=1e-4, rtol=1e-4)


def test_one_prompt_and_equal_prompts_need_no_shared_start():
    model, tokenizer = tiny_model(), tiny_tokenizer()
    alone = score_choices(model, tokenizer, PROMPTS[:1], CHOICES)
    twice = score_choices(model, tokenizer, PROMPTS[:1] * 2, CHOICES)
    torch.testing.assert_close(twice, alone.repeat(2, 1), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_free_answers_equal_generate(batch_size):
    model, tokenizer = tiny_model(seed=3), tiny_tokenizer()
    answers = generate_answers(model, tokenizer, PROMPTS, max_new_tokens=10, batch_size=batch_size)
    for prompt, answer in zip(PROMPTS, answers, strict=True):
        inputs = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)
        ids = model.generate(**inputs, max_new_tokens=10, do_sample=False)
        text = tokenizer.decode(ids[0, inputs.input_ids.shape[1] :], skip_special_tokens=True)
        assert answer == (text.strip().splitlines() or [""])[0].strip()
    assert any(answers)


def test_both_ways_at_once_equal_one_after_the_other_and_read_each_prompt_once(monkeypatch):
    model, tokenizer = tiny_model(seed=3), tiny_tokenizer()
    prompts = ["Review: so\nRating: okay\n\n" + prompt for prompt in PROMPTS]
    scores = score_choices(model, tokenizer, prompts, CHOICES, batch_size=2)
    answers = generate_answers(model, tokenizer, prompts, 10, batch_size=2)
    read, rows = answering._read, []

    def counting(*arguments):
        for state in read(*arguments):
            rows.extend(state.rows)
            yield state

    monkeypatch.setattr(answering, "_read", counting)
    both = answer_both_ways(model, tokenizer, prompts, CHOICES, 10, batch_size=2)
    torch.testing.assert_close(both[0], scores)
    assert both[1] == answers and any(answers)
    assert sorted(rows) == list(range(len(prompts)))


def test_an_answer_ends_at_the_end_token_and_at_the_end_of_its_line(monkeypatch):
    model, tokenizer = tiny_model(), tiny_tokenizer()
    script = tokenizer("good\nsecond line").input_ids

    def scripted(ids):
        steps = iter(ids)

        def next_scores(_model, hidden):
            scores = torch.full((*hidden.shape[:-1], len(tokenizer)), -10.0)
            scores[..., next(steps)] = 0.0
            return scores

        return next_scores

    monkeypatch.setattr("helpers.answering._log_probabilities", scripted(script))
    assert generate_answers(model, tokenizer, ["a:"], max_new_tokens=10) == ["good"]
    ended = [*tokenizer("fine").input_ids, tokenizer.eos_token_id]
    monkeypatch.setattr("helpers.answering._log_probabilities", scripted(ended))
    assert generate_answers(model, tokenizer, ["a:"], max_new_tokens=10) == ["fine"]


def test_a_prompt_longer_than_the_window_is_refused_by_number_and_length():
    model, tokenizer = tiny_model(window=64), tiny_tokenizer()
    with pytest.raises(AnsweringError, match=r"Prompt number 1 has \d+ tokens.*holds 64.*shots"):
        score_choices(model, tokenizer, ["short:", "long " * 80 + ":"], CHOICES)
    with pytest.raises(AnsweringError, match="needs up to 70"):
        generate_answers(model, tokenizer, ["short:"], max_new_tokens=70)


def test_prompts_of_two_kinds_are_refused():
    with pytest.raises(AnsweringError, match="white space"):
        score_choices(tiny_model(), tiny_tokenizer(), ["a:", "b\n"], CHOICES)
