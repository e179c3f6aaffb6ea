"""Run a learner's attempt safely and say in words what came of it."""

import copy
import ctypes
import dis
import io
import linecache
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import partial
from types import FunctionType
from typing import Any

import torch

from helpers.exercises.exercise import Case, Exercise, same_value

RIGHT, NOT_YET, NOT_TRIED = "right", "not yet", "not tried yet"
SECONDS = 5.0  # for one call of the learner's function
STOPPING_SECONDS = 1.0
LONGEST = 160  # characters of a value that is shown
WIDTH = 88  # characters of a line, where lines can be broken
_LONGEST_PRINT = 600


@dataclass(frozen=True)
class Verdict:
    """What came of an attempt: RIGHT, NOT_YET or NOT_TRIED, and that in words."""

    state: str
    text: str


@dataclass(frozen=True)
class Outcome:
    """What one call did.

    value: what it returned. error: what it raised; where: the line in which it did.
    too_long: it did not end in time; running: and could not be stopped.
    changed: the name or number of an argument that it changed. printed: what it printed.
    """

    value: Any = None
    error: BaseException | None = None
    where: str = ""
    too_long: bool = False
    running: bool = False
    changed: str = ""
    printed: str = ""


class _TooLong(BaseException):
    """Put into a thread that does not end. Not an Exception, so that `except Exception` passes."""


class _Notes(io.StringIO):
    """Keeps the beginning of what is printed: an endless loop may print without end."""

    def write(self, text: str) -> int:
        if self.tell() < _LONGEST_PRINT:
            super().write(text[:_LONGEST_PRINT])
        return len(text)


def assess(exercise: Exercise, attempt: Any) -> Verdict:
    """What to say about a learner's function or value. Nothing of it raises or runs forever."""
    if attempt is None or _untouched(attempt) or _is_stub(attempt):
        return Verdict(NOT_TRIED, NOT_TRIED)
    wrong_kind = _wrong_kind(exercise, attempt)
    if wrong_kind:
        return Verdict(NOT_YET, f"{NOT_YET}: {wrong_kind}")
    if exercise.judge:
        return _judged(exercise, attempt)
    if callable(exercise.reference):
        return _on_cases(exercise, attempt)
    if exercise.same(attempt, exercise.reference):
        return Verdict(RIGHT, RIGHT)
    said = f"{exercise.name} is {short(attempt)}, {kind_of(attempt)}."
    if kind_of(attempt) != kind_of(exercise.reference):
        said += f" Expected: {kind_of(exercise.reference)}."
    return _not_yet(said, _of_mistake(exercise, attempt), exercise)


def _wrong_kind(exercise: Exercise, attempt: Any) -> str:
    """A value where a function is asked for, or the other way round."""
    name, pattern = exercise.name, exercise.reference
    if exercise.judge and exercise.mistakes:
        pattern = exercise.mistakes[0].attempt
    if callable(pattern) and not callable(attempt):
        return (
            f"{name} has to be a function, but this is {kind_of(attempt)}: {short(attempt)}. Give "
            f'the function itself, without calling it: check("{name}", {name}).'
        )
    if callable(attempt) and not callable(pattern):
        return f"{name} has to be a value ({kind_of(pattern)}), but this is a function."
    return ""


def _judged(exercise: Exercise, attempt: Any) -> Verdict:
    outcome = call(exercise.judge, (attempt,), of=attempt, copied=False)
    if isinstance(outcome.error, NotImplementedError):
        return Verdict(NOT_TRIED, NOT_TRIED)
    if outcome.error or outcome.too_long:
        return _not_yet(_what_it_did(exercise.name, outcome), "", exercise)
    if outcome.value is None:
        return Verdict(RIGHT, RIGHT)
    return _not_yet(str(outcome.value), _of_mistake(exercise, attempt, outcome.value), exercise)


def _of_mistake(exercise: Exercise, attempt: Any, words: str | None = None) -> str:
    """The message of the mistake that is this value, or a function judged in the same words."""
    for mistake in exercise.mistakes:
        if callable(attempt):
            if call(exercise.judge, (mistake.attempt,), copied=False).value == words:
                return mistake.message
        elif exercise.same(attempt, mistake.attempt):
            return mistake.message
    return ""


