"""Choosing the best prompt: fair candidates, kept on disk, and asked again in the same way."""

import json
from dataclasses import replace

import pytest
import torch
import yaml
from datasets import Dataset
from rouge_score.rouge_scorer import RougeScorer
from sklearn.metrics import accuracy_score

from helpers import profiles
from helpers.data.task import load_examples, load_task
from helpers.data.tokenize import prompt_ids
from helpers.errors import CourseError
from helpers.evaluation import prompt_search
from helpers.evaluation.metrics import row_scores
from helpers.evaluation.prompt_search import (
    PromptChoice,
    best_prompt,
    build_prompts,
    calibrate,
    kept_prompts,
    label_bias,
    predict_with,
    search_prompts,
)
from helpers.inference import answer_length, score_choices
from helpers.inference.few_shot import draw_shots, shots_prefix
from tests.tiny import tiny_model, tiny_tokenizer

SMALL = replace(
    profiles.PROFILES["smoke"],
    name="small",
    train_rows=30,
    validation_rows=12,
    eval_rows=5,
    shots=(1, 3),
    draws=2,
)
CHAT = "{% for m in messages %}<|start|>{{ m.content }}<|end|>\n{% endfor %}"


@pytest.fixture(scope="module", autouse=True)
def small(tmp_path_factory):
    """A profile of a few rows, and a folder for results that the tests of this file share."""
    loaded = {}

    def load_once(task):
        key = (task.name, profiles.profile())
        loaded[key] = loaded.get(key) or load_examples(task)
        return loaded[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COURSE_PROFILE", "small")
        patch.setenv("COURSE_RUNS", str(tmp_path_factory.mktemp("runs")))
        patch.setitem(profiles.PROFILES, "small", SMALL)
        patch.setattr(prompt_search, "load_examples", load_once)
        yield


@pytest.fixture(scope="module")
def asked():
    """A model, a tokenizer with a chat template, the task and its examples."""
    tokenizer = tiny_tokenizer()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenizer, "chat_template", CHAT)
        task = load_task("opinion")
        yield tiny_model(window=4096), tokenizer, task, load_examples(task)


@pytest.fixture(scope="module")
def trials(asked):
    return search_prompts(*asked[:3])


def test_a_full_prompt_holds_training_shots_then_the_question(asked) -> None:
    *given, examples = asked
    task, train, validation = given[-1], examples["train"], examples["validation"]
    alone = task.render(validation, "plain")
    shown = {row["prompt"] + row["completion"] for row in task.render(train, "plain")}
    full = build_prompts(PromptChoice("plain", shots=3, seed=1), *given, train, validation)
    assert full["answer"][:] == alone["answer"][:] and full["row_id"][:] == alone["row_id"][:]
    for prompt, question in zip(full["prompt"], alone["prompt"], strict=True):
        *shots, last = prompt.split("\n\n")
        assert last == question and len(set(shots)) == 3 and set(shots) <= shown
    bare = build_prompts(PromptChoice("plain"), *given, train, validation)
    assert bare["prompt"][:] == alone["prompt"][:]


def test_calibrated_choices_are_equally_liked_on_the_whole() -> None:
    scores = torch.tensor([[-1.0, -5.6], [-1.5, -4.5], [-1.2, -6.4]])
    assert calibrate(scores).mean(0).tolist() == pytest.approx([0, 0], abs=1e-6)
    assert calibrate(scores).argmax(1).tolist() == [0, 1, 0]
    others = (scores.sum(0) - scores) / 2  # leaving a row out of its own mean
    assert (scores - others).argmax(1).tolist() == [0, 1, 0]


def test_trials_cover_wordings_chat_shots_and_draws(trials) -> None:
    bare = [t for t in trials if not t.shots]
    assert len({(t.template, t.chat) for t in bare}) == 10 and len(bare) == 20
    shown = [t for t in trials if t.shots]
    assert len(shown) == 2 * 2 * 2 * 2  # wordings, numbers, draws, calibrated or not
    assert {(t.shots, t.seed) for t in shown} == {(1, 0), (1, 1), (3, 0), (3, 1)}
    two_best = sorted(bare, key=lambda t: -t.score)
    assert (two_best[0].template, two_best[0].chat) in {(t.template, t.chat) for t in shown}


def test_scores_are_those_of_what_is_predicted(asked, trials) -> None:
    model, tokenizer, task, examples = asked
    validation = examples["validation"]
    for trial in trials[::5]:
        answers = predict_with(trial, model, tokenizer, task, examples["train"], validation)
        assert list(trial.scores) == row_scores(task, answers, validation)
        assert trial.score == accuracy_score(validation["answer"][:], answers)


