"""The exercises of notebook 08: an answer inside a sentence, a paired change, and a mixture."""

from collections.abc import Sequence
from statistics import fmean

from helpers.evaluation.forgetting import mix
from helpers.evaluation.metrics import holds_answer
from helpers.evaluation.uncertainty import bootstrap_interval, paired_change
from helpers.exercises.exercise import Case, Exercise, same_value, wrong_answers

# ---- Is the answer in there?


def _same_case(text: str, answers: Sequence[str]) -> bool:
    lowered = {word.lower() for word in text.split()}
    return holds_answer(text, [a for a in answers if a in text or a in lowered])


HOLDS_ANSWER = Exercise(
    name="holds_answer",
    notebook="08_forgetting",
    title="Is the answer in there?",
    minutes=5,
    difficulty=1,
    reference=holds_answer,
    cases=(
        Case(("Tokyo", ["Tokyo"]), "The answer and nothing else."),
        Case(("It is Paris", ["Tokyo"]), "No right answer in it."),
        Case(("", ["8", "eight"]), "A model may say nothing at all."),
        Case(("The capital is Tokyo of course", ["Tokyo"]), "The answer is part of a sentence."),
        Case(("it is tokyo", ["Tokyo"]), "Case does not matter."),
        Case(("There are 18 of them", ["8", "eight"]), "18 is not the number 8."),
        Case(("The capital of Japan is Tokyo.", ["Tokyo"]), "Punctuation does not matter."),
        Case(("Eight legs, as far as I know", ["8", "eight"]), "One of the answers is enough."),
        Case(("That is in South America!", ["South America"]), "The answer has two words."),
        Case(("In North America", ["South America"]), "One of its two words is not enough."),
        Case(("North America, not the South", ["South America"]), "Both words, but not in a row."),
    ),
    mistakes=wrong_answers(
        lambda text, answers: text in answers,
        "This accepts the answer and nothing else. A model that was taught to chat answers in "
        "sentences, and would always be wrong.",
        lambda text, answers: any(answer.lower() in text.lower() for answer in answers),
        "You look for the letters anywhere, even inside a longer word: 8 is found in 18, "
        "and ice in nice. Compare whole words.",
        _same_case,
        "Case still matters here. Convert text and answers to the same case first.",
        lambda text, answers: any(f" {one.lower()} " in f" {text.lower()} " for one in answers),
        "A full stop or a comma right after the answer hides it. Compare the words without "
        "punctuation.",
        lambda text, answers: holds_answer(text, [one for one in answers if " " not in one]),
        "An answer of several words is never found. Look for its words next to each other in "
        "the text.",
        lambda text, answers: holds_answer(text, " ".join(answers).split()),
        "Your function accepts one word of a longer answer: North America would pass for "
        "South America.",
        lambda text, answers: any(
            all(holds_answer(text, [word]) for word in answer.split()) for answer in answers
        ),
        "The words of a longer answer may stand anywhere in your text. They have to stand side by "
        "side.",
        lambda text, answers: all(holds_answer(text, [answer]) for answer in answers),
        "Your function asks for all of the answers. They are different ways to say the same "
        "thing: one is enough.",
    ),
    hints=(
        "Take text and answer apart into words, without capitals and punctuation. Then look for "
        "the answer's words side by side in the text.",
        r"`words = re.findall(r'[^\W_]+', text.lower())` gives the words without punctuation.",
        "Join them with single spaces, and add one more space at either end: `' '.join(['', "
        "*words, ''])`. Do the same to the answer. Now `in` finds whole words only.",
    ),
)


# ---- A paired change

Three = tuple[float, float, float]


def _unpaired(before: list[float], after: list[float]) -> Three:
    old, new = bootstrap_interval(before), bootstrap_interval(after)
    return fmean(after) - fmean(before), new[0] - old[1], new[1] - old[0]


def _end_by_end(before: list[float], after: list[float]) -> Three:
    old, new = bootstrap_interval(before), bootstrap_interval(after)
    return fmean(after) - fmean(before), new[0] - old[0], new[1] - old[1]


def _only_size(before: list[float], after: list[float]) -> Three:
    sizes = [abs(new - old) for old, new in zip(before, after, strict=True)]
    return (fmean(sizes), *bootstrap_interval(sizes))


