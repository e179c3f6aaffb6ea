"""Exercises of notebook 02: which texts are alike, and what gives an answer away."""

import re
from collections import Counter
from collections.abc import Sequence

from helpers.data.table import share_of_common_words
from helpers.data.templates import Template, predictability
from helpers.errors import CourseError
from helpers.exercises.exercise import Case, Exercise, Mistake

# ---------------------------------------------------------------------------------------------
# Words in common
# ---------------------------------------------------------------------------------------------


def _count(text: str) -> Counter[str]:
    return Counter(re.findall(r"\w+", text.lower()))


def _sets(a: str, b: str) -> float:
    first, second = set(_count(a)), set(_count(b))
    return 2 * len(first & second) / max(1, len(first) + len(second))


def _of_all_words(a: str, b: str) -> float:
    first, second = _count(a), _count(b)
    return (first & second).total() / max(1, (first | second).total())


def _not_twice(a: str, b: str) -> float:
    first, second = _count(a), _count(b)
    return (first & second).total() / max(1, first.total() + second.total())


def _of_the_first(a: str, b: str) -> float:
    first, second = _count(a), _count(b)
    return (first & second).total() / max(1, first.total())


def _with_capitals(a: str, b: str) -> float:
    first, second = (Counter(re.findall(r"\w+", text)) for text in (a, b))
    return 2 * (first & second).total() / max(1, first.total() + second.total())


def _with_punctuation(a: str, b: str) -> float:
    first, second = (Counter(text.lower().split()) for text in (a, b))
    return 2 * (first & second).total() / max(1, first.total() + second.total())


def _position_by_position(a: str, b: str) -> float:
    first, second = (re.findall(r"\w+", text.lower()) for text in (a, b))
    same = sum(x == y for x, y in zip(first, second, strict=False))
    return 2 * same / max(1, len(first) + len(second))


def _word_cases() -> list[Case]:
    return [
        Case(("good", "good"), "The same text twice has all its words in common."),
        Case(("", ""), "Two empty texts have nothing in common: 0, and no error."),
        Case(("good", "bad"), "No word in common."),
        Case(("a good bag", "good"), "One common word, and four words in both texts together."),
        Case(("A bag", "the BAG"), "Capitals do not matter."),
        Case(("It broke.", "it broke"), "Punctuation does not matter."),
        Case(("bag for the beach", "for the bag"), "The order of the words does not matter."),
        Case(("very very good", "very bad"), "One 'very' is common, the second one is not."),
        Case(("very very good", "very, very bad"), "Both texts have 'very' twice."),
    ]


SHARE_OF_COMMON_WORDS = Exercise(
    name="share_of_common_words",
    notebook="02_template",
    title="How alike are two texts?",
    minutes=6,
    difficulty=1,
    reference=share_of_common_words,
    cases=_word_cases,
    mistakes=(
        Mistake(
            _sets,
            "A set forgets how often a word occurs. Here a word that both texts have twice is "
            "common twice.",
        ),
        Mistake(
            _of_all_words,
            "You divide by the words of both texts together, but count the common ones once. "
            "Divide by the words of one text plus those of the other.",
        ),
        Mistake(
            _not_twice,
            "Half of what it should be: two equal texts ought to give 1.",
        ),
        Mistake(
            _of_the_first,
            "You divide by the words of one text only, so the result changes when the two "
            "texts change places.",
        ),
        Mistake(
            _with_capitals,
            "'Bag' and 'bag' are the same word here. Make all letters small first.",
        ),
        Mistake(
            _with_punctuation,
            "'broke.' and 'broke' are the same word here. A full stop is no part of a word.",
        ),
        Mistake(
            _position_by_position,
            "You compare the first word with the first, the second with the second. One word "
            "put in front would make two texts quite different.",
        ),
    ),
    hints=(
        "re.findall(r'\\w+', text.lower()) makes a list of the words of a text.",
        "A Counter made of that list knows how often each word occurs.",
        "counter_a & counter_b keeps what both have, and .total() adds up a Counter.",
    ),
)

