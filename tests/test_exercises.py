"""The exercises' framework on made-up exercises, and every exercise and quiz of the course."""

import ast
import copy
import inspect
import json
import threading
import time
from dataclasses import replace
from functools import cache, partial

import nbformat
import numpy
import pytest
import torch
import yaml

from helpers.errors import CourseError
from helpers.evaluation import wilson_interval
from helpers.exercises import (
    answer,
    check,
    commands,
    hint,
    loops,
    progress,
    quiz,
    quizzes,
    record,
    registry,
    solution,
    verdict,
)
from helpers.exercises.exercise import Case, Exercise, Mistake, altered, same_value
from helpers.profiles import ROOT
from tests.processes import another_process, how_it_ended
from tests.refusals import refusal


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """No test sees or leaves progress."""
    monkeypatch.setenv("COURSE_RUNS", str(tmp_path / "runs"))
    monkeypatch.delenv("COURSE_GRADING", raising=False)
    monkeypatch.setattr(verdict, "SECONDS", 60)  # an honest call on a busy machine
    return tmp_path / "runs"


@pytest.fixture
def impatient(monkeypatch):
    """For endless loops alone."""
    monkeypatch.setattr(verdict, "SECONDS", 0.3)
    monkeypatch.setattr(verdict, "STOPPING_SECONDS", 60)


# ---------------------------------------------------------------------------------------------
# The framework
# ---------------------------------------------------------------------------------------------

_STEP = 2


@cache
def _by(number: int) -> int:
    return number * _STEP


@torch.no_grad()
def doubled(numbers: list[int]) -> list[int]:
    """Each number twice as large."""
    return [_by(number) for number in numbers]


def plus_two(numbers):
    return [number + 2 for number in numbers]


def only_first(numbers):
    return [2 * number for number in numbers[:1]]


DOUBLED = Exercise(
    name="doubled",
    notebook="03_split",
    title="Twice as large",
    minutes=2,
    difficulty=1,
    reference=doubled,
    cases=(
        Case(([2],), "One number is enough to see it."),
        Case(([3, -1],), "Look at each number."),
    ),
    mistakes=(
        Mistake(plus_two, "Twice is not plus two."),
        Mistake(only_first, "Not only the first."),
        Mistake(lambda numbers: numbers, "That is what you were given."),
    ),
    hints=("Think of 2 * number.", "A list comprehension does it."),
)
VALUE = Exercise(
    name="start_loss",
    notebook="03_split",
    title="A value",
    minutes=1,
    difficulty=1,
    reference=0.5,
    mistakes=(Mistake(2.0, "That is one divided by it."),),
    hints=("Less than one.", "It is 1 / 2."),
)
JUDGED = Exercise(
    name="slogan",
    notebook="03_split",
    title="A text",
    minutes=1,
    difficulty=2,
    judge=lambda text: None if "{body}" in text else "The text has no field.",
    mistakes=(Mistake("Good or bad?", "Nobody says what is meant."),),
    hints=("Braces.", "Put {body} first.", "Then ask."),
    answer='slogan = "{body} Good?"',
)


@pytest.fixture
def made_up(monkeypatch):
    monkeypatch.setattr(commands, "find", {e.name: e for e in (DOUBLED, VALUE, JUDGED)}.get)


def said(capsys, name, attempt) -> str:
    capsys.readouterr()
    check(name, attempt)
    return capsys.readouterr().out.rstrip("\n")


def stub_of_dots(numbers):
    """A docstring."""
    ...


def stub_of_pass(numbers):
    pass


def stub_that_names_things(numbers):
    result = ...
    return result


def stub_that_raises(numbers):
    raise NotImplementedError


@pytest.mark.parametrize(
    "attempt",
    [
        None,
        ...,
        [..., 1],
        {"a": ..., "b": ...},
        stub_of_dots,
        stub_of_pass,
        stub_that_names_things,
        stub_that_raises,
    ],
    ids=lambda attempt: getattr(attempt, "__name__", str(attempt)),
)
def test_what_nobody_wrote_is_not_tried_yet(made_up, capsys, attempt, folder):
    assert said(capsys, "doubled", attempt) == "not tried yet"
    assert not (folder / "progress.json").exists()


