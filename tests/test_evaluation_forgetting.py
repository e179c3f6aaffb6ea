"""What one task does to others, measured on tiny models; the mixture; the texts in data/."""

import copy
import json
from dataclasses import asdict
from statistics import fmean
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from rouge_score.rouge_scorer import RougeScorer
from torch.nn.functional import cross_entropy

from helpers import machine
from helpers.data.tokenize import IGNORE, as_chat
from helpers.errors import CourseError
from helpers.evaluation.forgetting import (
    Change,
    EvalResult,
    EvalSuite,
    Metric,
    _answer_calibrated,
    load_prose,
    load_questions,
    mix,
    tokenize_text,
)
from helpers.evaluation.uncertainty import mean_interval, paired_change
from helpers.inference import generate, generate_answers, score, score_choices
from helpers.training import loss as training_loss
from tests.families import family_model, family_tokenizer

CHOICES = ["good", "bad"]
TEXTS = ["The kettle broke on the first day.", "Fine.", "It does what it should do, and no more."]


def rows_of(question: str, answers: list[str], choices=None) -> Dataset:
    rows = []
    for number, (text, answer) in enumerate(zip(TEXTS, answers, strict=True)):
        row = {"row_id": f"R{number}", "product": ["kettle", "Kettle", "lamp"][number]}
        row |= {"prompt": f"{text}\n{question}:", "completion": f" {answer}", "answer": answer}
        rows.append(row | ({"choices": choices[number]} if choices else {}))
    return Dataset.from_list(rows)


def suite(tokenizer, question: str = "Rating") -> EvalSuite:
    same, own = [CHOICES] * 3, [CHOICES, ["a", "b", "c"], CHOICES]
    kinds = {"kind": "classification", "references": (), "group": "product"}
    text = {"kind": "text", "references": (), "group": None}
    return EvalSuite(
        tokenizer,
        {
            "rating": (
                SimpleNamespace(**kinds),
                rows_of(question, ["good", "bad", "good"], same),
            ),
            "quiz": (SimpleNamespace(**kinds), rows_of("Answer", ["good", "c", "bad"], own)),
            "headline": (SimpleNamespace(**text), rows_of("Headline", TEXTS)),
        },
    )


@pytest.fixture(scope="module", params=["qwen2", "gpt2", "t5", "bart"])
def measured(request):
    """A suite, a model (with and without a chat template or an encoder), and its result."""
    name = request.param
    tokenizer, model = copy.deepcopy(family_tokenizer(name)), family_model(name)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token  # as load_model does
    one = suite(tokenizer)
    return one, model, one.evaluate(model)


# ---- the suite


def test_there_is_a_number_for_each_unit_of_each_metric(measured) -> None:
    one, model, result = measured
    assert (
        list(result.values)
        == list(one.metrics)
        == [
            "rating, accuracy",
            "rating, loss (nats)",
            "quiz, accuracy",
            "quiz, loss (nats)",
            "headline, ROUGE-1",
            "prose, loss (nats/token)",
            "questions, share right",
        ]
    )
    units = [3, 3, 3, 3, 3, len(load_prose()), len(load_questions())]
    assert [len(values) for values in result.values.values()] == units
    for name, metric in one.metrics.items():
        assert metric.lower_is_better == ("loss" in name)
        groups = ("kettle", "kettle", "lamp") if name[0] in "rq" and "," in name[:7] else None
        assert name.startswith("questions") or metric.groups == groups
    assert EvalResult(**json.loads(json.dumps(asdict(result)))) == result


def test_a_run_in_bfloat16_with_dropout_measures_the_same(measured) -> None:
    one, model, result = measured
    model.train()
    with torch.autocast("cpu", torch.bfloat16):
        again = one.evaluate(model)
    assert model.training
    model.eval()
    assert again == result


