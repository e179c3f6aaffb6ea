"""Exercises that check themselves, and quizzes.

The framework: exercise (what one is made of), verdict (runs an attempt and says what came of it),
record (what is done), quizzes, registry (finds all exercises), commands and predictions (what a
learner calls).
Beside it stands a module of exercises for each notebook. A new exercise is an `Exercise` in one of
them, right below its functions; nothing else has to be told of it.
"""

from helpers.exercises.commands import check, hint, progress, solution
from helpers.exercises.predictions import predict, reveal, show_predictions
from helpers.exercises.quizzes import answer, quiz
from helpers.exercises.registry import exercises