def test_the_right_function_is_right_and_that_is_all_that_is_said(made_up, capsys):
    def loud(numbers):
        print("working")
        return doubled(numbers)

    assert said(capsys, "doubled", doubled) == "right"
    assert said(capsys, "doubled", loud) == "right"
    assert said(capsys, "doubled", lambda numbers: tuple(2.0 * n for n in numbers)) == "right"


def test_a_wrong_function_gets_its_smallest_failing_case_and_one_help(made_up, capsys):
    lines = said(capsys, "doubled", plus_two).splitlines()
    # 2 + 2 is right by chance, so the second case is the smallest that fails.
    assert lines == [
        "not yet: doubled([3, -1])",
        "  gives     [5, 1] (a list of 2, each a whole number)",
        "  expected  a list of 2, each a whole number, but a different one",
        "Twice is not plus two.",
    ]
    unknown = said(capsys, "doubled", lambda numbers: [7])
    assert "doubled([2])" in unknown and unknown.endswith("One number is enough to see it.")


def test_a_long_call_has_a_line_for_each_argument_and_long_ones_are_cut(monkeypatch, capsys):
    case = Case((["word"] * 20, ["many"] * 200))
    exercise = Exercise("joined", "03_split", "", 1, 1, lambda a, b: a + b, [case])
    monkeypatch.setattr(commands, "find", {"joined": exercise}.get)
    first, one, two, last, *_ = said(capsys, "joined", lambda a, b: b).splitlines()
    assert (first, last) == ("not yet: joined(", "  )")
    assert one.endswith("'word'],") and two.endswith(" …,") and len(two) < 180


def test_each_mistake_has_its_own_message(made_up, capsys):
    for mistake in DOUBLED.mistakes:
        assert said(capsys, "doubled", mistake.attempt).endswith("\n" + mistake.message)


def test_nothing_returned_is_not_the_same_as_nothing_tried(made_up, capsys):
    def forgets(numbers):
        numbers = [2 * n for n in numbers]

    assert "Does it end with return?" in said(capsys, "doubled", forgets)


def test_what_a_function_printed_is_shown_with_the_failing_case(made_up, capsys):
    def chatty(numbers):
        print("I got", numbers)
        return numbers

    text = said(capsys, "doubled", chatty)
    assert "It printed: I got [2]" in text and "[3, -1]" not in text


def endless(numbers):
    while True:
        numbers = [2 * n for n in numbers[:1]]


def endless_and_stubborn(numbers):
    while True:
        try:
            while True:
                print("still here")
        except Exception:
            pass


released = threading.Event()


def endless_against_everything(numbers):
    while not released.is_set():
        try:
            time.sleep(0.01)
        except BaseException:
            pass


@pytest.mark.parametrize("attempt", [endless, endless_and_stubborn])
def test_an_endless_loop_is_stopped_and_named(made_up, impatient, capsys, attempt):
    begin = time.monotonic()
    text = said(capsys, "doubled", attempt)
    assert "did not end within" in text and "It was stopped" in text and "([2])" in text
    assert time.monotonic() - begin < verdict.SECONDS + 5
    assert len(text) < 2000  # it may have printed millions of lines


def test_code_that_cannot_be_stopped_is_left_behind(made_up, impatient, capsys, monkeypatch):
    monkeypatch.setattr(verdict, "STOPPING_SECONDS", 0.1)
    text = said(capsys, "doubled", endless_against_everything)
    released.set()
    assert "still running; restart the kernel" in text


def raises(numbers):
    return numbers["two"]


def leaves(numbers):
    raise SystemExit(3)


def test_an_exception_is_shown_with_its_line(made_up, capsys):
    text = said(capsys, "doubled", raises)
    assert "TypeError: list indices must be integers" in text
    assert 'return numbers["two"]' in text and "([2])" in text and "Traceback" not in text
    assert "SystemExit: 3" in said(capsys, "doubled", leaves)
    assert "takes 0 positional arguments" in said(capsys, "doubled", lambda: [])


def test_an_argument_that_was_changed_is_named_also_when_the_answer_is_right(made_up, capsys):
    def in_place(numbers):
        for position, number in enumerate(numbers):
            numbers[position] = 2 * number
        return numbers

    def in_place_and_wrong(numbers):
        numbers.clear()
        return 3

    right, wrong = said(capsys, "doubled", in_place), said(capsys, "doubled", in_place_and_wrong)
    assert "The answer is right, but the call changed its argument numbers" in right
    assert "changed its argument numbers" in wrong and "gives     3" in wrong
    # The next attempt gets the arguments as they were.
    assert said(capsys, "doubled", doubled) == "right"