def test_few_rows_are_read_at_once_where_memory_is_short(monkeypatch) -> None:
    read = {(score, "read_prompts"), (generate, "read_prompts"), (training_loss, "_by_length")}
    sizes = set()
    for module, name in read:
        real = getattr(module, name)

        def counted(*given, real=real, module=module):
            sizes.add((module, given[-1]))
            return real(*given)

        monkeypatch.setattr(module, name, counted)
    one, model = suite(family_tokenizer("qwen2")), family_model("qwen2")
    for memory, rows in ((8_000_000_000, 16), (3_000_000_000, 4)):
        monkeypatch.setattr(machine, "usable_memory", lambda memory=memory: memory)
        sizes.clear()
        one.evaluate(model)
        assert sizes == {(module, rows) for module, _ in read}


def test_choices_are_calibrated_and_their_loss_is_that_of_the_right_one(measured) -> None:
    one, model, result = measured
    rows = one.tasks["rating"][1]
    prompts = [row["prompt"] for row in rows]
    scores = score_choices(model, one.tokenizer, prompts, CHOICES)
    scores, right = scores - scores.mean(0), torch.tensor([0, 1, 0])
    losses = cross_entropy(scores, right, reduction="none").tolist()
    assert result.values["rating, loss (nats)"] == pytest.approx(losses, rel=1e-4, abs=1e-5)
    assert result.values["rating, accuracy"] == (scores.argmax(1) == right).float().tolist()
    assert result.answers["rating"] == [CHOICES[i] for i in scores.argmax(1)]


def test_rows_with_choices_of_their_own_are_scored_by_these(measured) -> None:
    one, model, result = measured
    found = result.answers["quiz"], result.values["quiz, loss (nats)"]
    for row, answer, loss in zip(one.tasks["quiz"][1], *found, strict=True):
        scores = score_choices(model, one.tokenizer, [row["prompt"]], row["choices"])
        assert answer == row["choices"][scores[0].argmax()]
        right = torch.tensor([row["choices"].index(row["answer"])])
        assert loss == pytest.approx(cross_entropy(scores, right).item(), rel=1e-4, abs=1e-5)


def test_texts_are_scored_by_rouge(measured) -> None:
    one, _, result = measured
    scorer = RougeScorer(["rouge1"])
    pairs = zip(TEXTS, result.answers["headline"], strict=True)
    theirs = [scorer.score(right, said)["rouge1"].fmeasure for right, said in pairs]
    assert result.values["headline, ROUGE-1"] == pytest.approx(theirs)


def test_the_loss_of_prose_is_the_models_own(measured) -> None:
    one, model, result = measured
    losses = result.values["prose, loss (nats/token)"]
    for text, loss in list(zip(load_prose(), losses, strict=True))[::8]:
        row = tokenize_text(text, one.tokenizer, model.config)
        batch = {name: torch.tensor([ids]) for name, ids in row.items()}
        with torch.no_grad():
            assert loss == pytest.approx(model(**batch).loss.item(), rel=1e-4)


def test_questions_are_put_as_a_chat_where_there_is_a_template(measured) -> None:
    one, model, result = measured
    question = load_questions()[0].question
    answer = result.answers["questions"][0]
    if one.tokenizer.chat_template:
        prompt = as_chat(question, one.tokenizer)
        ids = one.tokenizer(prompt, add_special_tokens=False, return_tensors="pt")
        out = model.generate(**ids, max_new_tokens=20, do_sample=False)[0, ids.input_ids.shape[1] :]
        said = one.tokenizer.decode(out, skip_special_tokens=True).strip().splitlines()
        assert answer == (said[0].strip() if said else "")
    else:
        prompt = f"Question: {question}\nAnswer:"
        assert [answer] == generate_answers(model, one.tokenizer, [prompt], 20)


def test_evaluating_twice_gives_the_same_and_another_model_does_not() -> None:
    one = suite(family_tokenizer("qwen2"))
    result = one.evaluate(family_model("qwen2"))
    assert one.evaluate(family_model("qwen2")) == result
    assert one.evaluate(family_model("qwen2", seed=1)).values != result.values


def test_the_key_changes_with_what_is_measured() -> None:
    tokenizer = family_tokenizer("qwen2")
    assert suite(tokenizer).key == suite(tokenizer).key != suite(tokenizer, "Stars").key


