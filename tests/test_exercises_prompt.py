"""Notebook 01's exercises: the solutions that are shown do what the course's own code does."""

import pytest

from helpers.exercises.prompt import CALIBRATE, FIT_SHOTS
from helpers.exercises.verdict import RIGHT, assess


@pytest.mark.parametrize("exercise", [CALIBRATE, FIT_SHOTS], ids=lambda one: one.name)
def test_the_solution_that_is_shown_is_right(exercise):
    namespace: dict = {}
    exec(exercise.answer, namespace)
    assert assess(exercise, namespace[exercise.name]).state == RIGHT