def test_a_wrong_type_is_told_in_words(made_up, capsys):
    text = said(capsys, "doubled", lambda numbers: 2 * torch.tensor(numbers))
    assert "a tensor of shape (1,), int64" in text
    assert "expected  a list of 1, each a whole number\n" in text + "\n"
    assert "a generator" in said(capsys, "doubled", lambda numbers: (n for n in numbers))
    assert 'check("doubled", doubled)' in said(capsys, "doubled", [4])
    assert "has to be a value (a number)" in said(capsys, "start_loss", lambda: 0.5)


def test_a_value_is_right_or_its_mistake_is_named(made_up, capsys):
    assert said(capsys, "start_loss", ...) == "not tried yet"
    assert said(capsys, "start_loss", torch.tensor(0.5)) == "right"
    assert said(capsys, "start_loss", 2.0).endswith("That is one divided by it.")
    assert said(capsys, "start_loss", 3.0).endswith('hint("start_loss") helps.')
    assert "Expected: a number." in said(capsys, "start_loss", "half")


def test_a_judge_speaks_for_itself(made_up, capsys):
    assert said(capsys, "slogan", "{body} Is it?") == "right"
    assert said(capsys, "slogan", "Is it?").splitlines()[0] == "not yet: The text has no field."
    assert said(capsys, "slogan", "Good or bad?").endswith("Nobody says what is meant.")
    assert "raised TypeError" in said(capsys, "slogan", 3)


def test_a_function_that_is_to_raise_has_to_raise(made_up, capsys, monkeypatch):
    def strict(numbers):
        if len(numbers) > 1:
            raise CourseError("too many")
        return numbers

    exercise = Exercise(
        "strict", "03_split", "", 1, 1, strict, [Case(([1],)), Case(([1, 2],), "Refuse.")]
    )
    monkeypatch.setattr(commands, "find", {"strict": exercise}.get)
    assert said(capsys, "strict", strict) == "right"
    assert "expected  a CourseError is raised" in said(capsys, "strict", lambda numbers: numbers)


def test_grading_raises_with_the_same_text(made_up, capsys, monkeypatch):
    monkeypatch.setenv("COURSE_GRADING", "1")
    assert said(capsys, "doubled", doubled) == "right"
    for attempt, words in ((..., "not tried yet"), (plus_two, "Twice is not plus two.")):
        with pytest.raises(AssertionError, match=words):
            check("doubled", attempt)


def test_a_specimen_is_broken_until_it_is_mended(capsys, monkeypatch):
    specimen = replace(DOUBLED, specimen=True)
    monkeypatch.setattr(commands, "find", {"doubled": specimen}.get)
    assert said(capsys, "doubled", doubled) == "✓ fixed"
    text = said(capsys, "doubled", plus_two)
    assert text.startswith("✗ still broken: doubled([3, -1])")
    assert text.endswith("Twice is not plus two.")


def test_hints_give_the_idea_and_then_the_lines_and_then_the_solution(made_up, capsys, monkeypatch):
    monkeypatch.setattr(commands, "_hints_shown", type(commands._hints_shown)())

    def hinted(name):
        hint(name)
        return capsys.readouterr().out

    first, second, third = hinted("doubled"), hinted("doubled"), hinted("doubled")
    assert "Hint 1 of 2, the idea: Think of 2 * number." in first and "comprehension" not in first
    assert "Hint 2 of 2, the lines: A list comprehension does it." in second
    assert 'Next is solution("doubled")' in second and "No more hints" in third
    # What one exercise was told is not counted for another; more lines come together.
    assert "the idea: Braces." in hinted("slogan")
    assert "the lines: (1) Put {body} first. (2) Then ask." in hinted("slogan")
    solution("doubled")
    printed = capsys.readouterr().out
    assert "def doubled(" in printed and "def _by(" in printed and "_STEP = 2" in printed
    solution("slogan")
    assert capsys.readouterr().out == 'slogan = "{body} Good?"\n'
    solution("start_loss")
    assert capsys.readouterr().out == "start_loss = 0.5\n"


def test_an_unknown_exercise_is_refused():
    with pytest.raises(CourseError, match="no exercise 'los_mask'"):
        check("los_mask", None)


