"""Exercises of notebook 02: a prompt without a leak, texts that are alike, a table of your own."""

import re
import tempfile
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

from helpers.data.table import share_of_common_words
from helpers.data.task import load_task
from helpers.data.templates import Template
from helpers.errors import CourseError
from helpers.exercises.exercise import Case, Exercise, altered, wrong_answers

# ---- A prompt without a leak

_REVIEWS = [
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


def wrong_prompt(template: Template) -> str | None:
    """What is wrong with the prompts that a template makes of two reviews, in words: the template
    itself, a review that is not shown, or an answer that is not named. None when all is right."""
    for review in _REVIEWS:
        try:
            prompt = template.render(review)["prompt"]
        except CourseError as error:
            return str(error)
        body = review["review_body"]
        if body not in prompt:
            return (
                f"The prompt of one row is {prompt!r}. The review itself, review_body, is not in "
                "it, so the model could only guess."
            )
        rest = prompt.replace(body, "").lower()
        missing = [word for word in template.choices if not re.search(rf"\b{word}\b", rest)]
        if missing:
            return (
                f"The prompt of one row is {prompt!r}. It does not name the answer "
                f"{' or '.join(missing)}, so the model cannot know which words are asked for."
            )
    return None


def _judge_prompt(source: str) -> str | None:
    completion = "{{ choices[0] if star_rating > 3 else choices[1] }}"
    template = Template("yours", source, completion, ("yes", "no"))
    if wrong := wrong_prompt(template):
        return wrong
    without = _REVIEWS[1]
    prompt, with_headline = (
        template.render(row)["prompt"]
        for row in (without, without | {"review_headline": _HEADLINE})
    )
    # Without an `if`, a missing headline takes nothing with it: no label, no line break. And a line
    # break outside of the `if` stays behind, as an empty line.
    left_over = with_headline.replace(_HEADLINE, "") == prompt
    left_over |= prompt.startswith("\n") and not with_headline.startswith("\n")
    left_over |= prompt.count("\n\n\n") > with_headline.count("\n\n\n")
    label = with_headline.partition(_HEADLINE)[0].rpartition("\n")[2].strip()

    def labels(text: str) -> int:
        others = (line for line in text.split("\n") if without["review_body"] not in line)
        return sum(line.strip().startswith(label) for line in others)

    left_over |= bool(label) and 0 < labels(prompt) == labels(with_headline)
    if _HEADLINE in with_headline and left_over:
        return (
            f"The prompt of a row without a headline is {prompt!r}. Where its headline would "
            "be, something is left over: an empty line, a space, or a label with nothing after "
            "it. In the prompt of such a row, leave no trace of the headline."
        )
    return None


HAPPY_PROMPT = Exercise(
    name="happy_prompt",
    notebook="02_template",
    title="A prompt that does not give the answer away",
    minutes=6,
    difficulty=2,
    judge=_judge_prompt,
    mistakes=wrong_answers(
        "{{ review_body }} ({{ star_rating }} stars)\nIs this customer happy, yes or no?",
        "A model that sees the stars need not read the review.",
        "{{ review_body }}\nIs this customer happy, yes or no?\nAnswer: ",
        "The space is the first character of the completion, not a part of the question.",
        "{review_body}\nIs this customer happy, yes or no?",
        "Single braces are for f-strings. Jinja takes double braces.",
        "{{ review_text }}\nIs this customer happy, yes or no?",
        "Look up the names of the columns in the first line of the table.",
        "{{ review_body }}\nIs this customer happy?",
        "People would answer 'quite' or 'I think so', and so would a model.",
        "{{ review_headline }}\nIs this customer happy, yes or no?",
        "A headline helps, but some rows have none.",
        "{{ review_headline }}\n{{ review_body }}\nIs this customer happy, yes or no?",
        "Put the headline and its line break between {% if review_headline %} and {% endif %}, "
        "so that neither is there when a row has no headline.",
        "{% if review_headline %}{{ review_headline }}\n{% endif %}\n{{ review_body }}\n"
        "Is this customer happy, yes or no?",
        "A line break after {% endif %} stays where there is no headline. Begin the next part "
        "right after {% endif %}.",
    ),
    hints=(
        "Show the review, then ask, and name both answers. End where the answer should follow: "
        "with a word, a colon or a question mark, and no space after it.",
        "You may leave the headline out. If you show it, `{% if review_headline %} ... {% endif "
        "%}` limits it, with its line break, to the rows that have one.",
        "The review is `{{ review_body }}`, and the last line may be `Is this customer happy ({{ "
        'choices | join(" or ") }})?`.',
    ),
    answer="""
happy_prompt = \"\"\"{% if review_headline %}{{ review_headline }}
{% endif %}{{ review_body }}
Is this customer happy ({{ choices | join(" or ") }})?\"\"\"
""",
)

# ---- Words in common


_ALIKE = """
import re
from collections import Counter


def share_of_common_words(a, b):
    first, second = (Counter(re.findall(r"\\w+", text.lower())) for text in (a, b))
    return 2 * (first & second).total() / max(1, first.total() + second.total())
"""
_alike_with = partial(altered, _ALIKE)


def _position_by_position(a: str, b: str) -> float:
    first, second = (re.findall(r"\w+", text.lower()) for text in (a, b))
    same = sum(x == y for x, y in zip(first, second, strict=False))
    return 2 * same / max(1, len(first) + len(second))


SHARE_OF_COMMON_WORDS = Exercise(
    name="share_of_common_words",
    notebook="02_template",
    title="How alike are two texts?",
    minutes=6,
    difficulty=1,
    reference=share_of_common_words,
    cases=(
        Case(("good", "good"), "The same text twice has all its words in common."),
        Case(("", ""), "Two empty texts have nothing in common: 0, and no error."),
        Case(("good", "bad"), "No word in common."),
        Case(("a good bag", "good"), "One common word, and four words in both texts together."),
        Case(("A bag", "the BAG"), "Capitals do not matter."),
        Case(("It broke.", "it broke"), "Punctuation does not matter."),
        Case(("bag for the beach", "for the bag"), "The order of the words does not matter."),
        Case(
            ("very very good", "very bad"),
            "The texts have one 'very' in common, but not the second.",
        ),
        Case(("very very good", "very, very bad"), "Both texts have 'very' twice."),
    ),
    mistakes=wrong_answers(
        _alike_with({r're.findall(r"\w+", text.lower())': r'{*re.findall(r"\w+", text.lower())}'}),
        "A set forgets how often a word occurs. Here a word that both texts have twice counts "
        "twice.",
        _alike_with({"2 *": "", "first.total() + second.total()": "(first | second).total()"}),
        "You divide by the words of both texts together, but count the common ones once. "
        "Divide by the words of one text plus those of the other.",
        _alike_with({"2 *": ""}),
        "This is half of what it should be: two equal texts ought to give 1.",
        _alike_with({"2 *": "", " + second.total()": ""}),
        "You divide by the words of one text only, so the result changes when the two texts "
        "are swapped.",
        _alike_with({".lower()": ""}),
        "'Bag' and 'bag' are the same word here. Make all letters lowercase first.",
        _alike_with({r're.findall(r"\w+", text.lower())': "text.lower().split()"}),
        "'broke.' and 'broke' are the same word here. A full stop is not part of a word.",
        _position_by_position,
        "You compare the first word with the first, the second with the second. One word "
        "added at the front would make two equal texts look quite different.",
    ),
    hints=(
        "Count how often each word occurs in either text. A word is common as often as both "
        "texts have it.",
        r"`first = Counter(re.findall(r'\w+', a.lower()))` counts the words of one text.",
        "`first & second` keeps what both have: `2 * (first & second).total() / max(1, "
        "first.total() + second.total())`.",
    ),
    answer=_ALIKE,
)

# ---- A table of your own

_FILES = ("table.csv", "task.yaml")
_FEWEST_ROWS = 4

_RIVERS = """river,note,sea
Rhine,It flows from the Alps to the North Sea.,north
Elbe,It passes Dresden and Hamburg.,north
Rhone,It leaves Lake Geneva for the Mediterranean.,south
Po,It crosses the north of Italy from west to east.,south
"""
_RIVERS_TASK = """name: rivers
table: table.csv
choices: [north, south]
templates:
  - name: plain
    prompt: |-
      {{ river }}: {{ note }}
      Its sea is in the ({{ choices | join(" or ") }}):
    completion: "{{ sea }}"
"""


def _judge_own_table(files: dict[str, str]) -> str | None:
    if not isinstance(files, dict) or {*files} != {*_FILES}:
        return f"own_table must have the two keys {' and '.join(map(repr, _FILES))}."
    for name, text in files.items():
        if not isinstance(text, str):
            return f"{name} must be a string, between three quotation marks on each side."
    with tempfile.TemporaryDirectory() as folder:
        for name, text in files.items():
            (Path(folder) / name).write_text(text, encoding="utf-8")
        try:
            task = load_task(Path(folder) / "task.yaml")
            # Checked before anything is read: the name could lead to another file, or to the hub.
            if task.table != "table.csv":
                return f"the task file names the table {task.table!r}; yours is called table.csv."
            rows = task.load_table()
            answered = task.drop_empty(rows)
            examples = list(task.render(answered)) if len(answered) else []
        except CourseError as error:
            return re.sub(r"\S*[/\\\\](table\.csv|task\.yaml)", r"\1", str(error))
    return _wrong_with_examples(examples, task.choices)


def _wrong_with_examples(examples: list[dict[str, Any]], choices: tuple[str, ...]) -> str | None:
    if len(examples) < _FEWEST_ROWS:
        return (
            f"the table gives {len(examples)} examples, but {_FEWEST_ROWS} are needed. Exact "
            "copies of a row and rows without an answer do not count."
        )
    answers = [example["answer"] for example in examples]
    if len({*answers}) == 1:
        return (
            f"every row has the answer {answers[0]!r}. From that, a model learns to say it every "
            "time."
        )
    if unused := [choice for choice in choices if choice not in answers]:
        return f"no row has the answer {unused[0]!r}, although choices names it."
    prompts = Counter(example["prompt"] for example in examples)
    prompt, times = prompts.most_common(1)[0]
    if times > 1:
        return (
            f"{times} rows have the same prompt: {prompt[:60]!r}. A model cannot tell them apart. "
            "Show a column in which they differ."
        )
    return None


def _rivers(table: str = _RIVERS, task: str = _RIVERS_TASK) -> dict[str, str]:
    return {"table.csv": table, "task.yaml": task}


OWN_TABLE = Exercise(
    name="own_table",
    notebook="02_template",
    title="A table of your own",
    minutes=10,
    difficulty=2,
    judge=_judge_own_table,
    mistakes=wrong_answers(
        _rivers(task=_RIVERS_TASK.replace("note", "text")),
        "A name in double braces has to be a column, as the first line of the table spells it.",
        _rivers(task=_RIVERS_TASK.replace("note", "sea")),
        "With the answer in the prompt, a model need not know anything about rivers.",
        _rivers(_RIVERS.replace("north\n", "North\n")),
        "An answer has to be spelled like its choice, capitals included.",
        _rivers("\n".join(_RIVERS.splitlines()[:3]) + "\n"),
        "Two rows are enough to show the form, but not enough to show both answers.",
        _rivers(_RIVERS.replace("south\n", "north\n")),
        "If all answers are the same, the prompt does not matter.",
        _rivers(task=_RIVERS_TASK.replace("table.csv", "rivers.csv")),
        "The key table names the file that holds the rows.",
    ),
    hints=(
        "Copy the two texts of the plants, and change one thing at a time: first the rows, then "
        "the names of the columns in the task file.",
        "In the prompt, write the names of your columns in double braces, as in `{{ plant }}: {{ "
        'care }}`. Put a cell that holds a comma in quotation marks: `Aloe,"Sunny, and '
        'dry.",easy`.',
    ),
    answer=f'''
own_table = {{
    "table.csv": """{_RIVERS}""",
    "task.yaml": """{_RIVERS_TASK}""",
}}
''',
)
