"""The exercises of notebook 05: reading a run, and deciding when it is over."""

import math

from helpers.evaluation.metrics import mean_by_tokens
from helpers.exercises.exercise import Case, Exercise, Mistake
from helpers.training.loop import learning_rate_at, should_stop_early
from helpers.training.settings import TrainSettings

# ---------------------------------------------------------------------------------------------
# Mean loss of a set
# ---------------------------------------------------------------------------------------------


def _mean_of_means(means: list[float], tokens: list[int]) -> float:
    return sum(means) / len(means)


def _mean_of_counted_means(means: list[float], tokens: list[int]) -> float:
    counted = [mean for mean, count in zip(means, tokens, strict=True) if count]
    return sum(counted) / len(counted)


def _sum_by_tokens(means: list[float], tokens: list[int]) -> float:
    return sum(means) / sum(tokens)


def _sum_by_batches(means: list[float], tokens: list[int]) -> float:
    sums = [mean * count for mean, count in zip(means, tokens, strict=True) if count]
    return sum(sums) / len(sums)


def _nan_times_nothing(means: list[float], tokens: list[int]) -> float:
    return sum(mean * count for mean, count in zip(means, tokens, strict=True)) / sum(tokens)


def _loss_cases() -> list[Case]:
    return [
        Case(([0.5], [8]), "One batch: its mean is the mean of the set."),
        Case(([1.0, 4.0], [9, 1]), "Nine tokens with loss 1 and one with loss 4."),
        Case(([2.0, 0.5, 1.0], [4, 16, 4]), "The batches differ in size."),
        Case(([0.5, math.nan], [10, 0]), "The last batch has no labelled token: its mean is nan."),
        Case(([math.nan, 2.0, 3.0], [0, 5, 15]), "The first batch has no labelled token."),
    ]


MEAN_BY_TOKENS = Exercise(
    name="mean_by_tokens",
    notebook="05_validate",
    title="The mean loss of a set",
    minutes=5,
    difficulty=1,
    reference=mean_by_tokens,
    cases=_loss_cases,
    mistakes=(
        Mistake(
            _mean_of_means,
            "This is the mean of the batches' means: a batch with one token weighs as much as "
            "one with a hundred. Each token should weigh the same.",
        ),
        Mistake(
            _mean_of_counted_means,
            "You leave out empty batches, which is right. But the others all weigh the same, "
            "however many tokens they have.",
        ),
        Mistake(
            _sum_by_tokens,
            "You divide by the tokens, but what you add up are means. Turn each mean back into "
            "the sum that it was made from.",
        ),
        Mistake(
            _sum_by_batches,
            "You add up the right sums. But you divide them by the number of batches, so that "
            "the result grows with the size of the batches.",
        ),
        Mistake(
            _nan_times_nothing,
            "Right, as long as every batch has a token. The mean of none is nan, and nan times "
            "0 is still nan: a single such batch spoils the whole set.",
        ),
    ),
    hints=(
        "A mean times the number of its tokens gives back the sum of their losses.",
        "Add the sums of all batches, and divide once, by the number of all tokens.",
        "Skip a batch that has no tokens, before you multiply.",
    ),
)


# ---------------------------------------------------------------------------------------------
# Learning rate of a step
# ---------------------------------------------------------------------------------------------


def _no_warmup(step: int, total: int, settings: TrainSettings) -> float:
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * step / total))


def _straight_down(step: int, total: int, settings: TrainSettings) -> float:
    warmup = math.ceil(settings.warmup_ratio * total)
    if step < warmup:
        return settings.learning_rate * step / warmup
    return settings.learning_rate * (1 - (step - warmup) / max(1, total - warmup))


def _full_cosine(step: int, total: int, settings: TrainSettings) -> float:
    warmup = math.ceil(settings.warmup_ratio * total)
    if step < warmup:
        return settings.learning_rate * step / warmup
    progress = (step - warmup) / max(1, total - warmup)
    return settings.learning_rate * math.cos(math.pi * progress)


def _cosine_from_zero(step: int, total: int, settings: TrainSettings) -> float:
    warmup = math.ceil(settings.warmup_ratio * total)
    if step < warmup:
        return settings.learning_rate * step / warmup
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * step / total))


def _no_fall(step: int, total: int, settings: TrainSettings) -> float:
    warmup = math.ceil(settings.warmup_ratio * total)
    return settings.learning_rate * (step / warmup if step < warmup else 1.0)


def _counts_from_one(step: int, total: int, settings: TrainSettings) -> float:
    return learning_rate_at(step + 1, total, settings)


def _rate_cases() -> list[Case]:
    tenth = TrainSettings(learning_rate=1.0, warmup_ratio=0.1)
    none = TrainSettings(learning_rate=1.0, warmup_ratio=0.0)
    uneven = TrainSettings(learning_rate=3e-4)
    return [
        Case((0, 10, none), "No warm-up: the first step has the whole rate."),
        Case((0, 20, tenth), "Two warm-up steps: the rate rises from 0."),
        Case((1, 20, tenth), "Half-way through the warm-up."),
        Case((2, 20, tenth), "The warm-up has just ended."),
        Case((11, 20, tenth), "Half-way down the cosine."),
        Case((15, 20, tenth), "Well down the cosine."),
        Case((19, 20, tenth), "The last step: nearly, but not quite, 0."),
        Case((5, 10, none), "No warm-up, half-way."),
        Case((2, 25, uneven), "A tenth of 25 steps, rounded up: three warm-up steps."),
    ]


