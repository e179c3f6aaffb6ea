"""What an exercise is made of, and when two answers count as the same."""

import inspect
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy
import torch

RELATIVE, ABSOLUTE = 1e-6, 1e-9


@dataclass(frozen=True)
class Case:
    """Arguments that the learner's function is called with, and what to say if this goes wrong.

    arguments: as a tuple; each call gets a deep copy.
    hint: said when this is the smallest case that fails.
    """

    arguments: tuple
    hint: str = ""


@dataclass(frozen=True)
class Mistake:
    """A wrong answer that learners typically give.

    attempt: a function or value, of the kind that is asked for.
    message: said to whoever gives the same answers. It names the idea, not the solution.
    """

    attempt: Any
    message: str


def wrong_answers(*attempts_and_messages: Any) -> tuple[Mistake, ...]:
    """Mistakes, written as a wrong answer and its message, the next answer and its message …"""
    attempts, messages = attempts_and_messages[::2], attempts_and_messages[1::2]
    return tuple(Mistake(*pair) for pair in zip(attempts, messages, strict=True))


def altered(right: Callable | str, changes: dict[str, str]) -> Callable:
    """A wrong function: the right one with some of its source exchanged.

    right: the function, or a text that defines it. changes: what is exchanged → what stands there
    instead.
    """
    if isinstance(right, str):
        source, names = right, {}
    else:
        source, names = inspect.getsource(right), dict(right.__globals__)
    name = re.search(r"^def (\w+)", source, re.MULTILINE)[1]
    for old, new in changes.items():
        assert old in source, f"{old!r} is no longer in {name}"
        source = source.replace(old, new)
    exec(source, names)
    return names[name]


def same_value(got: Any, expected: Any) -> bool:
    """Whether an answer counts as the expected one.

    Numbers may differ by a millionth; a whole number counts as a float, a tensor without dimensions
    as a number, a tuple and an array of NumPy as a list. A list is no tensor. Tensors agree in
    shape and in being whole numbers, floats or truth values. Dictionaries agree in all they hold;
    so do objects that cannot be compared otherwise.
    """
    if isinstance(expected, torch.Tensor) and expected.dim():
        return isinstance(got, torch.Tensor) and _same_tensor(got, expected)
    got, expected = _as_plain(got), _as_plain(expected)
    if isinstance(expected, bool) or isinstance(got, bool):
        return type(got) is type(expected) and got == expected
    if isinstance(expected, int | float):
        return isinstance(got, int | float) and _same_number(got, expected)
    if isinstance(expected, list | tuple):
        return (
            isinstance(got, list | tuple)
            and len(got) == len(expected)
            and all(same_value(a, b) for a, b in zip(got, expected, strict=True))
        )
    if isinstance(expected, Mapping):
        return (
            isinstance(got, Mapping)
            and got.keys() == expected.keys()
            and all(same_value(got[key], expected[key]) for key in expected)
        )
    if type(got) is not type(expected):
        return False
    if type(expected).__eq__ is object.__eq__ and hasattr(expected, "__dict__"):
        return got is expected or same_value(vars(got), vars(expected))
    return bool(got == expected)


def _as_plain(value: Any) -> Any:
    """What only wraps numbers (NumPy, a tensor without dimensions) as numbers and lists."""
    if isinstance(value, torch.Tensor):
        return value.item() if value.dim() == 0 else value
    return value.tolist() if isinstance(value, numpy.ndarray | numpy.generic) else value


def _same_number(got: float, expected: float) -> bool:
    both_nan = math.isnan(got) and math.isnan(expected)
    return both_nan or math.isclose(got, expected, rel_tol=RELATIVE, abs_tol=ABSOLUTE)


def _same_tensor(got: torch.Tensor, expected: torch.Tensor) -> bool:
    kinds = [(one.is_floating_point(), one.dtype == torch.bool) for one in (got, expected)]
    if got.shape != expected.shape or kinds[0] != kinds[1]:
        return False
    # float32 has about seven digits, so a sum in another order needs some room.
    room = max(RELATIVE, 8 * torch.finfo(got.dtype).eps) if got.is_floating_point() else 0
    got, expected = got.detach().double(), expected.detach().double()
    return torch.allclose(got, expected, rtol=room, atol=room, equal_nan=True)


@dataclass(frozen=True)
class Exercise:
    """One exercise: what is right, what typically goes wrong, and what helps.

    name: unique in the course, and the name of the learner's function or value.
    notebook: where it stands, without .ipynb. difficulty: 1, 2 or 3 stars.
    reference: the right function, wherever possible the helper itself, or the right value.
    cases: the hidden ones, the smallest first; the reference says what is expected.
    mistakes: at least three, each with a message of its own; see `wrong_answers`.
    hints: the idea, and then what leads to the lines; at least two. `hint` shows the idea, then all
        the others.
    same: whether an answer counts as the expected one.
    judge: in place of reference and cases where many answers are right. It gets the learner's
        function or value and returns None when that is right, else what is wrong, in words.
    answer: source text of a solution, in place of the reference's own.
    specimen: what stands in the notebook is no stub but a function with a bug, to be mended.
    """

    name: str
    notebook: str
    title: str
    minutes: int
    difficulty: int
    reference: Any = None
    cases: Sequence[Case] = ()
    mistakes: tuple[Mistake, ...] = ()
    hints: tuple[str, ...] = ()
    same: Callable[[Any, Any], bool] = same_value
    judge: Callable[[Any], str | None] | None = None
    answer: str = ""
    specimen: bool = False
