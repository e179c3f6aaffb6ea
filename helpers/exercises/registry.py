"""All exercises of the course, in its order."""

import pkgutil
from functools import cache
from importlib import import_module
from pathlib import Path

from helpers.errors import CourseError
from helpers.exercises.exercise import Exercise


def collect() -> list[Exercise]:
    """Each Exercise that a module of this package defines, notebook by notebook.

    Within a notebook they come in the order in which its module defines them, specimens first.
    """
    names = [module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)])]
    modules = [import_module(f"helpers.exercises.{name}") for name in names]
    found = [value for module in modules for value in vars(module).values()]
    exercises = [value for value in found if isinstance(value, Exercise)]
    return sorted(exercises, key=lambda one: (one.notebook, not one.specimen))


@cache
def exercises() -> dict[str, Exercise]:
    """Name of each exercise → the exercise."""
    return {exercise.name: exercise for exercise in collect()}


def find(name: str) -> Exercise:
    """The exercise of that name.

    Raises CourseError when there is none.
    """
    if name not in exercises():
        raise CourseError(
            f"There is no exercise {name!r}. The exercises are: {', '.join(exercises())}."
        )
    return exercises()[name]
