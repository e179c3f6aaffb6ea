"""The exercise of notebook 10: take e-mail addresses out of a text."""

import re

from helpers.data.describe import EMAIL
from helpers.exercises.exercise import Case, Exercise, wrong_answers


def redact(text: str) -> str:
    """The text with "[e-mail]" in the place of each e-mail address."""
    return re.sub(EMAIL, "[e-mail]", text)


REDACT = Exercise(
    name="redact",
    notebook="10_your_table",
    title="Take the addresses out",
    minutes=6,
    difficulty=1,
    reference=redact,
    cases=(
        Case(("Nothing in here.",), "A text without an address stays as it is."),
        Case(("Write to ann@example.org please",), "One address between words."),
        Case(("Write to ann@example.org.",), "The full stop after it ends the sentence."),
        Case(("ann@example.org or bob.lee+news@mail.example.com",), "Two addresses."),
        Case(("Ann (ann@example.org) knows",), "The brackets belong to the text around it."),
        Case(("Two for 5 @ 3 each",), "This @ stands alone, so it belongs to no address."),
    ),
    mistakes=wrong_answers(
        lambda text: re.sub(EMAIL, "[e-mail]", text, count=1),
        "Only the first address of a text is replaced. A text may hold several.",
        lambda text: "[e-mail]" if "@" in text else text,
        "The whole text is gone. Replace the address, and keep the words around it.",
        lambda text: re.sub(r"\S*@\S*", "[e-mail]", text),
        "You replace everything that touches the @: a full stop after an address goes with "
        "it, and an @ that stands alone is not an address.",
        lambda text: re.sub(r"\S+@\S+\w", "[e-mail]", text),
        "You take all that is no space for a part of the address, such as a bracket before it.",
        lambda text: re.sub(EMAIL, "", text),
        "The addresses are deleted. Put [e-mail] in their place, so that the sentence stays "
        "complete.",
    ),
    hints=(
        "Describe an address by a pattern, and replace every match. An address is some letters, "
        "an @, a name, a full stop and a letter at the very end.",
        '`re.sub(pattern, "[e-mail]", text)` replaces every match, and a pattern that does it '
        r'is `r"[\w.+-]+@[\w-]+\.[\w.-]*\w"`.',
    ),
)