def test_one_row_is_not_calibrated_to_nothing() -> None:
    rows = list(rows_of("Rating", ["good", "bad", "good"], [CHOICES] * 3))
    model, tokenizer = family_model("qwen2"), family_tokenizer("qwen2")
    answers, losses = _answer_calibrated(model, tokenizer, rows, 16)
    assert len(answers) == len(losses) == 3 and set(answers) <= set(CHOICES)


# ---- plain texts


def test_each_token_of_a_plain_text_is_labelled_but_the_first() -> None:
    gpt2, llama = family_tokenizer("gpt2"), family_tokenizer("llama")
    row = tokenize_text(TEXTS[0], gpt2, family_model("gpt2").config)
    assert gpt2.decode(row["input_ids"]) == TEXTS[0]
    assert row["labels"] == [IGNORE, *row["input_ids"][1:]]
    # Where the tokenizer puts a token before every text, all of the text is labelled.
    row = tokenize_text(TEXTS[0], llama, family_model("llama").config)
    assert row["input_ids"] == llama(TEXTS[0]).input_ids
    assert llama.decode(row["labels"][1:]).strip() == TEXTS[0]


def test_an_encoder_reads_one_half_and_the_decoder_writes_the_other() -> None:
    tokenizer = family_tokenizer("t5")
    row = tokenize_text("one two three four five", tokenizer, family_model("t5").config)
    assert tokenizer.decode(row["input_ids"], skip_special_tokens=True) == "one two"
    assert row["labels"] == tokenizer("three four five").input_ids


def test_the_prose_is_twenty_or_more_paragraphs_of_like_length() -> None:
    lengths = [len(text.split()) for text in load_prose()]
    assert len(lengths) == len(set(load_prose())) >= 20  # fewer make bootstrap intervals too narrow
    assert min(lengths) > 30 and max(lengths) < 60


def test_no_question_holds_its_answer() -> None:
    questions = load_questions()
    assert len({one.question for one in questions}) == len(questions) == 24
    for one in questions:
        words = one.question.lower().split()
        assert one.answers and not any(answer.lower() in words for answer in one.answers)


# ---- metrics and changes


def test_a_metric_has_the_intervals_of_its_groups() -> None:
    values, after, groups = [1.0, 1.0, 5.0, 5.0, 3.0], [1.0, 2.0, 5.0, 9.0, 3.0], tuple("aabbc")
    metric = Metric("m", groups, lower_is_better=True)
    assert metric.interval(values) == mean_interval(values, groups) != mean_interval(values)
    change = metric.change(values, after)
    assert (change.mean, change.low, change.high) == paired_change(values, after, groups)
    assert change.lower_is_better and change.mean == pytest.approx(fmean(after) - fmean(values))
    assert metric.change(values, values).verdict == "no clear difference"
    assert str(Change(0.2, 0.1, 0.3, True)) == "+0.200 (+0.100 to +0.300): clearly worse"


# ---- the mixture


def test_the_mixture_is_as_long_as_before() -> None:
    course, others = [f"c{n}" for n in range(96)], [f"o{n}" for n in range(40)]
    mixed = mix(course, others, 0.1)
    assert len(mixed) == 96 and len(set(mixed)) == 96
    assert mixed[:86] == course[:86] and mixed[86:] == others[:10]
    assert mix(course, others, 0) == course
    assert mix(course[:4], others, 1) == others[:4]


def test_datasets_of_different_tasks_are_mixed() -> None:
    course = rows_of("Rating", ["good", "bad", "good"], [CHOICES] * 3)
    other = rows_of("Headline", TEXTS).add_column("topic", [1, 2, 3])
    mixed = mix(course, other, 1 / 3)
    assert mixed["completion"][:] == [" good", " bad", f" {TEXTS[0]}"]
    assert mixed.column_names == ["prompt", "completion", "answer", "row_id"]


@pytest.mark.parametrize(("others", "share"), [(["o"], 0.5), (["o"] * 9, 1.5), (["o"] * 9, -0.1)])
def test_a_mixture_that_cannot_be_made_is_refused(others, share) -> None:
    with pytest.raises(CourseError):
        mix(["c"] * 4, others, share)