def test_offsets_are_the_label_bias_and_are_taken_off(asked, trials) -> None:
    model, tokenizer, task, examples = asked
    choices, train, validation = list(task.choices), examples["train"], examples["validation"]
    for trial in [t for t in trials if t.calibrated][::4]:
        prompts = build_prompts(trial, *asked[:3], train, validation)["prompt"][:]
        scores = score_choices(model, tokenizer, prompts, choices, chat=trial.chat)
        torch.testing.assert_close(torch.tensor(trial.offsets), label_bias(scores))
        expected = [choices[i] for i in (scores - scores.mean(0)).argmax(1)]
        assert predict_with(trial, model, tokenizer, task, train, validation) == expected
    far = PromptChoice("plain", offsets=(0.0, 0.0, 0.0, -1e6, 0.0))
    answers = predict_with(far, model, tokenizer, task, train, validation)
    assert set(answers) == {"good"}


def test_texts_are_scored_by_rouge_on_fewer_rows(asked) -> None:
    model, tokenizer, *_ = asked
    task = load_task("headline")
    examples = load_examples(task)
    rows = examples["validation"].select(range(SMALL.eval_rows))
    found = search_prompts(model, tokenizer, task)
    assert len(found) == 3 * 2 + 2 * 2 * 2 and not any(t.calibrated for t in found)
    scorer = RougeScorer(["rouge1"])
    for trial in (found[0], found[-1]):
        answers = predict_with(trial, model, tokenizer, task, examples["train"], rows)
        pairs = zip(rows["answer"], answers, strict=True)
        theirs = [scorer.score(right, said)["rouge1"].fmeasure for right, said in pairs]
        assert trial.scores == pytest.approx(theirs)


def test_wordings_that_show_more_columns_than_tuning_are_left_out(asked) -> None:
    model, _, *_ = asked
    found = search_prompts(model, tiny_tokenizer(), load_task("department"))
    names = {t.template for t in found}
    assert "plain" in names and "title" not in names


@pytest.fixture(scope="module")
def quiz(tmp_path_factory):
    """A task whose rows have choices of their own."""
    tmp_path = tmp_path_factory.mktemp("quiz")
    rows = [
        {"id": f"q{n}", "question": f"What is {n} + 1?", "a": f"{n + 1}", "b": f"{n}0", "right": 0}
        for n in range(40)
    ]
    (tmp_path / "quiz.jsonl").write_text("\n".join(map(json.dumps, rows)))
    template = {"prompt": "{{ question }} Answer:", "completion": "{{ choices[right] }}"}
    both = ["{{ a }}", "{{ b }}"]
    file = {
        "name": "quiz",
        "table": "quiz.jsonl",
        "id": "id",
        "metrics": ["accuracy"],
        "template": "one",
        "templates": [
            {"name": "one", **template, "choices": both},
            {"name": "two", **template, "prompt": "Say: {{ question }}", "choices": both},
            {"name": "odd", **template, "prompt": "{{ question }}?\t", "choices": both},
        ],
    }
    (tmp_path / "quiz.yaml").write_text(yaml.safe_dump(file))
    return load_task(tmp_path / "quiz.yaml")


def test_trials_are_kept_until_something_they_depend_on_changes(asked, quiz, monkeypatch) -> None:
    model, tokenizer, *_ = asked
    first = search_prompts(model, tokenizer, quiz)

    def scored(*_):
        raise RuntimeError("asked the model again")

    monkeypatch.setattr(prompt_search, "_scored", scored)
    assert search_prompts(model, tokenizer, quiz) == first
    best = best_prompt(model, tokenizer, quiz)
    assert best == next(t for t in first if t.score == max(t.score for t in first))
    with pytest.raises(RuntimeError):  # tuned meanwhile, under the same name
        search_prompts(tiny_model(seed=1, window=4096), tokenizer, quiz)
    validation = load_examples(quiz)["validation"]
    assert kept_prompts(quiz, validation, tokenizer) == first
    assert kept_prompts(quiz, validation.select(range(5)), tokenizer) == []
    assert kept_prompts(replace(quiz, references=("question",)), validation, tokenizer) == []
    with monkeypatch.context() as patch:
        patch.setattr(tokenizer, "name_or_path", "another/model")
        assert kept_prompts(quiz, validation, tokenizer) == []
    some = load_examples(quiz)["train"].select(range(20))
    with pytest.raises(RuntimeError):  # shots are drawn from other rows
        best_prompt(model, tokenizer, quiz, some)
    two = quiz.templates["two"]
    reworded = {**quiz.templates, "two": replace(two, prompt="Hm. " + two.prompt)}
    with pytest.raises(RuntimeError):
        search_prompts(model, tokenizer, replace(quiz, templates=reworded))
    for change in ({"draws": 1}, {"shots": (1,)}, {"train_rows": 20}, {"validation_rows": 4}):
        monkeypatch.setitem(profiles.PROFILES, "small", replace(SMALL, **change))
        with pytest.raises(RuntimeError):
            search_prompts(model, tokenizer, quiz)


