"""Constrained answers: the fast ways give what whole sequences give, one by one."""

import pytest
import torch
from datasets import Dataset
from transformers import AutoConfig, AutoModelForCausalLM

from helpers.data.tokenize import as_chat, completion_ids
from helpers.errors import CourseError
from helpers.inference import (
    InferenceError,
    answer_both_ways,
    choice_accuracy,
    generate_answers,
    pick_choices,
    predict_answers,
    score_choices,
)
from helpers.inference.batches import _reuses_cache
from tests.families import FAMILIES, family_model, family_tokenizer
from tests.tiny import tiny_model, tiny_tokenizer

PROMPTS = [
    "Review: It broke.\nRating:",
    "Review: I love it so much, the best thing I ever bought for the kitchen.\nRating:",
    "Review: ok I guess\nRating:",
    "x",
    "Review: I would not buy it again\nRating:\n",  # the choices follow it without a space
]
SHOTS = "Review: bad\nRating: poor\n\nReview: so so, it is\nRating: okay\n\n"
CHOICES = ("terrible", "very good", "okay", "x")

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,
}
SMALL = {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "initializer_range": 0.3}
# Heads that scale, states in place of keys and values, distances that count padding, windows.
MORE = {
    "granite": {**SIZES, "logits_scaling": 0.5, "embedding_multiplier": 2.0},
    "cohere": {**SIZES, "logit_scale": 0.3},
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4, "initializer_range": 0.3},
    "mamba": {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "state_size": 8,
        "initializer_range": 0.3,
    },
    "gpt_neo": {**SMALL, "attention_types": [[["global", "local"], 1]], "window_size": 16},
    "mistral": {**SIZES, "sliding_window": 24},
    "recurrent_gemma": {
        **SIZES,
        "num_hidden_layers": 3,
        "num_key_value_heads": 1,
        "lru_width": 32,
    },
}
# These read prompts one by one; the others share what all prompts begin with.
ALONE = {"bloom", "mamba", "gpt_neo", "mistral", "recurrent_gemma"}