@pytest.mark.parametrize(
    ("got", "expected", "same"),
    [
        (0.1 + 0.2, 0.3, True),
        (0.3001, 0.3, False),
        (1, 1.0, True),
        (True, 1, False),
        (float("nan"), float("nan"), True),
        ((1, [2.0]), [1, (2,)], True),
        ([1, 2], [1, 2, 3], False),
        ("1", 1, False),
        ({"a": 0.3}, {"a": 0.1 + 0.2}, True),
        ({"a": 1}, {"b": 1}, False),
        (torch.tensor(2.0), 2.0, True),
        ([1.0], torch.tensor([1.0]), False),
        (torch.tensor([1.0]), torch.tensor([1.0000001]), True),
        (torch.tensor([1.0]), torch.tensor([1]), False),
        (torch.tensor([[1]]), torch.tensor([1]), False),
        (numpy.array([1.0, 2.0]), [1, 2], True),
        (numpy.float32(2), 2.0, True),
    ],
)
def test_when_values_count_as_the_same(got, expected, same):
    assert same_value(got, expected) is same


def test_a_wrong_function_is_made_from_the_right_one():
    assert altered(plus_two, {"+ 2": "+ _STEP * 2"})([1]) == [5]
    text = "import math\n\n\ndef root(number):\n    return math.sqrt(number)"
    assert altered(text, {"sqrt": "floor"})(4.5) == 4
    with pytest.raises(AssertionError, match="'- 2' is no longer in plus_two"):
        altered(plus_two, {"- 2": ""})


def test_modules_and_optimizers_are_compared_by_what_they_hold():
    def pair():
        torch.manual_seed(0)
        model = torch.nn.Linear(2, 1)
        return model, torch.optim.AdamW(model.parameters())

    (model, optimizer), (other, other_optimizer) = pair(), pair()
    assert same_value(model, other) and same_value(optimizer, other_optimizer)
    model.weight.data += 1
    assert not same_value(model, other)


def test_the_course_s_own_function_is_not_taken_for_the_learner_s(capsys, folder):
    """Notebook 06 imports it under the same name below the exercise."""
    check("wilson_interval", wilson_interval)
    assert "not tried yet: this is the course's own" in capsys.readouterr().out
    assert record.load() == {}


# ---------------------------------------------------------------------------------------------
# Progress
# ---------------------------------------------------------------------------------------------


def test_progress_is_kept_and_done_stays_done(made_up, folder):
    check("doubled", plus_two)
    assert record.load() == {"doubled": "tried"}
    check("doubled", doubled)
    check("doubled", plus_two)
    assert record.load() == {"doubled": "done"}
    assert sorted(path.name for path in folder.iterdir()) == ["progress.json", "progress.json.lock"]


@pytest.mark.parametrize("text", ["{", "[1]", '{"doubled": "perfect"}', "\udcff"])
def test_a_damaged_file_starts_over_and_says_so(made_up, capsys, folder, text):
    folder.mkdir()
    damaged = text.encode("utf-8", "surrogateescape")
    (folder / "progress.json").write_bytes(damaged)
    check("doubled", doubled)
    out = capsys.readouterr().out
    assert "what was done before is not counted" in out and "right" in out
    assert json.loads((folder / "progress.json").read_text()) == {"doubled": "done"}
    assert "it is now progress.json.damaged" in out
    assert (folder / "progress.json.damaged").read_bytes() == damaged


def test_progress_cut_short_anywhere_is_whole_or_set_aside(folder, capsys):
    record.note("doubled", True)
    whole = record.path().read_bytes()
    for length in range(len(whole)):
        record.path().write_bytes(whole[:length])
        assert record.load() == {} and not record.path().exists()
    assert capsys.readouterr().out.count("cannot be read") == len(whole)


def test_two_notebooks_note_at_once_and_nothing_is_lost(folder):
    def note(name):
        for number in range(20):
            record.note(f"{name} {number}", True)

    children = [another_process(partial(note, name)) for name in "ab"]
    assert [how_it_ended(child) for child in children] == [0, 0]
    assert len(record.load()) == 40


def test_a_folder_that_cannot_be_written_costs_one_line(made_up, capsys, folder):
    folder.write_text("a file where the folder should be")
    check("doubled", doubled)
    assert capsys.readouterr().out.splitlines()[-1] == "right"
    progress()


