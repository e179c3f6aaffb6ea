"""Free answers: what transformers' generate gives row by row, without padding."""

import logging
from types import SimpleNamespace

import nbformat
import pytest
import torch
from transformers import GenerationConfig

from helpers.data.tokenize import completion_ids
from helpers.inference import (
    answer_both_ways,
    answer_length,
    generate_answers,
    predict_answers,
    score_choices,
)
from helpers.profiles import ROOT
from tests.families import DECODERS, FAMILIES
from tests.test_inference_score import (
    CHOICES,
    MORE,
    PROMPTS,
    SHOTS,
    close,
    model_and_tokenizer,
    read,
)
from tests.tiny import tiny_model, tiny_tokenizer


def generated(model, tokenizer, prompt: str, most: int = 10) -> list[int]:
    """Tokens of one answer, by generate alone."""
    ids = torch.tensor([read(tokenizer, prompt)])
    model.generation_config.forced_eos_token_id = None  # BART's
    settings = {"max_new_tokens": most, "do_sample": False, "eos_token_id": tokenizer.eos_token_id}
    out = model.generate(ids, attention_mask=torch.ones_like(ids), pad_token_id=0, **settings)
    return out[0, 1 if model.config.is_encoder_decoder else ids.shape[1] :].tolist()


def first_line(tokenizer, ids: list[int]) -> str:
    return (tokenizer.decode(ids, skip_special_tokens=True).strip().splitlines() or [""])[0].strip()


# transformers 5.23 itself gives another answer at each call of generate for RecurrentGemma.
@pytest.mark.parametrize("name", [*FAMILIES, *sorted(MORE.keys() - {"recurrent_gemma"})])
def test_answers_are_those_of_generate_row_by_row(name: str) -> None:
    model, tokenizer = model_and_tokenizer(name)
    for prompts in (PROMPTS, [SHOTS + prompt for prompt in PROMPTS[:3]]):
        answers = generate_answers(model, tokenizer, prompts, 6, batch_size=2)
        expected = [first_line(tokenizer, generated(model, tokenizer, p, 6)) for p in prompts]
        assert answers == expected
        assert any(answers)


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_the_size_of_batches_does_not_matter(batch_size: int) -> None:
    model, tokenizer = tiny_model(seed=3), tiny_tokenizer()
    answers = generate_answers(model, tokenizer, PROMPTS, 10, batch_size=batch_size)
    assert answers == [first_line(tokenizer, generated(model, tokenizer, p)) for p in PROMPTS]
    assert generate_answers(model, tokenizer, PROMPTS[:1], 10) == answers[:1]
    assert generate_answers(model, tokenizer, [], 10) == []


@pytest.mark.parametrize("name", ["qwen2", "bart", "mamba"])
def test_settings_that_came_with_the_model_do_not_matter(name: str, caplog) -> None:
    model, tokenizer = model_and_tokenizer(name)
    expected = generate_answers(model, tokenizer, PROMPTS, 10)
    own = GenerationConfig(
        do_sample=True,
        temperature=5.0,
        repetition_penalty=3.0,
        no_repeat_ngram_size=1,
        num_beams=2,
        min_length=200,
        max_length=7,
        forced_eos_token_id=5,
        suppress_tokens=list(range(6, 300)),
        decoder_start_token_id=model.generation_config.decoder_start_token_id,
        eos_token_id=[tokenizer.eos_token_id],
    )
    model.generation_config = own
    logging.getLogger("transformers").addHandler(caplog.handler)
    assert generate_answers(model, tokenizer, PROMPTS, 10) == expected
    assert model.generation_config is own
    logging.getLogger("transformers").removeHandler(caplog.handler)
    told = [record.message for record in caplog.records]
    assert [text for text in told if "PyTorch implementation" not in text] == []  # Mamba's


def scripted(model, tokenizer, prompt: str, script: list[int]) -> list[int]:
    """Let the model write the script after the prompt; returns the positions that it was asked."""
    begin, asked = len(read(tokenizer, prompt)), []

    def say(module, args, kwargs, output):
        position = kwargs["position_ids"][0, -1].item() + 1 - begin
        asked.append(position)
        output.logits.fill_(-10.0)
        output.logits[..., script[position]] = 0.0

    model.register_forward_hook(say, with_kwargs=True)
    return asked


def test_an_answer_ends_with_its_first_line_and_nothing_is_written_on() -> None:
    tokenizer = tiny_tokenizer()
    script = tokenizer("\n good one\nsecond line, quite long").input_ids
    lines = len(tokenizer("\n good one\n").input_ids)
    model = tiny_model()
    asked = scripted(model, tokenizer, "a:", script)
    assert generate_answers(model, tokenizer, ["a:"], max_new_tokens=len(script)) == ["good one"]
    assert max(asked) == lines - 1
    # With all lines, their own white space stays.
    script = tokenizer(" def f(x):\n    return x\n").input_ids
    model = tiny_model()
    scripted(model, tokenizer, "a:", [*script, tokenizer.eos_token_id, *script])
    (answer,) = generate_answers(model, tokenizer, ["a:"], 60, first_line=False)
    assert answer == "def f(x):\n    return x"