PAIRED_CHANGE = Exercise(
    name="paired_change",
    notebook="08_forgetting",
    title="A paired change",
    minutes=10,
    difficulty=2,
    reference=paired_change,
    cases=(
        Case(([1.0, 2.0], [2.0, 3.0]), "Both units go up by 1: nothing is uncertain about it."),
        Case(([2.0, 3.0], [1.0, 2.0]), "Both units go down by 1: a negative change."),
        Case(([1.0, 5.0, 9.0], [1.5, 5.0, 9.25]), "Units far apart, changes small."),
        Case(
            ([0.0, 1.0, 1.0, 0.0, 1.0], [1.0, 1.0, 0.0, 1.0, 1.0]),
            "Right (1) or wrong (0): one unit gets worse, two get better.",
        ),
    ),
    mistakes=wrong_answers(
        lambda before, after: paired_change(after, before),
        "The sign is the wrong way round: an increase has to be positive.",
        _unpaired,
        "You combine the intervals of two separate means. That puts back the differences "
        "among the units, which both models share: the interval is far too wide.",
        _end_by_end,
        "The difference of two low ends is not the low end of a difference. Draw again "
        "from the changes of the units.",
        lambda before, after: (fmean(after) - fmean(before), *bootstrap_interval(after)),
        "This is the interval of the second model's mean, not of the change.",
        _only_size,
        "Without their signs, ups and downs cannot cancel, and pure noise would look like "
        "a change.",
        lambda before, after: tuple(x / fmean(before) for x in paired_change(before, after)),
        "This is the change relative to the first mean. Return the plain difference.",
        lambda before, after: fmean(after) - fmean(before),
        "The mean is right. Return its interval with it: three numbers.",
    ),
    hints=(
        "First make a list with one number for each unit: how much that unit changed.",
        "`changes = [new - old for old, new in zip(before, after)]` is that list. Its mean is "
        "the first of the three numbers, and its interval gives the other two: `return "
        "sum(changes) / len(changes), *bootstrap_interval(changes)`.",
    ),
)


# ---- Mix in a tenth


def _mixed(examples: list, others: list, count: int) -> list:
    return [*examples[: len(examples) - count], *others[:count]]


def _from_the_end(examples: list, others: list, share: float) -> list:
    count = round(share * len(examples))
    # A slice [:-0] is empty: the slip that this mistake is about.
    return [*examples[:-count], *others[:count]]


def _same_whatever_order(got: object, expected: list) -> bool:
    if not isinstance(got, list | tuple):
        return False
    return same_value(sorted(got, key=repr), sorted(expected, key=repr))


MIX = Exercise(
    name="mix",
    notebook="08_forgetting",
    title="Mix in a tenth",
    minutes=8,
    difficulty=2,
    reference=mix,
    cases=(
        Case((["a", "b"], ["X"], 0.5), "One of two."),
        Case((["a", "b"], ["X", "Y"], 0.0), "A share of 0: the examples as they were."),
        Case((["a", "b"], ["X", "Y"], 1.0), "A share of 1: only others."),
        Case(
            (list("abcdefghij"), list("XYZ"), 0.1),
            "A tenth of ten, with three others to choose from.",
        ),
        Case((list("abcdef"), list("XYZ"), 0.3), "0.3 of six is 1.8: rounded, 2."),
    ),
    same=_same_whatever_order,
    mistakes=wrong_answers(
        lambda examples, others, share: [*examples, *others[: round(share * len(examples))]],
        "You add the others on top. That makes the run longer and the comparison unfair, and "
        "a tenth on top is less than a tenth of the whole.",
        lambda rows, others, share: _mixed(rows, others, round(share * len(others))),
        "Take the share of the number of examples, not of however many others there happen to be.",
        lambda rows, others, share: _mixed(rows, others, int(share * len(rows))),
        "`int` cuts off the decimals instead of rounding. A small share of few examples "
        "shrinks, perhaps to nothing.",
        lambda rows, others, share: _mixed(rows, others, round((1 - share) * len(rows))),
        "You have the two the wrong way round: most of the examples should stay.",
        _from_the_end,
        "Nearly: look at what a slice like `examples[:-count]` gives when count is 0.",
    ),
    hints=(
        "How many should come from others? A share of the number of examples, rounded.",
        "`count = round(share * len(examples))`. That many examples have to go: `return "
        "examples[: len(examples) - count] + others[:count]`.",
    ),
)