LEARNING_RATE_AT = Exercise(
    name="learning_rate_at",
    notebook="05_validate",
    title="The learning rate of a step",
    minutes=8,
    difficulty=2,
    reference=learning_rate_at,
    cases=_rate_cases,
    mistakes=(
        Mistake(
            _no_warmup,
            "The fall is a half cosine, but there is no warm-up: the first step already has "
            "the whole rate.",
        ),
        Mistake(
            _straight_down,
            "The warm-up is right. After it the rate falls along a straight line; a half "
            "cosine starts and ends more gently.",
        ),
        Mistake(
            _full_cosine,
            "A cosine runs from 1 to -1, so your rate becomes negative: the steps would go "
            "uphill. Shift and shrink it, so that it runs from 1 to 0.",
        ),
        Mistake(
            _cosine_from_zero,
            "The cosine seems to begin at step 0, so the rate jumps down where the warm-up "
            "ends. Let its progress be 0 at the end of the warm-up.",
        ),
        Mistake(
            _no_fall,
            "The warm-up is right, but then the rate stays where it is. It should fall.",
        ),
        Mistake(
            _counts_from_one,
            "You are one step ahead: steps count from 0, and step 0 of a warm-up has rate 0.",
        ),
    ),
    hints=(
        "First the number of warm-up steps: that share of all steps, rounded up.",
        "Below it, the rate rises in proportion to the step.",
        "Progress runs from 0 at the end of the warm-up to 1 after the last step; "
        "(1 + cos(pi * progress)) / 2 then runs from 1 to 0.",
    ),
)


# ---------------------------------------------------------------------------------------------
# Patience
# ---------------------------------------------------------------------------------------------


def _counts_every_rise(losses: list[float], patience: int) -> bool:
    return sum(b >= a for a, b in zip(losses, losses[1:], strict=False)) >= patience


def _rises_in_a_row(losses: list[float], patience: int) -> bool:
    recent = losses[-patience - 1 :]
    rises = [b >= a for a, b in zip(recent, recent[1:], strict=False)]
    return len(rises) == patience and all(rises)


def _one_too_late(losses: list[float], patience: int) -> bool:
    return len(losses) - 1 - losses.index(min(losses)) > patience


def _one_too_early(losses: list[float], patience: int) -> bool:
    return len(losses) - losses.index(min(losses)) >= patience


def _equal_is_better(losses: list[float], patience: int) -> bool:
    last_best = max(i for i, loss in enumerate(losses) if loss == min(losses))
    return len(losses) - 1 - last_best >= patience


def _gives_the_place(losses: list[float], patience: int) -> int:
    return losses.index(min(losses))


def _patience_cases() -> list[Case]:
    return [
        Case(([2.0], 1), "There was only one evaluation, and it is the best."),
        Case(([2.0, 1.0], 1), "The last evaluation is the best."),
        Case(([1.0, 2.0], 1), "One evaluation without a lower loss, and patience for one."),
        Case(([1.0, 2.0], 2), "One evaluation without a lower loss, but patience for two."),
        Case(([1.0, 1.0], 1), "A loss that is equal is not lower."),
        Case(([3.0, 1.0, 2.0, 1.5], 2), "It fell at the end, but not below the best."),
        Case(([3.0, 1.0, 2.0, 0.5], 2), "The last evaluation beats all before it."),
        Case(([2.0, 2.5, 1.0, 1.5, 0.5, 0.75], 2), "The last evaluation but one was the best."),
        Case(([1.0, 2.0, 3.0, 4.0], 3), "Three evaluations in a row without a lower loss."),
    ]


SHOULD_STOP_EARLY = Exercise(
    name="should_stop_early",
    notebook="05_validate",
    title="Has it waited long enough?",
    minutes=8,
    difficulty=2,
    reference=should_stop_early,
    cases=_patience_cases,
    mistakes=(
        Mistake(
            _counts_every_rise,
            "You count every rise since the run began. A new best loss should set the count "
            "back to 0.",
        ),
        Mistake(
            _rises_in_a_row,
            "You compare each loss with the one before. One that falls again, but not below "
            "the best, brings nothing new either: compare with the best.",
        ),
        Mistake(
            _one_too_late,
            "One evaluation too many: with patience 1 the first without a lower loss is enough.",
        ),
        Mistake(
            _one_too_early,
            "One too early: you count the best evaluation itself as one without a lower loss.",
        ),
        Mistake(
            _equal_is_better,
            "A loss equal to the best is taken for a new best. It is not lower, so patience "
            "goes on running out.",
        ),
        Mistake(
            _gives_the_place,
            "You found where the best loss is. The question is whether to stop: True or False.",
        ),
    ),
    hints=(
        "Where in the list is the lowest loss? The first place, if there are several.",
        "How many evaluations came after it?",
    ),
)