def test_an_answer_ends_at_any_end_token() -> None:
    model, tokenizer = model_and_tokenizer("qwen2")
    ids = generated(model, tokenizer, PROMPTS[0])
    end = ids[3]
    assert end not in ids[:3]
    expected = first_line(tokenizer, ids[:3])
    for own, listed in ((end, [tokenizer.eos_token_id]), (None, [tokenizer.eos_token_id, end])):
        model.config.eos_token_id = listed
        model.generation_config.eos_token_id = own
        # In a batch the rows that go on do not change it.
        assert generate_answers(model, tokenizer, PROMPTS, 10)[0] == expected


@pytest.mark.parametrize("name", ["llama", "gemma2", "t5", "bart", "mamba"])
def test_both_ways_at_once_equal_one_after_the_other(name: str) -> None:
    model, tokenizer = model_and_tokenizer(name)
    prompts = [SHOTS + prompt for prompt in PROMPTS]
    scores, answers = answer_both_ways(model, tokenizer, prompts, CHOICES, 10, batch_size=2)
    close(scores, score_choices(model, tokenizer, prompts, CHOICES))
    assert answers == generate_answers(model, tokenizer, prompts, 10)


@pytest.mark.parametrize("name", [*DECODERS, "t5", "bart"])
def test_both_ways_read_each_prompt_once(name: str) -> None:
    model, tokenizer = model_and_tokenizer(name)
    reader = model.get_encoder() if model.config.is_encoder_decoder else model
    lengths = []

    def count(module, args, kwargs, output):
        lengths.append(kwargs["input_ids"].shape[1])

    reader.register_forward_hook(count, with_kwargs=True)
    prompts = [f"Review: it broke {i} times, so I sent it back\nRating:" for i in range(4)]
    answer_both_ways(model, tokenizer, prompts, CHOICES, 5, batch_size=4)
    # Besides the prompts: tokens of choices and answers, a few at a time.
    most = max(len(completion_ids(choice, tokenizer)) for choice in CHOICES)
    assert sum(length for length in lengths if length > most) <= max(
        len(read(tokenizer, prompt)) for prompt in prompts
    )


def test_chat_is_an_answer_to_a_user() -> None:
    model, tokenizer = model_and_tokenizer("qwen2")
    message = [{"role": "user", "content": "ok?"}]
    text = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
    ids = torch.tensor([tokenizer(text).input_ids])
    out = model.generate(ids, max_new_tokens=8, do_sample=False, pad_token_id=0)
    expected = first_line(tokenizer, out[0, ids.shape[1] :].tolist())
    assert generate_answers(model, tokenizer, ["ok?"], 8, chat=True) == [expected]


def test_answer_length_is_that_of_the_longest_answer_with_its_end() -> None:
    tokenizer = tiny_tokenizer()
    examples = [{"completion": " ok"}, {"completion": " it broke and I sent it back"}]
    needed = len(tokenizer(examples[1]["completion"]).input_ids) + 1
    assert answer_length(examples, tokenizer) == needed
    # So much is enough to say it: the last token that is asked for is the end.
    model, script = tiny_model(), completion_ids(examples[1]["completion"], tokenizer)
    asked = scripted(model, tokenizer, "a:", script)
    row = {"prompt": "a:", "answer": "it broke and I sent it back", **examples[1]}
    assert predict_answers(model, tokenizer, [row]) == [row["answer"]]
    assert max(asked) == needed - 1


@pytest.mark.parametrize("lines", [("one",), ("one", "two, too")])
def test_predict_writes_several_lines_where_a_right_answer_has_them(lines) -> None:
    model, tokenizer = tiny_model(), tiny_tokenizer()
    script = completion_ids(" one\ntwo, too", tokenizer)
    scripted(model, tokenizer, "a:", script)
    answer = "\n".join(lines)
    row = {"prompt": "a:", "answer": answer, "completion": f" {answer}"}
    assert predict_answers(model, tokenizer, [row], max_new_tokens=len(script)) == [answer]


def test_notebook_06_writes_all_lines_of_a_text() -> None:
    notebook = nbformat.read(ROOT / "notebooks" / "06_test.ipynb", as_version=4)
    (cell,) = (cell for cell in notebook.cells if cell.id == "06-101")
    model, tokenizer = tiny_model(), tiny_tokenizer()
    scripted(model, tokenizer, "a:", completion_ids(" one\ntwo, too", tokenizer))
    names = {
        "cached": lambda name, facts, respond: respond(),
        "load_model": lambda: (model, tokenizer),
        "start": "",
        "text_prompts": ["a:"],
        "text_task": SimpleNamespace(name="mine"),
        "tokenizer": tokenizer,
        "writer": SimpleNamespace(model=model),
        "writer_version": "",
        "writing": [{"answer": "one\ntwo, too", "completion": " one\ntwo, too"}],
    }
    exec(cell.source, names)
    assert names["written"] == names["started"] == ["one\ntwo, too"]
