"""All exercises of the course, in its order."""

from functools import cache
from importlib import import_module
from importlib.util import find_spec

from helpers.checks.exercise import Exercise
from helpers.errors import CourseError

# In the order of the notebooks, 00 to 09.
MODULES = (
    "start_here prompt template split fine_tune validate test_set instruct_model forgetting museum"
).split()


@cache
def exercises() -> dict[str, Exercise]:
    """Name of each exercise → the exercise."""
    found: dict[str, Exercise] = {}
    for module in MODULES:
        path = f"helpers.checks.{module}"
        if find_spec(path):
            found.update({one.name: one for one in import_module(path).EXERCISES})
    return found


def find(name: str) -> Exercise:
    """The exercise of that name.

    Raises CourseError when there is none.
    """
    if name not in exercises():
        raise CourseError(f"There is no exercise {name!r}. There is: {', '.join(exercises())}.")
    return exercises()[name]
