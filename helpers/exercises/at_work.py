"""The exercises of notebook 11: the default that was left on, and sampling from the likeliest."""

from helpers.exercises.exercise import Case, Exercise, altered, wrong_answers

CULPRIT = Exercise(
    name="culprit",
    notebook="11_at_work",
    title="Which default was it?",
    minutes=6,
    difficulty=2,
    reference="learning_rate",
    mistakes=wrong_answers(
        "train_sampling_strategy",
        "If the rows came in a different order, the very first loss would be that of other rows.",
        "completion_only_loss",
        "If the prompt counted as well, the very first loss would be different. (TRL leaves "
        "it out by itself when there are columns named prompt and completion.)",
        "bf16",
        "With 16 bits, the first loss would already differ a little, and later ones by not "
        "much more.",
        "max_length",
        "TRL cuts at 1,024 tokens, and these rows are much shorter.",
        "gradient_checkpointing",
        "That computes activations twice, to save memory. The losses are the same.",
        "lr_scheduler_type",
        "The first steps of both schedules are nearly the same, so the losses would diverge "
        "later and by less. Try trl_run(leave_out=...).",
    ),
    hints=(
        "The first loss is computed before any weight has moved. So rows, labels and model are the "
        "same; something in the step must differ. How large is the step?",
        "Of the settings that decide how far the weights move, one has a default in TRL that is a "
        'tenth of ours. Leave them out one at a time: `trl_run(leave_out="learning_rate")[1]`.',
    ),
)


def top_p(probabilities: list[float], p: float) -> list[float]:
    """The likeliest probabilities that together reach p, scaled to a sum of 1; 0 for all others."""
    kept, total = set(), 0.0
    for i in sorted(range(len(probabilities)), key=lambda i: -probabilities[i]):
        kept.add(i)
        total += probabilities[i]
        if total >= p:
            break
    return [value / total if i in kept else 0 for i, value in enumerate(probabilities)]


def _one_too_few(probabilities: list[float], p: float) -> list[float]:
    """Stops before p is reached."""
    kept, total = set(), 0.0
    for i in sorted(range(len(probabilities)), key=lambda i: -probabilities[i]):
        if kept and total + probabilities[i] > p:
            break
        kept.add(i)
        total += probabilities[i]
    return [value / total if i in kept else 0 for i, value in enumerate(probabilities)]


TOP_P = Exercise(
    name="top_p",
    notebook="11_at_work",
    title="Keep the likeliest",
    minutes=8,
    difficulty=2,
    reference=top_p,
    cases=(
        Case(([1.0], 0.5), "One token: it is kept, and stays 1."),
        Case(([0.5, 0.25, 0.25], 0.5), "The first token reaches p by itself."),
        Case(([0.5, 0.25, 0.125, 0.125], 0.625), "Two tokens are needed, and are scaled to 1."),
        Case(([0.125, 0.625, 0.25], 0.75), "The likeliest token need not come first."),
        Case(([0.25, 0.5, 0.25], 1.0), "With p = 1 all are kept."),
    ),
    mistakes=wrong_answers(
        altered(top_p, {"value / total": "value"}),
        "The right tokens are kept, but they no longer add up to 1. Divide by their sum.",
        _one_too_few,
        "The tokens you keep do not reach p yet. Keep the one that takes the sum to p, too.",
        altered(top_p, {", key=lambda i: -probabilities[i]": ""}),
        "Tokens are kept in the order of the list. Begin with the likeliest one.",
        lambda probabilities, p: [value if value >= p else 0 for value in probabilities],
        "You compare each token with p by itself. The sum, from the likeliest token on, has "
        "to reach p.",
    ),
    hints=(
        "Go through the tokens from the likeliest on, add up, and stop as soon as the sum reaches "
        "p. Keep the tokens you have passed, and divide them by that sum.",
        "`for i in sorted(range(len(probabilities)), key=lambda i: -probabilities[i]):` gives the "
        "positions from the likeliest on.",
    ),
)