# ---------------------------------------------------------------------------------------------
# Quizzes
# ---------------------------------------------------------------------------------------------

QUIZ = """
- question: "Is <b>2 even</b>?"
  choices:
    - {text: "Yes, a <i>multiple</i>", right: true, why: "2 = 2 · 1"}
    - {text: "No", why: "An <odd> number has a remainder."}
- question: "Is 3?"
  choices:
    - {text: "Yes", why: "Halve it."}
    - {text: "No", right: true, why: "A half is left."}
"""


@pytest.fixture
def made_up_quiz(tmp_path, monkeypatch):
    (tmp_path / "03_split.yaml").write_text(QUIZ, encoding="utf-8")
    monkeypatch.setattr(quizzes, "QUIZZES", tmp_path)


def test_a_quiz_is_shown_as_text_with_letters_and_as_buttons(made_up_quiz, capsys, monkeypatch):
    shown = []
    monkeypatch.setattr(quizzes, "display", shown.append)
    quiz("03_split")
    text = capsys.readouterr().out
    assert "1. Is <b>2 even</b>?" in text and "   a) Yes, a <i>multiple</i>" in text
    assert "2. Is 3?\n   a) Yes\n   b) No" in text
    (buttons,) = shown
    assert repr(buttons) == "Buttons for the answers. They need a running notebook."
    assert [[button.description for button in row] for row in buttons.buttons] == [["a", "b"]] * 2


def test_buttons_say_right_or_wrong_and_why_as_text(made_up_quiz):
    shown = quizzes.QuizButtons("03_split")
    shown.buttons[0][1].click()
    assert shown.replies[0].value == "b is wrong: An &lt;odd&gt; number has a remainder."
    shown.buttons[0][0].click()
    assert shown.replies[0].value == "a is right: 2 = 2 · 1"
    assert shown.replies[1].value == ""
    assert record.load() == {"03_split question 1": "done"}


def test_a_question_can_be_answered_from_a_cell(made_up_quiz, capsys):
    answer("03_split", 1, "B")
    answer("03_split", 2, "b")
    assert capsys.readouterr().out == (
        "wrong: An <odd> number has a remainder.\nright: A half is left.\n"
    )
    assert record.load() == {"03_split question 1": "tried", "03_split question 2": "done"}


def test_progress_counts_exercises_and_questions(made_up, made_up_quiz, capsys, monkeypatch):
    made = {"doubled": DOUBLED, "start_loss": VALUE}
    monkeypatch.setattr(commands, "exercises", lambda: made)
    tables = []
    monkeypatch.setattr(commands, "show_table", lambda header, rows: tables.append(rows))
    check("doubled", doubled)
    check("start_loss", 7.0)
    answer("03_split", 2, "b")
    progress("03_split")
    progress()
    assert tables[0] == [
        ["Twice as large", "2 min", "★☆☆", "right"],
        ["A value", "1 min", "★☆☆", "not yet"],
        ["Quiz", "", "", "1 of 2 right"],
    ]
    assert tables[1] == [["03_split", "1 of 2", "1 of 2"]]
    total = "In the whole course: 1 of 2 exercises and 1 of 2 questions are right."
    assert capsys.readouterr().out.splitlines()[-1] == total


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: answer("03_split", 3, "a"), "no question 3"),
        (lambda: answer("03_split", 0, "a"), "no question 0"),
        (lambda: answer("03_split", 1, "c"), "a, b"),
        (lambda: answer("03_split", 1, ""), "a, b"),
        (lambda: answer("03_split", 1, 1), "a, b"),
        (lambda: quiz("03_splits"), "The quizzes are: 03_split"),
    ],
)
def test_an_answer_that_is_none_is_refused(made_up_quiz, call, words):
    refusal(CourseError, call, words)


# ---------------------------------------------------------------------------------------------
# Every exercise and quiz of the course
# ---------------------------------------------------------------------------------------------

EXERCISES = registry.collect()
each_exercise = pytest.mark.parametrize("exercise", EXERCISES, ids=lambda one: one.name)
each_function = pytest.mark.parametrize(
    "exercise",
    [one for one in EXERCISES if callable(one.reference) and not one.judge],
    ids=lambda one: one.name,
)


@cache
def cells_of(notebook: str) -> list[nbformat.NotebookNode]:
    return nbformat.read(ROOT / "notebooks" / f"{notebook}.ipynb", as_version=4).cells


