"""The exercise of appendix A: the loss of a batch that went through the model in parts."""

from helpers.exercises.exercise import Case, Exercise, wrong_answers


def loss_of_parts(sums: list[float], counts: list[int]) -> float:
    """Loss in nats per labelled token of a batch that was cut into micro-batches.

    sums: loss summed over the labelled tokens of each micro-batch. counts: how many these are.
    """
    return sum(sums) / sum(counts)


LOSS_OF_PARTS = Exercise(
    name="loss_of_parts",
    notebook="A_speed_and_memory",
    title="The loss of a batch in parts",
    minutes=3,
    difficulty=1,
    reference=loss_of_parts,
    cases=(
        Case(([6.0], [3]), "One micro-batch is the whole batch."),
        Case(([2.0, 4.0], [2, 2]), "Two micro-batches with equally many labelled tokens."),
        Case(([2.0, 12.0], [1, 4]), "The second micro-batch has more labelled tokens."),
        Case(([1.0, 0.5, 30.0], [2, 1, 10]), "Three micro-batches."),
    ),
    mistakes=wrong_answers(
        lambda sums, counts: sum(s / n for s, n in zip(sums, counts, strict=True)) / len(sums),
        "This is the mean of the parts' means. A token in a part with few labelled tokens "
        "then weighs more than one in a part with many.",
        lambda sums, counts: sum(sums) / len(sums),
        "You divide by the number of micro-batches. The loss is a mean over labelled tokens.",
        lambda sums, counts: sum(sums),
        "This is the sum over all labelled tokens. The loss is their mean.",
        lambda sums, counts: sum(s / n for s, n in zip(sums, counts, strict=True)),
        "These are the means of the parts, added up. With more parts the loss would grow.",
    ),
    hints=(
        "The loss is a mean over all labelled tokens of the batch. It must not depend on how the "
        "batch was cut.",
        "Add up all sums and all counts, then divide once: `return sum(sums) / sum(counts)`.",
    ),
)