# ---------------------------------------------------------------------------------------------
# A prompt without a leak
# ---------------------------------------------------------------------------------------------

_CHOICES = ("yes", "no")
_ROWS = [
    {
        "review_id": f"R{number}",
        "department": "garden",
        "product_title": "Rain gauge",
        "star_rating": stars,
        "review_headline": headline,
        "review_body": body,
    }
    for number, (stars, headline, body) in enumerate(
        [
            (5, "Easy to read", "It shows every millimetre, and the frost did it no harm."),
            (1, "", "The glass burst in the first cold night."),
        ],
        start=1,
    )
]


_HEADLINE = "1234"  # no filter, such as upper, would change it


def _judge_prompt(source: str) -> str | None:
    completion = "{{ choices[0] if star_rating > 3 else choices[1] }}"
    template = Template("yours", source, completion, _CHOICES)
    try:
        prompts = [template.render(row)["prompt"] for row in _ROWS]
        with_headline = template.render(_ROWS[1] | {"review_headline": _HEADLINE})["prompt"]
    except CourseError as error:
        return str(error)
    for row, prompt in zip(_ROWS, prompts, strict=True):
        if row["review_body"] not in prompt:
            return (
                f"The prompt of one row is {prompt!r}. The review itself, review_body, is not in "
                "it, so the model could only guess."
            )
        rest = prompt.replace(row["review_body"], "")
        missing = [word for word in _CHOICES if not re.search(rf"\b{word}\b", rest.lower())]
        if missing:
            return (
                f"The prompt of one row is {prompt!r}. It does not name the answer "
                f"{' or '.join(missing)}, so the model cannot know which words are asked for."
            )
    # Without an `if`, a missing headline takes nothing with it: no label, no line break.
    if _HEADLINE in with_headline and with_headline.replace(_HEADLINE, "") == prompts[1]:
        return (
            f"The prompt of a row without a headline is {prompts[1]!r}. Where its headline would "
            "stand, something is left over: an empty line, a space, or a label with nothing "
            "behind it. Such rows need a prompt in which the headline's place is gone as well."
        )
    return None


HAPPY_PROMPT = Exercise(
    name="happy_prompt",
    notebook="02_template",
    title="A prompt that does not give the answer away",
    minutes=6,
    difficulty=2,
    judge=_judge_prompt,
    mistakes=(
        Mistake(
            "{{ review_body }} ({{ star_rating }} stars)\nIs this customer happy, yes or no?",
            "A model that sees the stars need not read the review.",
        ),
        Mistake(
            "{{ review_body }}\nIs this customer happy, yes or no?\nAnswer: ",
            "The space is the first sign of the answer, and no part of the question.",
        ),
        Mistake(
            "{review_body}\nIs this customer happy, yes or no?",
            "One pair of braces is for f-strings. Jinja wants two pairs.",
        ),
        Mistake(
            "{{ review_text }}\nIs this customer happy, yes or no?",
            "Look up the names of the columns in the first line of the table.",
        ),
        Mistake(
            "{{ review_body }}\nIs this customer happy?",
            "People would answer 'quite' or 'I think so', and so would a model.",
        ),
        Mistake(
            "{{ review_headline }}\nIs this customer happy, yes or no?",
            "A headline helps, but some rows have none.",
        ),
        Mistake(
            "{{ review_headline }}\n{{ review_body }}\nIs this customer happy, yes or no?",
            "Put the headline and its line break between {% if review_headline %} and {% endif %}, "
            "so that neither is there when a row has no headline.",
        ),
    ),
    hints=(
        "Begin with the review: {{ review_body }}, in two pairs of braces.",
        "Then ask, and name both answers. {{ choices | join(' or ') }} does it from the list.",
        "End where the answer should follow: with a word, a colon or a question mark, and no "
        "space behind it.",
        "A headline may be left out. If you show it, {% if review_headline %} ... {% endif %} "
        "keeps it, with its line break, to the rows that have one.",
    ),
    answer="""
happy_prompt = \"\"\"{% if review_headline %}{{ review_headline }}
{% endif %}{{ review_body }}
Is this customer happy ({{ choices | join(" or ") }})?\"\"\"
""",
)

