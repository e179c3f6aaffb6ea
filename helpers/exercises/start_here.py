"""The exercise of notebook 00: one to try out how exercises work."""

from helpers.exercises.exercise import Case, Exercise, wrong_answers


def likeliest(tokens: list[str], probabilities: list[float]) -> str:
    """The token with the largest probability."""
    return tokens[probabilities.index(max(probabilities))]


LIKELIEST = Exercise(
    name="likeliest",
    notebook="00_start_here",
    title="The likeliest token",
    minutes=2,
    difficulty=1,
    reference=likeliest,
    cases=(
        Case((["red"], [1.0]), "There is only one to choose from."),
        Case(([" yellow", " red"], [0.25, 0.75]), "Which of the two has the larger number?"),
        Case(
            ([" green", " blue", " a", " red"], [0.125, 0.5, 0.0625, 0.25]),
            "It may be in the middle.",
        ),
    ),
    mistakes=wrong_answers(
        lambda tokens, probabilities: max(probabilities),
        "That is how likely it is. Which token is it?",
        lambda tokens, probabilities: probabilities.index(max(probabilities)),
        "That is its position. The token is at the same position in the other list.",
        lambda tokens, probabilities: max(tokens),
        "That is the last token in alphabetical order: max compared the texts.",
        lambda tokens, probabilities: tokens[0],
        "That is the first token. Nobody said that they are sorted.",
    ),
    hints=(
        "Find the largest probability. The likeliest token stands at the same position.",
        "`max(probabilities)` is the largest number, and `probabilities.index(...)` gives its "
        "position: `return tokens[probabilities.index(max(probabilities))]`.",
    ),
)