def solved(exercise: Exercise):
    """A right attempt: what the text of the answer defines, or else the reference."""
    if not exercise.answer:
        return exercise.reference
    namespace: dict = {}
    exec(exercise.answer, namespace)
    return namespace[exercise.name]


def test_the_exercises_come_in_the_order_of_the_notebooks_each_under_a_name_of_its_own():
    assert [one.notebook for one in EXERCISES] == sorted(one.notebook for one in EXERCISES)
    assert list(registry.exercises().values()) == EXERCISES
    assert registry.find("likeliest") is EXERCISES[0]


@each_exercise
def test_the_solution_is_right_and_can_be_read(exercise, capsys):
    right = commands.word_for(exercise, verdict.RIGHT)
    attempt = solved(exercise)
    if callable(attempt):  # the learner's own, and not the course's
        attempt = partial(attempt)
    assert said(capsys, exercise.name, attempt) == right
    solution(exercise.name)
    source = capsys.readouterr().out
    ast.parse(source)
    if exercise.answer:
        assert exercise.name in source


@each_exercise
def test_typical_mistakes_fail_each_with_its_own_message(exercise, capsys):
    messages = [mistake.message for mistake in exercise.mistakes]
    assert len(messages) >= 3 and len(set(messages)) == len(messages)
    for mistake in exercise.mistakes:
        text = said(capsys, exercise.name, mistake.attempt)
        assert text.startswith(commands.word_for(exercise, verdict.NOT_YET) + ": ")
        assert text.endswith(mistake.message)


@pytest.mark.parametrize(
    ("order", "words"),
    [
        ("fchbiae", None),
        ("efchbia", None),  # zero may come before the backward pass, too
        ("F C H B I A E", None),
        ("fchbiaed", "makes a new optimizer"),
        ("fcgbiae", "divides by all positions"),
        ("fchbia", "Two of the 9 lines"),
        ("fchbiaee", "letters of 7 lines"),
    ],
)
def test_the_order_of_the_loop_leaves_out_what_does_not_belong(order, words):
    told = registry.find("loop_order").judge(order)
    assert told is None if words is None else words in told


def test_a_mistake_is_known_however_it_was_written(capsys):
    """A mistake made from the right answer must answer as learners do who make it themselves."""

    def only_the_prompts(shots, example, tokenizer, window, answer_tokens):
        def size(row):
            return len(tokenizer(row["prompt"]).input_ids)

        kept = list(shots)
        while kept and sum(map(size, kept)) + size(example) + answer_tokens > window:
            kept.pop(0)
        return kept

    assert "You count only the shots' prompts." in said(capsys, "fit_shots", only_the_prompts)


def test_the_loop_is_not_tried_until_a_gap_is_filled(capsys):
    first, second, third = "loss.backward()", "optimizer.step()", "optimizer.zero_grad()"
    gaps = {first: "...", second: "...", third: "..."}

    def judged(**filled) -> str:
        names = {"a": first, "b": second, "c": third}
        changed = gaps | {names[gap]: text for gap, text in filled.items()}
        return said(capsys, "loop_with_gaps", altered(loops.train_loop, changed))

    assert judged().startswith("not tried yet")
    assert "no attribute 'backwards'" in judged(a="loss.backwards()")
    assert "0 times" in judged(a="loss.backward", b=second, c=third)
    assert judged(a=first, b=second, c=third).startswith("right")
    numbers = altered(loops.train_loop, {"loss.item()": "loss.item"})
    assert "with its parentheses" in said(capsys, "loop_with_gaps", numbers)


@each_exercise
def test_the_exercise_stands_in_its_notebook_and_is_not_tried_yet(exercise, capsys):
    """A stub, or a specimen that is broken, and its check; either runs alone, as nbgrader may."""
    graded = [cell for cell in cells_of(exercise.notebook) if "nbgrader" in cell.metadata]
    source = {cell.metadata.nbgrader.grade_id: cell.source.strip() for cell in graded}
    assert source[f"check-{exercise.name}"] == f'check("{exercise.name}", {exercise.name})'
    namespace: dict = {}
    exec(source[exercise.name], namespace)
    stub = namespace[exercise.name]
    if exercise.specimen:
        assert said(capsys, exercise.name, stub).startswith(commands.BROKEN)
    else:
        assert said(capsys, exercise.name, stub) == "not tried yet"
    assert said(capsys, exercise.name, ...) == "not tried yet"
    if callable(solved(exercise)):
        assert needed(stub) == needed(solved(exercise))