# ---------------------------------------------------------------------------------------------
# How well a column predicts the answer
# ---------------------------------------------------------------------------------------------


def _with_itself(column: Sequence[object], answers: Sequence[str]) -> float:
    groups: dict[object, Counter[str]] = {}
    for value, answer in zip(column, answers, strict=True):
        groups.setdefault(value, Counter())[answer] += 1
    return sum(group.most_common(1)[0][1] for group in groups.values()) / len(column)


def _without_column(column: Sequence[object], answers: Sequence[str]) -> float:
    return Counter(answers).most_common(1)[0][1] / len(answers)


def _of_the_guessed(column: Sequence[object], answers: Sequence[str]) -> float:
    times = Counter(column)
    guessed = sum(times[value] > 1 for value in column)
    return predictability(column, answers) * len(column) / max(1, guessed)


def _rows_predicted(column: Sequence[object], answers: Sequence[str]) -> float:
    return predictability(column, answers) * len(column)


def _only_pure_values(column: Sequence[object], answers: Sequence[str]) -> float:
    found: dict[object, set[str]] = {}
    for value, answer in zip(column, answers, strict=True):
        found.setdefault(value, set()).add(answer)
    times = Counter(column)
    return sum(len(found[v]) == 1 and times[v] > 1 for v in column) / len(column)


def _value_cases() -> list[Case]:
    """In none of these are two guesses equally common."""

    def case(pairs: str, hint: str) -> Case:
        column, answers = zip(*(pair.split("-") for pair in pairs.split()), strict=True)
        return Case((list(column), list(answers)), hint)

    return [
        case("a-yes a-yes", "Each row has one other with the same value, and it says the same."),
        case("a-yes b-no", "No other row has the same value, so nothing can be guessed."),
        case("a-yes a-no", "Each of the two rows guesses what the other one says."),
        case("a-yes a-yes b-no", "The last row has a value of its own."),
        case("a-yes a-yes a-yes a-no b-yes", "The fourth row has three others, and they say yes."),
        case("a-yes b-no a-yes b-no b-no c-yes", "The value c occurs once."),
        case("1-yes 2-no 3-no 4-yes", "Like an id: every value occurs once."),
    ]


PREDICTABILITY = Exercise(
    name="predictability",
    notebook="02_template",
    title="How well does a column predict the answer?",
    minutes=10,
    difficulty=3,
    reference=predictability,
    cases=_value_cases,
    mistakes=(
        Mistake(
            _with_itself,
            "You let a row vote on its own answer. Then any id, which occurs once, would predict "
            "everything.",
        ),
        Mistake(
            _without_column,
            "That is how far the commonest answer of the whole table comes. Look at the rows "
            "with the same value in the column.",
        ),
        Mistake(
            _of_the_guessed,
            "You divide by the rows for which there is a guess. A column that says nothing "
            "about most rows does not predict their answers: divide by all rows.",
        ),
        Mistake(
            _rows_predicted,
            "That is the number of rows that are predicted. Make a share of it.",
        ),
        Mistake(
            _only_pure_values,
            "You count a value only when all its rows have one answer. A value that is right "
            "three times in four gives something away as well.",
        ),
    ),
    hints=(
        "For one row: collect the answers of all rows with the same value, except its own.",
        "Counter(those answers).most_common(1) gives the commonest one, if there is any.",
        "Count the rows whose guess is their own answer, and divide by the number of all rows.",
    ),
)
