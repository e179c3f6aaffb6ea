"""All exercises of the course, in its order."""

from functools import cache
from importlib import import_module

from helpers.checks.exercise import Exercise
from helpers.errors import CourseError

# In the order of the notebooks, 00 to 09.
MODULES = (
    "start_here prompt template split fine_tune validate test_set instruct_model forgetting museum"
).split()


@cache
def exercises() -> dict[str, Exercise]:
    """Name of each exercise → the exercise."""
    modules = [import_module(f"helpers.checks.{name}") for name in MODULES]
    return {exercise.name: exercise for module in modules for exercise in module.EXERCISES}


def find(name: str) -> Exercise:
    """The exercise of that name.

    Raises CourseError when there is none.
    """
    if name not in exercises():
        raise CourseError(f"There is no exercise {name!r}. There is: {', '.join(exercises())}.")
    return exercises()[name]