def test_wordings_with_other_words_as_answers_are_left_out(asked, quiz, capsys) -> None:
    model, tokenizer, *_ = asked
    one = quiz.templates["one"]
    other = replace(one, name="other", choices=("{{ a }}!", "{{ b }}!"))
    more = replace(quiz, templates=quiz.templates | {"other": other})
    found = search_prompts(model, tokenizer, more)
    assert "other" not in {trial.template for trial in found}
    assert (
        "other: left out. Its answers are other words than those of one" in capsys.readouterr().out
    )


def test_rows_with_choices_of_their_own_are_not_calibrated(asked, quiz, capsys) -> None:
    model, tokenizer, *_ = asked
    found = search_prompts(model, tokenizer, quiz)
    assert {t.template for t in found} == {"one", "two"} and not any(t.calibrated for t in found)
    assert "odd: left out. Template 'odd', row" in capsys.readouterr().out
    examples = load_examples(quiz)
    rows = examples["validation"]
    answers = predict_with(found[0], model, tokenizer, quiz, examples["train"], rows)
    assert all(said in row["choices"] for said, row in zip(answers, rows, strict=True))
    assert list(found[0].scores) == row_scores(quiz, answers, rows)


def test_without_a_chat_template_there_are_no_chats(asked, quiz, monkeypatch) -> None:
    model, tokenizer, *_ = asked
    monkeypatch.setattr(tokenizer, "chat_template", None)
    assert not any(t.chat for t in search_prompts(model, tokenizer, quiz))


def test_prompts_that_do_not_fit_are_left_out_with_a_word(asked, quiz, capsys) -> None:
    model, tokenizer = tiny_model(seed=2, window=48), asked[1]
    found = search_prompts(model, tokenizer, quiz)
    assert {t.shots for t in found} == {0, 1}
    assert "3 shots (draw 0): left out. Prompt number" in capsys.readouterr().out
    with pytest.raises(CourseError, match="No prompt of the task 'quiz' could be tried"):
        search_prompts(tiny_model(seed=1, window=4), tokenizer, quiz)


def test_a_shot_with_the_text_of_a_question_is_not_shown_to_it(asked) -> None:
    *given, examples = asked
    choice, train = PromptChoice("instruction", shots=3, seed=1), examples["train"]
    shot = draw_shots(given[-1].render(train, "instruction"), 3, 1)[0]
    twin = train.filter(lambda row: row["row_id"] == shot["row_id"]).to_list()[0]
    other = examples["validation"].to_list()[0]
    pair = Dataset.from_list([{**twin, "row_id": "twin"}, other])
    alike, usual = build_prompts(choice, *given, train, pair)["prompt"][:]
    assert alike.count("One word:") == 3 and usual.count("One word:") == 4


@pytest.mark.parametrize("chat", [False, True])
def test_a_long_row_has_the_last_shots_that_fit(asked, chat) -> None:
    _, tokenizer, task, examples = asked
    choice, train = PromptChoice("instruction", chat, shots=3, seed=1), examples["train"]
    short = examples["validation"].to_list()[0]
    long = {**short, "row_id": "long", "review_body": "fine " * 600}
    rows = Dataset.from_list([short, long])
    wide, *_ = asked
    whole = build_prompts(choice, wide, tokenizer, task, train, rows)["prompt"][:]
    shots = draw_shots(task.render(train, "instruction"), 3, 1)
    last = shots_prefix(shots[-1:])
    alone = task.render(rows, "instruction")["prompt"][1]
    most = answer_length(train, tokenizer)
    length = len(prompt_ids(last + alone, tokenizer, wide.config, chat=chat))
    for window, kept in ((length + most, last), (length + most - 1, "")):
        narrow = tiny_model(window=window)
        fitting = build_prompts(choice, narrow, tokenizer, task, train, rows)
        assert fitting["prompt"][:] == [whole[0], kept + alone] != whole
        assert len(predict_with(choice, narrow, tokenizer, task, train, rows)) == 2


def test_a_choice_says_what_it_is_in_words() -> None:
    assert str(PromptChoice("plain", shots=3, seed=1)) == "plain, 3 shots (draw 1)"
    said = str(PromptChoice("plain", chat=True, offsets=(1.0, 0.0)))
    assert said == "plain, as chat, 0 shots, calibrated"
