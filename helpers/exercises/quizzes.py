"""Three questions to each notebook, answered with buttons or from a cell."""

import textwrap
from dataclasses import dataclass
from functools import partial
from html import escape

import ipywidgets
import yaml
from IPython.display import display

from helpers.errors import CourseError, format_names
from helpers.exercises import record
from helpers.exercises.verdict import WIDTH
from helpers.profiles import ROOT

QUIZZES = ROOT / "data" / "quizzes"
LETTERS = "abcdef"


@dataclass(frozen=True)
class Choice:
    """A possible answer, and why it is right or wrong."""

    text: str
    right: bool
    why: str


@dataclass(frozen=True)
class Question:
    """A question and its choices, exactly one of them right."""

    text: str
    choices: tuple[Choice, ...]


def names() -> list[str]:
    """The notebooks that have a quiz."""
    return sorted(path.stem for path in QUIZZES.glob("*.yaml"))


def load_quiz(notebook: str) -> list[Question]:
    """The questions to a notebook, from data/quizzes/<notebook>.yaml.

    Raises CourseError: no such quiz.
    """
    if notebook not in names():
        there = format_names(names()) or "none"
        raise CourseError(f"There is no quiz {notebook!r}. The quizzes are: {there}.")
    content = yaml.safe_load((QUIZZES / f"{notebook}.yaml").read_text(encoding="utf-8"))
    return [
        Question(
            item["question"].strip(),
            tuple(
                Choice(one["text"].strip(), one.get("right", False), one["why"].strip())
                for one in item["choices"]
            ),
        )
        for item in content
    ]


def as_text(questions: list[Question]) -> str:
    """The questions with letters before the choices, in short lines."""
    blocks = []
    for number, question in enumerate(questions, start=1):
        lines = [_wrapped(f"{number}. ", question.text)]
        lines += [
            _wrapped(f"   {letter}) ", choice.text)
            for letter, choice in zip(LETTERS, question.choices, strict=False)
        ]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def _wrapped(start: str, text: str) -> str:
    return textwrap.fill(text, WIDTH, initial_indent=start, subsequent_indent=" " * len(start))


def reply(notebook: str, number: int, letter: str) -> str:
    """What to say to an answer: right or wrong, and why. The answer is counted in the progress.

    Raises CourseError: no such question or letter.
    """
    questions = load_quiz(notebook)
    if not isinstance(number, int) or not 1 <= number <= len(questions):
        raise CourseError(
            f"There is no question {number!r} in the quiz {notebook}: it has {len(questions)}."
        )
    choices = questions[number - 1].choices
    letters = LETTERS[: len(choices)]
    if not isinstance(letter, str) or len(letter) != 1 or letter.lower() not in letters:
        raise CourseError(
            f"Question {number} has no answer {letter!r}. Choose one of: {', '.join(letters)}."
        )
    choice = choices[letters.index(letter.lower())]
    record.note(keys(notebook)[number - 1], choice.right)
    return f"{'right' if choice.right else 'wrong'}: {choice.why}"


def keys(notebook: str) -> list[str]:
    """Under which the record keeps the questions, in their order."""
    return [f"{notebook} question {number + 1}" for number in range(len(load_quiz(notebook)))]


class QuizButtons(ipywidgets.VBox):
    """A row of buttons for each question, and below it whether the answer is right, and why.

    Buttons take Tab, Enter and Space. From code: `buttons[question][choice].click()`; then
    `replies[question].value` is the explanation, as HTML. Both count from 0.
    """

    def __init__(self, notebook: str) -> None:
        self.buttons: list[list[ipywidgets.Button]] = []
        self.replies: list[ipywidgets.HTML] = []
        rows = []
        for number, question in enumerate(load_quiz(notebook), start=1):
            self.replies.append(ipywidgets.HTML())
            self.buttons.append([])
            for letter, choice in zip(LETTERS, question.choices, strict=False):
                button = ipywidgets.Button(
                    description=letter,
                    tooltip=f"Question {number}, {letter}: {choice.text}",
                    layout=ipywidgets.Layout(width="4em"),
                )
                button.on_click(partial(self._answer, notebook, number, letter))
                self.buttons[-1].append(button)
            name = ipywidgets.HTML(f"Question {number}:")
            rows += [ipywidgets.HBox([name, *self.buttons[-1]]), self.replies[-1]]
        super().__init__(rows)

    def __repr__(self) -> str:
        """What stands in place of the widget where no kernel runs."""
        return "Buttons for the answers. They need a running notebook."

    def _answer(self, notebook: str, number: int, letter: str, _: ipywidgets.Button) -> None:
        words = reply(notebook, number, letter)
        self.replies[number - 1].value = escape(f"{letter} is {words}")


def quiz(notebook: str) -> None:
    """Show the questions to a notebook: as text, and below it buttons to answer them."""
    print(as_text(load_quiz(notebook)))
    display(QuizButtons(notebook))


def answer(notebook: str, number: int, letter: str) -> None:
    """Answer question `number` (from 1) with a letter, and read why that is right or wrong."""
    print(textwrap.fill(reply(notebook, number, letter), WIDTH))