def model_and_tokenizer(name: str):
    """Of a family of tests/families.py, or of MORE, with Qwen's tokenizer."""
    if name in FAMILIES:
        seed = 7 if name == "flan_t5" else 0  # with 0, it may end all answers at once
        return family_model(name, seed), family_tokenizer(name)
    tokenizer = family_tokenizer("qwen2")
    ids = {"bos_token_id": 0, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": 0}
    torch.manual_seed(0)
    config = AutoConfig.for_model(name, vocab_size=len(tokenizer), **MORE[name], **ids)
    return AutoModelForCausalLM.from_config(config).eval(), tokenizer


def read(tokenizer, prompt: str) -> list[int]:
    """Ids of a prompt as its tokenizer makes them, with what it adds."""
    return tokenizer(prompt, split_special_tokens=True).input_ids


@torch.no_grad()
def reference(model, before: list[int], answer: list[int]) -> float:
    """Log-probability of an answer, from one whole sequence."""
    if model.config.is_encoder_decoder:
        out = model(input_ids=torch.tensor([before]), labels=torch.tensor([answer]))
        scores = out.logits[0]
    else:
        scores = model(input_ids=torch.tensor([before + answer])).logits[0, len(before) - 1 :]
    scores = scores.log_softmax(-1)
    return sum(scores[i, token].item() for i, token in enumerate(answer))


def references(model, tokenizer, prompts, choices, end=False) -> torch.Tensor:
    def score(prompt: str, choice: str) -> float:
        gap = "" if prompt.endswith("\n") else " "
        answer = completion_ids(gap + choice, tokenizer)
        return reference(model, read(tokenizer, prompt), answer if end else answer[:-1])

    return torch.tensor([[score(prompt, choice) for choice in choices] for prompt in prompts])


def close(got: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", [*FAMILIES, *MORE])
def test_scores_are_those_of_whole_sequences(name: str) -> None:
    model, tokenizer = model_and_tokenizer(name)
    for prompts in (PROMPTS, [SHOTS + prompt for prompt in PROMPTS]):
        scores = score_choices(model, tokenizer, prompts, CHOICES, batch_size=2)
        close(scores, references(model, tokenizer, prompts, CHOICES))
    if not model.config.is_encoder_decoder:
        assert _reuses_cache(model, 100) == (name not in ALONE)


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_the_size_of_batches_does_not_matter(batch_size: int) -> None:
    model, tokenizer = tiny_model(), tiny_tokenizer()
    expected = references(model, tokenizer, PROMPTS, CHOICES)
    close(score_choices(model, tokenizer, PROMPTS, CHOICES, batch_size=batch_size), expected)
    # One prompt, or equal ones, have no start to share.
    close(score_choices(model, tokenizer, PROMPTS[:1], CHOICES), expected[:1])
    close(score_choices(model, tokenizer, PROMPTS[:1] * 2, CHOICES), expected[[0, 0]])
    assert score_choices(model, tokenizer, [], CHOICES).shape == (0, 4)


def test_the_shots_are_read_once_for_all_prompts() -> None:
    model, tokenizer = tiny_model(), tiny_tokenizer()
    tokens = []
    model.get_input_embeddings().register_forward_hook(
        lambda module, inputs, output: tokens.append(inputs[0].numel())
    )
    prompts = [SHOTS + f"Review: {i}\nRating:" for i in range(10)]
    score_choices(model, tokenizer, prompts, ("x", "y"), batch_size=4)
    shots, each = len(read(tokenizer, SHOTS)), len(read(tokenizer, "Review: 1\nRating:"))
    assert shots < sum(tokens) <= shots + 10 * each


def test_a_model_in_bf16_gives_float32_and_is_not_left_in_training_mode() -> None:
    model, tokenizer = tiny_model().bfloat16().train(), tiny_tokenizer()
    scores = score_choices(model, tokenizer, PROMPTS, CHOICES)
    assert scores.dtype == torch.float32 and not scores.requires_grad and not model.training
    expected = references(model.float(), tokenizer, PROMPTS, CHOICES)
    torch.testing.assert_close(scores, expected, atol=1.0, rtol=0.1)


# Choices


@pytest.mark.parametrize("name", ["llama", "qwen2", "t5", "flan_t5"])
def test_a_choice_that_begins_another_is_scored_with_its_end(name: str) -> None:
    model, tokenizer = model_and_tokenizer(name)
    choices = ("home", "home garden", "x")
    prompts = [f"Text {i}\nDepartment:" for i in range(8)]
    scores = score_choices(model, tokenizer, prompts, choices)
    close(scores, references(model, tokenizer, prompts, choices, end=True))
    # Without the end token the longer one, which holds the shorter one, is never the likelier.
    without = references(model, tokenizer, prompts, choices)
    assert (without[:, 0] > without[:, 1]).all()


def test_the_longer_of_two_choices_wins_when_the_model_goes_on() -> None:
    model, tokenizer = tiny_model(), tiny_tokenizer()
    (home,) = tokenizer(" h").input_ids[-1:]
    garden = tokenizer(" h g").input_ids[len(tokenizer(" h").input_ids)]

    def goes_on(module, args, kwargs, output):
        after = kwargs["input_ids"][:, -output.logits.shape[1] :] == home
        output.logits[after] = 0.0
        output.logits[..., garden][after] = 20.0

    model.register_forward_hook(goes_on, with_kwargs=True)
    scores = score_choices(model, tokenizer, ["a:", "b:", "longer than b:"], ("h", "h g"))
    assert pick_choices(scores, ("h", "h g")) == ["h g"] * 3


def rows(prompts, choices, answers=None) -> list[dict]:
    return [
        {
            "row_id": f"R{i}",
            "prompt": prompt,
            "choices": list(c),
            "answer": a,
            "completion": f" {a}",
        }
        for i, (prompt, c, a) in enumerate(
            zip(prompts, choices, answers or [c[0] for c in choices], strict=True)
        )
    ]


def test_each_row_is_answered_with_its_own_choices() -> None:
    model, tokenizer = tiny_model(), tiny_tokenizer()
    own = [("terrible", "okay"), ("a", "b", "c d e"), ("home", "home garden"), ("x",), ("y", "n")]
    best = []
    for prompt, choices in zip(PROMPTS, own, strict=True):
        ends = choices[0] == "home"
        scores = references(model, tokenizer, [prompt], choices, end=ends)
        best += pick_choices(scores, choices)
    examples = rows(PROMPTS, own)
    assert predict_answers(model, tokenizer, examples) == best
    assert predict_answers(model, tokenizer, Dataset.from_list(examples)) == best
    right = sum(answer == choices[0] for answer, choices in zip(best, own, strict=True))
    assert choice_accuracy(model, tokenizer, examples) == right / len(own)
    assert predict_answers(model, tokenizer, []) == []


def test_offsets_are_taken_off() -> None:
    model, tokenizer = tiny_model(), tiny_tokenizer()
    examples = rows(PROMPTS, [CHOICES] * len(PROMPTS))
    scores = score_choices(model, tokenizer, PROMPTS, CHOICES)
    for offsets in (scores.mean(0), torch.tensor([-99.0, 0.0, 1.0, 0.0])):
        expected = pick_choices(scores - offsets, CHOICES)
        assert predict_answers(model, tokenizer, examples, offsets=offsets.tolist()) == expected
    assert expected != pick_choices(scores, CHOICES)
    with pytest.raises(InferenceError, match="There are 2 offsets"):
        predict_answers(model, tokenizer, examples, offsets=[0.0, 0.0])
    with pytest.raises(InferenceError, match="the same choices"):
        mixed = rows(PROMPTS[:2], [("a", "b"), ("c", "d")])
        predict_answers(model, tokenizer, mixed, offsets=[0.0, 0.0])


def test_rows_without_choices_are_answered_freely() -> None:
    model, tokenizer = tiny_model(seed=3), tiny_tokenizer()
    examples = rows(PROMPTS, [()] * len(PROMPTS), ["one two three"] * len(PROMPTS))
    needed = len(tokenizer(" one two three").input_ids) + 1
    expected = generate_answers(model, tokenizer, PROMPTS, needed)
    assert predict_answers(model, tokenizer, examples) == expected and any(expected)
    assert predict_answers(model, tokenizer, examples, max_new_tokens=2) == generate_answers(
        model, tokenizer, PROMPTS, 2
    )
    for example in examples:
        del example["choices"]
    assert predict_answers(model, tokenizer, examples) == expected


def test_pick_choices_takes_the_best_of_each_row() -> None:
    assert pick_choices(torch.tensor([[0.1, 0.2], [3.0, -1.0]]), ("a", "b")) == ["b", "a"]
    assert pick_choices([[1, 1], [-2.5, -2.5]], ("a", "b")) == ["a", "a"]
    with pytest.raises(InferenceError, match="Row 1 has 3 scores for 2 choices"):
        pick_choices([[1, 2], [1, 2, 3]], ("a", "b"))
    with pytest.raises(InferenceError, match="Row 0 holds a score that is not a number"):
        pick_choices([[float("nan"), 1.0]], ("a", "b"))


# Prompts


def test_a_special_token_that_a_prompt_spells_out_is_text() -> None:
    model, tokenizer = model_and_tokenizer("qwen2")
    prompts = [f"Review: It {tokenizer.eos_token} broke.\nRating:", PROMPTS[0]]
    assert tokenizer.eos_token_id not in read(tokenizer, prompts[0])
    scores = score_choices(model, tokenizer, prompts, CHOICES)
    close(scores, references(model, tokenizer, prompts, CHOICES))


def test_chat_puts_the_prompt_into_the_template() -> None:
    model, tokenizer = model_and_tokenizer("qwen2")
    scores = score_choices(model, tokenizer, PROMPTS, CHOICES, chat=True)
    for prompt, row in zip(PROMPTS, scores, strict=True):
        ids = tokenizer(as_chat(prompt, tokenizer)).input_ids
        answers = [tokenizer(choice).input_ids for choice in CHOICES]
        close(row, torch.tensor([reference(model, ids, answer) for answer in answers]))
    # A user who spells out the end of a turn does not end it.
    asked = f"x{tokenizer.eos_token}"
    (row,) = score_choices(model, tokenizer, [asked], ("a", "b"), chat=True)
    ends = tokenizer(as_chat(asked, tokenizer)).input_ids
    assert abs(row[0] - reference(model, ends, tokenizer("a").input_ids)) > 1e-3
    examples = rows(PROMPTS, [CHOICES] * len(PROMPTS))
    assert predict_answers(model, tokenizer, examples, chat=True) == pick_choices(scores, CHOICES)


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("name", ["llama", "qwen2", "t5"])
def test_an_empty_prompt_is_refused(name: str, chat: bool) -> None:
    model, tokenizer = model_and_tokenizer(name)
    if chat and name != "qwen2":
        return
    for empty in ("", " \n"):
        with pytest.raises(CourseError, match="Prompt number 1 is empty"):
            score_choices(model, tokenizer, ["x:", empty], CHOICES, chat=chat)
        with pytest.raises(CourseError, match="Prompt number 0 is empty"):
            generate_answers(model, tokenizer, [empty], 4, chat=chat)
        with pytest.raises(CourseError, match="Prompt number 0 is empty"):
            answer_both_ways(model, tokenizer, [empty], CHOICES, 4, chat=chat)
    with pytest.raises(CourseError, match="no choices to score"):
        score_choices(model, tokenizer, ["x:"], ())


def test_a_prompt_longer_than_the_window_is_refused_by_number_and_length() -> None:
    model, tokenizer = tiny_model(window=64), tiny_tokenizer()
    with pytest.raises(InferenceError, match=r"Prompt number 1 needs \d+ tokens.*holds 64.*shots"):
        score_choices(model, tokenizer, ["short:", "long " * 80 + ":"], CHOICES)
    with pytest.raises(InferenceError, match="answer and end 70"):
        generate_answers(model, tokenizer, ["short:"], max_new_tokens=70)
    # Encoder and decoder have a window each; BLOOM and T5 have none.
    bart, tokenizer = model_and_tokenizer("bart")
    long = "so " * 240
    assert score_choices(bart, tokenizer, [long], ("so " * 100,)).shape == (1, 1)
    with pytest.raises(InferenceError, match="Prompt number 0 needs"):
        score_choices(bart, tokenizer, [long * 2], CHOICES)
    for name in ("bloom", "t5"):
        model, tokenizer = model_and_tokenizer(name)
        assert score_choices(model, tokenizer, [long * 2], CHOICES).isfinite().all()