def needed(function) -> int:
    """How many arguments have to be given."""
    parameters = inspect.signature(function).parameters.values()
    return sum(parameter.default is parameter.empty for parameter in parameters)


@each_exercise
def test_the_notebook_says_minutes_and_difficulty(exercise):
    cells = cells_of(exercise.notebook)
    texts = [cell.source for cell in cells if cell.cell_type == "markdown"]
    kind = "Specimen" if exercise.specimen else "Exercise"
    (text,) = [text for text in texts if f"### {kind} · {exercise.title}\n" in text + "\n"]
    unit = "minute" if exercise.minutes == 1 else "minutes"
    assert f"*{exercise.minutes} {unit} · {commands.stars(exercise.difficulty)}*" in text
    assert exercise.difficulty in (1, 2, 3)


@each_exercise
def test_the_last_hint_holds_what_to_write(exercise):
    """The first hint is the idea; the last one has a line, or a piece of a text, in backticks."""
    assert len(exercise.hints) >= 2 and "`" in exercise.hints[-1]


@each_function
def test_what_else_may_go_wrong_is_told(exercise, capsys):
    def raises(*arguments):
        return arguments[99]

    text = said(capsys, exercise.name, raises)
    assert "IndexError: tuple index out of range" in text and "return arguments[99]" in text
    text = said(capsys, exercise.name, lambda *arguments: {1, 2, 3})
    assert "{1, 2, 3} (a set)" in text and "expected  " in text


@each_function
def test_a_changed_argument_is_told(exercise, capsys):
    def changeable(arguments):
        kinds = (list, dict, torch.Tensor)
        return [a for a in arguments if isinstance(a, kinds) and len(a)]

    if not any(changeable(case.arguments) for case in exercise.cases):
        pytest.skip("has no argument that could be changed")

    def attempt(*arguments):
        result = copy.deepcopy(exercise.reference(*arguments))
        for argument in changeable(arguments)[:1]:
            if isinstance(argument, torch.Tensor):
                argument.detach().view(-1)[:1] = 77
            else:
                argument.clear()
        return result

    assert "changed its argument" in said(capsys, exercise.name, attempt)


each_quiz = pytest.mark.parametrize("notebook", quizzes.names())


@each_quiz
def test_each_quiz_is_of_the_agreed_form(notebook):
    """Its YAML ships with the course, so a mistake in it is found here and not by a learner."""
    content = yaml.safe_load((quizzes.QUIZZES / f"{notebook}.yaml").read_text(encoding="utf-8"))
    assert len(content) == 3
    for item in content:
        assert item.keys() == {"question", "choices"} and item["question"].strip()
        assert 3 <= len(item["choices"]) <= len(quizzes.LETTERS)
        for choice in item["choices"]:
            assert choice.keys() - {"right"} == {"text", "why"}
            assert choice["text"].strip() and choice["why"].strip()
            assert isinstance(choice.get("right", False), bool)


@each_quiz
def test_each_question_has_one_right_answer_and_the_quiz_stands_in_its_notebook(notebook):
    questions = quizzes.load_quiz(notebook)
    right = []
    for question in questions:
        assert len({choice.text for choice in question.choices}) == len(question.choices)
        assert len({choice.why for choice in question.choices}) == len(question.choices)
        assert [choice.right for choice in question.choices].count(True) == 1
        right.append([choice.right for choice in question.choices].index(True))
    assert len(set(right)) > 1, "one letter is always right"
    source = (ROOT / "notebooks" / f"{notebook}.ipynb").read_text(encoding="utf-8")
    for call in (f'quiz(\\"{notebook}\\")', f'progress(\\"{notebook}\\")'):
        assert call in source


@pytest.mark.parametrize("notebook", sorted({one.notebook for one in EXERCISES}))
def test_each_notebook_of_the_main_subject_has_two_to_five_exercises_and_a_quiz(notebook):
    """00 has one exercise to try out, 10 and the appendix have one, 09 its specimens."""
    names = [exercise.name for exercise in EXERCISES if exercise.notebook == notebook]
    assert notebook[:2] in ("00", "09", "10", "A_") or 2 <= len(names) <= 5
    assert notebook[:2] in ("00", "09") or notebook in quizzes.names()
