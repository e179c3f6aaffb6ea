"""Exercises that check themselves, and quizzes.

The order of the modules: exercise, verdict, record, quizzes; then the exercises, a module for each
notebook; then registry and commands. A notebook takes all it needs from here.
"""

from helpers.checks.commands import check, hint, progress, solution
from helpers.checks.quizzes import answer, quiz

__all__ = ["answer", "check", "hint", "progress", "quiz", "solution"]