def _on_cases(exercise: Exercise, attempt: Callable) -> Verdict:
    cases = exercise.cases
    expected = [call(exercise.reference, case.arguments) for case in cases]
    given: list[Outcome] = []
    for case in cases:
        given.append(call(attempt, case.arguments, of=attempt))
        if given[-1].too_long:
            break
    agrees = [_agree(exercise, got, right) for got, right in zip(given, expected, strict=False)]
    failed = [number for number, got in enumerate(given) if got.changed or not agrees[number]]
    if not failed:
        return Verdict(RIGHT, RIGHT)
    first = failed[0]
    case, got, right, agree = cases[first], given[first], expected[first], agrees[first]
    if _untouched(got.value) or isinstance(got.error, NotImplementedError):
        return Verdict(NOT_TRIED, NOT_TRIED)
    shown = _shown(exercise, case, got, right, agree)
    if agree:
        return _not_yet(shown, "", None)  # right, but an argument was changed
    if got.error or got.too_long:
        return _not_yet(shown, case.hint if got.error else "", exercise)
    for mistake in exercise.mistakes:
        answers = [call(mistake.attempt, case.arguments) for case in cases]
        if len(answers) == len(given) and all(map(partial(_agree, exercise), given, answers)):
            return _not_yet(shown, mistake.message, exercise)
    if got.value is None:
        return _not_yet(shown, "The function returns nothing. Does it end with return?", exercise)
    return _not_yet(shown, case.hint, exercise)


def _agree(exercise: Exercise, got: Outcome, right: Outcome) -> bool:
    if got.too_long or got.error or right.error:
        return bool(right.error and isinstance(got.error, type(right.error)))
    try:
        return bool(exercise.same(got.value, right.value))
    except Exception:  # whatever the learner's object does when it is compared
        return False


def _not_yet(said: str, help_: str, exercise: Exercise | None) -> Verdict:
    if not help_ and exercise and exercise.hints:
        help_ = f'hint("{exercise.name}") helps.'
    return Verdict(NOT_YET, f"{NOT_YET}: {said}" + (f"\n{help_}" if help_ else ""))


# ---- Running


def call(function: Callable, arguments: tuple, of: Any = None, copied: bool = True) -> Outcome:
    """Call a function on deep copies of the arguments and tell what it did.

    The call runs in a thread of its own, because a thread can be stopped on every system: an
    exception is put into it. What it prints is kept apart, for the case that is shown.

    of: the learner's object, in whose code an error is located. copied: False passes the arguments
    themselves.
    """
    given = copy.deepcopy(arguments) if copied else arguments
    done: dict[str, Any] = {}

    def work() -> None:
        try:
            done["value"] = function(*given)
        except _TooLong:
            pass
        except BaseException as error:  # also exit(): it must not end the notebook
            done["error"] = error

    notes, thread = _Notes(), threading.Thread(target=work, daemon=True)
    # Also warnings: nbgrader gives no points for a cell that writes to stderr.
    with redirect_stdout(notes), redirect_stderr(notes):
        thread.start()
        try:
            thread.join(SECONDS)
        except KeyboardInterrupt:
            _stop(thread)
            raise
        too_long = thread.is_alive()
        running = too_long and not _stop(thread)
    error = done.get("error")
    return Outcome(
        value=done.get("value"),
        error=error,
        where=_line_of(error, of) if error else "",
        too_long=too_long,
        running=running,
        changed=_changed(function, given, arguments) if copied and not too_long else "",
        printed=notes.getvalue(),
    )


def _stop(thread: threading.Thread) -> bool:
    """Stop a thread by putting an exception into it; True when it ended.

    It is put in again and again, in case the code catches it. A long call of C code cannot be
    stopped; the thread then goes on beside the notebook.
    """
    end = time.monotonic() + STOPPING_SECONDS
    while thread.is_alive() and time.monotonic() < end:
        number = ctypes.c_ulong(thread.ident)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(number, ctypes.py_object(_TooLong))
        thread.join(0.05)
    return not thread.is_alive()


def _changed(function: Callable, given: tuple, arguments: tuple) -> str:
    """The name of the first argument that is no longer what it was."""
    code = getattr(function, "__code__", None)
    names = code.co_varnames[: code.co_argcount] if code else ()
    for number, (now, before) in enumerate(zip(given, arguments, strict=True)):
        try:
            same = same_value(now, before)
        except Exception:  # an object that cannot be compared
            continue
        if not same:
            return names[number] if number < len(names) else f"argument {number + 1}"
    return ""


