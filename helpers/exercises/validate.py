"""The exercise of notebook 05 on early stopping; loops.py has the other one."""

from helpers.exercises.exercise import Case, Exercise, wrong_answers
from helpers.training.loop import should_stop_early

# ---- Patience


def _counts_every_rise(losses: list[float], patience: int) -> bool:
    return sum(b >= a for a, b in zip(losses, losses[1:], strict=False)) >= patience


def _rises_in_a_row(losses: list[float], patience: int) -> bool:
    recent = losses[-patience - 1 :]
    rises = [b >= a for a, b in zip(recent, recent[1:], strict=False)]
    return len(rises) == patience and all(rises)


def _beats_the_one_before(losses: list[float], patience: int) -> bool:
    recent = losses[-patience - 1 :]
    return len(recent) > patience and min(recent[1:]) >= recent[0]


def _equal_is_better(losses: list[float], patience: int) -> bool:
    last_best = max(i for i, loss in enumerate(losses) if loss == min(losses))
    return len(losses) - 1 - last_best >= patience


SHOULD_STOP_EARLY = Exercise(
    name="should_stop_early",
    notebook="05_validate",
    title="Has it waited long enough?",
    minutes=8,
    difficulty=2,
    reference=should_stop_early,
    cases=(
        Case(([2.0], 1), "There was only one evaluation, and it is the best."),
        Case(([2.0, 1.0], 1), "The last evaluation is the best."),
        Case(([1.0, 2.0], 1), "One evaluation without a lower loss, and patience for one."),
        Case(([1.0, 2.0], 2), "One evaluation without a lower loss, but patience for two."),
        Case(([1.0, 1.0], 1), "A loss that is equal is not lower."),
        Case(([1.0, 2.0, 1.5], 1), "The last loss beats the one before it, but not the best."),
        Case(([3.0, 1.0, 2.0, 1.5], 2), "It fell at the end, but not below the best."),
        Case(([3.0, 1.0, 2.0, 0.5], 2), "The last evaluation beats all before it."),
        Case(([2.0, 2.5, 1.0, 1.5, 0.5, 0.75], 2), "The last evaluation but one was the best."),
        Case(([1.0, 2.0, 3.0, 4.0], 3), "Three evaluations in a row without a lower loss."),
    ),
    mistakes=wrong_answers(
        _counts_every_rise,
        "You count every rise since the run began. A new best loss should reset the count to 0.",
        _rises_in_a_row,
        "You compare each loss with the one before. A loss that falls again, but not below "
        "the best, is no improvement either: compare with the best.",
        _beats_the_one_before,
        "You compare with the evaluation just before the last ones. Compare with the best of all "
        "before them.",
        lambda losses, patience: len(losses) - 1 - losses.index(min(losses)) > patience,
        "You wait one evaluation too long: with patience 1, the first without a lower loss is "
        "enough.",
        lambda losses, patience: len(losses) - losses.index(min(losses)) >= patience,
        "You stop one too early: you count the best evaluation itself as one without a lower loss.",
        _equal_is_better,
        "You take a loss equal to the best for a new best. It is not lower, so patience keeps "
        "running out.",
        lambda losses, patience: losses.index(min(losses)),
        "You found where the best loss is. The question is whether to stop: True or False.",
    ),
    hints=(
        "Where in the list is the lowest loss? The first place, if there are several.",
        "How many evaluations came after it? `return len(losses) - 1 - losses.index(min(losses)) "
        ">= patience`.",
    ),
)
