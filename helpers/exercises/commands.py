"""What a learner calls: check, hint, solution, progress."""

import inspect
import os
import sys
import textwrap
from collections import Counter
from collections.abc import Callable, Collection
from types import CodeType, FunctionType
from typing import Any

from helpers.display.tables import show_table
from helpers.exercises import quizzes, record
from helpers.exercises.exercise import Exercise
from helpers.exercises.registry import exercises, find
from helpers.exercises.verdict import NOT_TRIED, NOT_YET, RIGHT, WIDTH, Verdict, assess

# What is said of a specimen, which is broken before anybody has touched it.
MENDED, BROKEN = "✓ fixed", "✗ still broken"
# Below an exercise, the notebooks import the course's own function under the same name.
OURS = "this is the course's own function. Run the cell with yours again, and then this one."
_hints_shown: Counter[str] = Counter()


def check(name: str, attempt: Any) -> None:
    """Try a function or value on hidden cases: "not tried yet", "not yet" and why, or "right".

    Of a specimen it says "✗ still broken" and why, or "✓ fixed".

    What the function prints is shown with the case that fails, and held back otherwise.

    Raises AssertionError with the same text unless it is right, if COURSE_GRADING=1: so nbgrader
    counts points. CourseError when there is no such exercise.
    """
    exercise = find(name)
    ours = Verdict(NOT_TRIED, f"{NOT_TRIED}: {OURS}") if _is_ours(attempt) else None
    verdict = ours or assess(exercise, attempt)
    text = word_for(exercise, verdict.state) + verdict.text.removeprefix(verdict.state)
    if verdict.state != NOT_TRIED:
        record.note(name, verdict.state == RIGHT)
    if os.environ.get("COURSE_GRADING") == "1" and verdict.state != RIGHT:
        raise AssertionError(text)
    print(text)


def _is_ours(attempt: Any) -> bool:
    """Whether this is a function that notebooks import, and not one of the same source."""
    module = getattr(attempt, "__module__", None) or ""
    if not module.startswith("helpers.") or module.startswith("helpers.exercises."):
        return False
    return any(value is attempt for value in vars(sys.modules[module]).values())


def word_for(exercise: Exercise, state: str) -> str:
    """A state in the word that fits the exercise."""
    return {RIGHT: MENDED, NOT_YET: BROKEN}.get(state, state) if exercise.specimen else state


def hint(name: str) -> None:
    """Print the idea of an exercise; called again, what leads to its lines; then no more.

    Raises CourseError when there is no such exercise.
    """
    idea, *lines = find(name).hints
    _hints_shown[name] += 1
    if _hints_shown[name] == 1:
        print(textwrap.fill(f"Hint 1 of 2, the idea: {idea}", WIDTH))
        print(f'Call hint("{name}") again for the lines.')
    elif _hints_shown[name] == 2:
        steps = lines if len(lines) == 1 else [f"({n}) {one}" for n, one in enumerate(lines, 1)]
        print(textwrap.fill(f"Hint 2 of 2, the lines: {' '.join(steps)}", WIDTH))
        print(f'That was the last one. Next is solution("{name}").')
    else:
        print(f'No more hints. solution("{name}") shows one way to write it.')


def solution(name: str) -> None:
    """Print a solution: the source of the helper that does it in this course."""
    print(solution_of(find(name)))


def solution_of(exercise: Exercise) -> str:
    """Source text of a solution, with the private helpers and constants that it uses."""
    if exercise.answer:
        return exercise.answer.strip("\n")
    reference = inspect.unwrap(exercise.reference)  # what stands behind a cache or torch.no_grad
    if not isinstance(reference, FunctionType):
        return f"{exercise.name} = {reference!r}"
    module = sys.modules[reference.__module__]
    parts: dict[str, str] = {}
    _collect(reference, module, parts)
    where = f"# {reference.__name__} in {module.__name__.replace('.', '/')}.py"
    return "\n\n".join([where, *reversed(parts.values())])


def _collect(function: Callable, module: Any, parts: dict[str, str]) -> None:
    parts[function.__name__] = inspect.getsource(function).rstrip()
    for name in _names(function.__code__):
        value = inspect.unwrap(vars(module).get(name))
        if name in parts:
            continue
        if isinstance(value, FunctionType) and name.startswith("_"):
            _collect(value, module, parts)
        elif name.isupper() and isinstance(value, int | float | str | tuple | list):
            parts[name] = f"{name} = {value!r}"


def _names(code: CodeType) -> list[str]:
    """Names that a function looks up, also in the functions and comprehensions inside it."""
    inner = [part for part in code.co_consts if isinstance(part, CodeType)]
    return [*code.co_names, *(name for part in inner for name in _names(part))]


def progress(notebook: str | None = None) -> None:
    """Print what is done: in one notebook each exercise, without a name a line a notebook."""
    done = record.load()
    found = list(exercises().values())
    questions = {name: quizzes.keys(name) for name in quizzes.names()}
    if notebook is None:
        rows = [
            [
                name,
                _right(done, [one.name for one in found if one.notebook == name]),
                _right(done, questions.get(name, [])),
            ]
            for name in sorted({one.notebook for one in found} | questions.keys())
        ]
        show_table(["notebook", "exercises right", "questions right"], rows)
    else:
        states = {record.DONE: RIGHT, record.TRIED: NOT_YET, None: NOT_TRIED}
        rows = [
            [
                one.title,
                f"{one.minutes} min",
                stars(one.difficulty),
                word_for(one, states[done.get(one.name)]),
            ]
            for one in found
            if one.notebook == notebook
        ]
        rows.append(["Quiz", "", "", f"{_right(done, questions.get(notebook, []))} right"])
        show_table([notebook, "time", "difficulty", "state"], rows)
    right = _right(done, exercises())
    answered = _right(done, [key for keys in questions.values() for key in keys])
    print(f"In the whole course: {right} exercises and {answered} questions are right.")


def stars(difficulty: int) -> str:
    """One to three full stars of three."""
    return "★" * difficulty + "☆" * (3 - difficulty)


def _right(done: dict[str, str], keys: Collection[str]) -> str:
    """How many of the exercises or questions with these keys are done: "2 of 3"."""
    right = sum(done.get(key) == record.DONE for key in keys)
    return f"{right} of {len(keys)}" if keys else "none"