def _line_of(error: BaseException, of: Any) -> str:
    """The innermost line of the learner's code on the way to an error: its number and text."""
    code = getattr(of, "__code__", None)
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if code and frame.filename == code.co_filename]
    if not own:
        return ""
    line = linecache.getline(own[-1].filename, own[-1].lineno or 0).strip()
    return f"line {own[-1].lineno}" + (f": {line}" if line else "")


def _is_stub(attempt: Any) -> bool:
    """Whether a function does nothing, as a stub of a docstring and three dots."""
    if not isinstance(attempt, FunctionType):
        return False
    constants = []
    for step in dis.get_instructions(attempt):
        if step.opname in ("LOAD_CONST", "RETURN_CONST"):
            constants.append(step.argval)
        elif step.opname not in ("RESUME", "NOP", "RETURN_VALUE"):
            return False
    return all(value is None or value is ... for value in constants)


def _untouched(value: Any) -> bool:
    """Whether the dots of a stub are still there: as the value, in a tuple, or all over a table."""
    if isinstance(value, Mapping):
        return bool(value) and all(item is ... for item in value.values())
    return any(item is ... for item in (value if isinstance(value, tuple | list) else [value]))


# ---- Words


def _shown(exercise: Exercise, case: Case, got: Outcome, right: Outcome, agree: bool) -> str:
    """The smallest failing case: the call, what came of it, what kind of thing was expected."""
    arguments = [short(argument) for argument in case.arguments]
    lines = [f"{exercise.name}({', '.join(arguments)})"]
    if len(lines[0]) > WIDTH:
        lines = [f"{exercise.name}(", *(f"      {argument}," for argument in arguments), "  )"]
    if agree:
        lines.append(
            f"  The answer is right, but the call changed its argument {got.changed}. Work on a "
            "copy: the caller may still need what it passed in."
        )
    else:
        kind = kind_of(right.value)
        if got.error or got.too_long:
            lines.append(f"  {_what_it_did('It', got)}")
        else:
            lines.append(f"  gives     {short(got.value)} ({kind_of(got.value)})")
            kind += ", but a different one" * (kind_of(got.value) == kind)
        if right.error:
            kind = f"a {type(right.error).__name__} is raised"
        lines.append(f"  expected  {kind}")
        if got.changed:
            lines.append(f"  Also, the call changed its argument {got.changed}. Work on a copy.")
    if got.printed.strip():
        lines.append("  It printed: " + " | ".join(got.printed.strip().splitlines()[:5]))
    return "\n".join(lines)


def _what_it_did(who: str, outcome: Outcome) -> str:
    if outcome.too_long:
        after = "It is still running; restart the kernel." if outcome.running else "It was stopped."
        return (
            f"{who} did not end within {SECONDS:.0f} seconds. {after} Is there a loop whose "
            "condition never changes?"
        )
    name, message = type(outcome.error).__name__, str(outcome.error)
    where = f", in your {outcome.where}" if outcome.where else ""
    return f"{who} raised {name}{': ' + _cut(message) if message else ''}{where}"


def short(value: Any) -> str:
    """A value in one line, cut where it is long."""
    try:
        return _cut(repr(value))
    except Exception:  # a learner's own class may have a repr that fails
        return f"something of type {type(value).__name__}"


def _cut(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= LONGEST else text[: LONGEST - 2] + " …"


def kind_of(value: Any) -> str:
    """What kind of thing a value is, in words: "a list of 3", "a tensor of shape (2, 4)"."""
    if value is None:
        return "nothing, None"
    if isinstance(value, torch.Tensor):
        return f"a tensor of shape {tuple(value.shape)}, {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, list | tuple):
        kinds = {_plain_kind(item) for item in value}
        of = f", each {kinds.pop()}" if len(kinds) == 1 else ""
        return f"a {type(value).__name__} of {len(value)}{of}"
    if isinstance(value, Mapping):
        return f"a dictionary with {len(value)} key{'' if len(value) == 1 else 's'}"
    return _plain_kind(value)


def _plain_kind(value: Any) -> str:
    words = {
        bool: "True or False",
        int: "a whole number",
        float: "a number",
        str: "a string",
        dict: "a dictionary",
    }
    if isinstance(value, FunctionType):
        return "a function"
    name = type(value).__name__
    return words.get(type(value), f"{'an' if name[0] in 'AEIOUaeiou' else 'a'} {name}")
