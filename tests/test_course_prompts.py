"""Choosing the best prompt: fair candidates, kept on disk, and asked again in the same way."""

import zlib
from dataclasses import replace

import pytest
import torch

from helpers import course, profiles
from helpers.course import PromptChoice, ask, best_prompt, prompt_trials, prompted
from helpers.errors import CourseError
from helpers.templates import TEMPLATES, load_library, make_examples
from helpers.training import History
from tests.tiny import tiny_model, tiny_tokenizer

SMALL = replace(
    profiles.PROFILES["quick"], train_rows=30, validation_rows=12, shots=(1, 3), draws=2
)


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A profile of a few rows, an empty folder for results, and scores without a model."""
    monkeypatch.setenv("COURSE_PROFILE", "small")
    monkeypatch.setenv("COURSE_RUNS", str(tmp_path))
    monkeypatch.setitem(profiles.PROFILES, "small", replace(SMALL, name="small"))
    tokenizer = tiny_tokenizer()
    chat = "{% for m in messages %}<|start|>{{ m.content }}<|end|>\n{% endfor %}"
    monkeypatch.setattr(tokenizer, "chat_template", chat)
    monkeypatch.setattr(course, "score_choices", scores_by_text)
    return None, tokenizer


def scores_by_text(model, tokenizer, prompts, choices):
    """Log-probabilities that depend on the prompt alone, with a strong liking for the second."""
    drawn = [torch.Generator().manual_seed(zlib.crc32(prompt.encode())) for prompt in prompts]
    noise = torch.stack([torch.rand(len(choices), generator=one) for one in drawn])
    return noise - 1 + torch.eye(len(choices))[1]


def choice(**changes) -> PromptChoice:
    return replace(PromptChoice("opinion", "plain", False, 3, 1, (0.0,) * 5, 0, 1), **changes)


def test_a_full_prompt_holds_training_shots_then_the_question(small):
    _, tokenizer = small
    rows = course.validation_rows()
    wording = load_library(TEMPLATES / "opinion.yaml")["plain"]
    plain = make_examples(wording, rows)
    training = make_examples(wording, course.train_rows())
    for example, alone in zip(prompted(choice(), rows, tokenizer), plain, strict=True):
        *shots, question = example.prompt.split("\n\n")
        assert question == alone.prompt and example.completion == alone.completion
        shown = [f"{one.prompt} {one.completion}" for one in training]
        assert len(shots) == 3 and set(shots) <= set(shown)
    assert [e.prompt for e in prompted(choice(shots=0), rows, tokenizer)] == [
        e.prompt for e in plain
    ]


def test_as_chat_the_whole_prompt_is_one_message(small):
    _, tokenizer = small
    rows = course.validation_rows()
    plain, chat = (prompted(choice(chat=flag), rows, tokenizer) for flag in (False, True))
    assert [f"<|start|>{e.prompt}<|end|>\n" for e in plain] == [e.prompt for e in chat]


def test_offsets_are_taken_off_before_the_largest_is_picked(small):
    model, tokenizer = small
    rows = course.validation_rows()
    prompts = [e.prompt for e in prompted(choice(), rows, tokenizer)]
    choices = course.course_template().choices
    scores = scores_by_text(model, tokenizer, prompts, choices)
    expected = [choices[i] for i in scores.argmax(1)]
    assert ask(choice(), model, tokenizer, rows) == expected
    far = choice(offsets=(0.0, 0.0, 0.0, -1000.0, 0.0))
    assert ask(far, model, tokenizer, rows) == ["good"] * len(rows)


def test_trials_cover_wordings_chat_shots_and_draws_and_count_what_ask_answers(small):
    model, tokenizer = small
    trials = prompt_trials(model, tokenizer)
    bare = [t for t in trials if t.shots == 0]
    assert len({(t.template, t.chat) for t in bare}) == 10 and len(bare) == 20
    shown = [t for t in trials if t.shots]
    assert len(shown) == 2 * 2 * 2 * 2  # wordings, numbers, draws, calibrated or not
    assert {(t.shots, t.seed) for t in shown} == {(1, 0), (1, 1), (3, 0), (3, 1)}
    two_best = sorted(bare, key=lambda t: -t.correct)
    assert (two_best[0].template, two_best[0].chat) in {(t.template, t.chat) for t in shown}
    truth = [e.completion for e in course.validation_examples()]
    for trial in trials[::7]:
        answers = ask(trial, model, tokenizer, course.validation_rows())
        assert sum(a == b for a, b in zip(answers, truth, strict=True)) == trial.correct
        assert trial.total == 12


def test_the_mean_over_validation_prompts_is_taken_off_and_leaving_a_row_out_changes_nothing(small):
    model, tokenizer = small
    calibrated = [t for t in prompt_trials(model, tokenizer) if t.calibrated][-1]
    rows = course.validation_rows()
    prompts = [e.prompt for e in prompted(calibrated, rows, tokenizer)]
    choices = course.course_template().choices
    scores = scores_by_text(model, tokenizer, prompts, choices)
    torch.testing.assert_close(torch.tensor(calibrated.offsets), scores.mean(0))
    others = (scores.sum(0) - scores) / (len(rows) - 1)
    answers = [choices[i] for i in (scores - others).argmax(1)]
    assert answers == ask(calibrated, model, tokenizer, rows)


def test_trials_are_kept_until_something_they_depend_on_changes(small, monkeypatch, capsys):
    model, tokenizer = small
    first = prompt_trials(model, tokenizer)
    monkeypatch.setattr(course, "score_choices", None)  # asking the model again would fail
    assert prompt_trials(model, tokenizer) == first
    assert "Read from disk" in capsys.readouterr().out
    best = best_prompt()
    assert best.correct == max(t.correct for t in first)
    assert best == next(t for t in first if t.correct == best.correct)
    monkeypatch.setitem(profiles.PROFILES, "small", replace(SMALL, name="small", draws=1))
    monkeypatch.setattr(course, "load_model", lambda: (tiny_model(), small[1]))
    with pytest.raises(TypeError):
        best_prompt()


def test_best_prompt_tries_them_itself_when_nothing_is_kept(small, monkeypatch, capsys):
    monkeypatch.setattr(course, "load_model", lambda: (tiny_model(), small[1]))
    best = best_prompt()
    assert "notebook 01" in capsys.readouterr().out
    assert best == best_prompt() and best.accuracy == best.correct / 12


def test_wordings_that_show_more_columns_than_tuning_are_left_out(small):
    names = {t.template for t in prompt_trials(*small, task="department")}
    assert "plain" in names and "title" not in names


def test_a_choice_says_what_it_is_in_words():
    assert str(choice()) == "plain, 3 shots (draw 1)"
    said = str(choice(chat=True, shots=0, offsets=(1.0, 0.0)))
    assert said == "plain, as chat, 0 shots, calibrated"


def test_an_interrupted_training_is_no_tuned_model(small, monkeypatch):
    monkeypatch.setattr(course, "load_model", lambda: (tiny_model(), small[1]))

    def interrupted(*_, **__):
        return History(total_steps=2, steps_per_epoch=2, stopped="interrupted")

    monkeypatch.setattr(course, "train", interrupted)
    with pytest.raises(CourseError, match="goes on from the run's last checkpoint"):
        course.tuned()


def test_a_profile_that_does_not_exist_is_refused_with_those_that_do(monkeypatch):
    monkeypatch.setenv("COURSE_PROFILE", "huge")
    with pytest.raises(CourseError, match="no profile 'huge'.*smoke, quick, laptop, gpu"):
        profiles.profile()


def test_kept_results_come_back_and_a_folder_that_cannot_be_written_is_named(small, monkeypatch):
    assert course.recall("thing") is None
    course.keep("thing", {"a": [1, 2.5]})
    assert course.recall("thing") == {"a": [1, 2.5]}
    blocked = profiles.runs() / "file"
    blocked.write_text("a file where a folder should be")
    monkeypatch.setenv("COURSE_RUNS", str(blocked))
    with pytest.raises(CourseError, match=r"'thing' could not be kept.*COURSE_RUNS"):
        course.keep("thing", 1)


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[: len(text) // 2],
        lambda text: text.replace("2.5", "2.4"),
        lambda text: "null",
        lambda text: "[1]",
        lambda text: '{"a": [1, 2.5]}',
    ],
    ids=["empty", "half", "another digit", "null", "a list", "of an older course"],
)
def test_a_damaged_result_is_kept_aside_and_made_anew(small, capsys, damage):
    course.keep("thing", {"a": [1, 2.5]})
    path = profiles.runs() / "thing.json"
    path.write_text(damage(path.read_text()))
    left = path.read_bytes()
    assert course.recall("thing") is None
    assert "thing.json is damaged" in capsys.readouterr().out
    assert (profiles.runs() / "thing.json.damaged").read_bytes() == left
    course.keep("thing", {"a": [1, 2.5]})
    assert course.recall("thing") == {"a": [1, 2.5]}


def test_a_result_that_cannot_be_read_is_named(small, monkeypatch):
    course.keep("thing", 1)

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(course.Path, "read_text", refuse)
    with pytest.raises(CourseError, match=r"thing.json cannot be read.*Permission.*COURSE_RUNS"):
        course.recall("thing")


def test_trials_of_another_version_of_the_course_are_made_anew(small):
    trials = prompt_trials(*small)
    kept = course.recall("prompts_opinion")
    kept["trials"][0]["temperature"] = 1.0
    course.keep("prompts_opinion", kept)
    assert prompt_trials(*small) == trials
    assert "temperature" not in course.recall("prompts_opinion")["trials"][0]
