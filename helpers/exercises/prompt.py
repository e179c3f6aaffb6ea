"""The exercises of notebook 01: reading an answer, filling the window, taking off label bias."""

import re
from collections.abc import Sequence
from types import SimpleNamespace

import torch

from helpers.evaluation.metrics import read_answer
from helpers.evaluation.prompt_search import calibrate
from helpers.exercises.exercise import Case, Exercise, Mistake
from helpers.inference.few_shot import fit_shots, prompt_budget, shots_prefix

# ---------------------------------------------------------------------------------------------
# Reading a free answer
# ---------------------------------------------------------------------------------------------


def _anywhere(text: str, choices: Sequence[str]) -> str | None:
    return next((choice for choice in choices if choice in text.lower()), None)


def _whole_word_anywhere(text: str, choices: Sequence[str]) -> str | None:
    found = [choice for choice in choices if re.search(rf"\b{choice}\b", text.lower())]
    return max(found, key=len, default=None)


def _letter_by_letter(text: str, choices: Sequence[str]) -> str | None:
    return text if text in choices else None


def _whole_answer(text: str, choices: Sequence[str]) -> str | None:
    said = " ".join(re.findall(r"\w+", text.lower()))
    return said if said in choices else None


def _first_letters(text: str, choices: Sequence[str]) -> str | None:
    return next((choice for choice in choices if text.lower().startswith(choice)), None)


def _first_word(text: str, choices: Sequence[str]) -> str | None:
    words = re.findall(r"\w+", text.lower())
    return words[0] if words and words[0] in choices else None


def _first_that_fits(text: str, choices: Sequence[str]) -> str | None:
    words = re.findall(r"\w+", text.lower())
    fits = [choice for choice in choices if words[: len(choice.split())] == choice.split()]
    return fits[0] if fits else None


def _answer_cases() -> list[Case]:
    words = ("poor", "okay", "good")
    rooms = ("home", "kitchen", "home garden")
    return [
        Case(("good", words), "The answer is one of the choices, as it stands."),
        Case(("", words), "The model said nothing, so it gave none of the answers."),
        Case((" Good.", words), "Spaces, capitals and punctuation do not matter."),
        Case(("good value, I would say", words), "What comes after the first words is left aside."),
        Case(("It is good", words), "The answer does not begin with a choice."),
        Case(("not good", words), "A choice further on may mean the opposite."),
        Case(("goodness me", words), "The first word is another word than the choice."),
        Case(("**Poor**\nIt broke.", words), "Stars and line ends are no letters either."),
        Case(("Kitchen, good and proper", rooms), "The first words are a choice."),
        Case(("Very good, thanks", (*words, "very good")), "A choice may have several words."),
        Case(("Home garden!", rooms), "Two choices fit; the longer one says more."),
        Case(("home, garden and kitchen", rooms), "Word by word, this begins with two words."),
    ]


READ_ANSWER = Exercise(
    name="read_answer",
    notebook="01_prompt",
    title="Read what the model said",
    minutes=8,
    difficulty=2,
    reference=read_answer,
    cases=_answer_cases,
    mistakes=(
        Mistake(
            _anywhere,
            "You look for the choice anywhere in the text, so that 'not good' and 'goodness' "
            "count as good. Look at the beginning, and compare words.",
        ),
        Mistake(
            _whole_word_anywhere,
            "You compare whole words, which is right, but anywhere in the text: 'not good' "
            "counts as good.",
        ),
        Mistake(
            _letter_by_letter,
            "You compare letter by letter. A capital or a full stop is enough to lose a right "
            "answer.",
        ),
        Mistake(
            _whole_answer,
            "You forgive capitals and punctuation. But the answer has to be the choice and "
            "nothing else, and a model often goes on talking.",
        ),
        Mistake(
            _first_letters,
            "You look at the beginning, which is right, but at its letters: 'goodness' begins "
            "like 'good', and a sign before the first letter hides it. Compare words.",
        ),
        Mistake(
            _first_word,
            "Right for choices of one word. Other tasks have longer ones, such as 'home garden'.",
        ),
        Mistake(
            _first_that_fits,
            "Nearly. When two choices fit, you take the one that stands first in the list. "
            "The longer one says more.",
        ),
    ),
    hints=(
        "Make lists of words: re.findall(r'\\w+', text.lower()) does it, for the answer and "
        "for each choice.",
        "A choice fits when its words are the first words of the answer, as many as it has.",
        "Of the choices that fit, take the one with most words; return None when none fits.",
    ),
)


# ---------------------------------------------------------------------------------------------
# As many shots as fit
# ---------------------------------------------------------------------------------------------


class _Words:
    """A tokenizer that makes one token of each word."""

    all_special_ids, unk_token_id = (), None

    def __call__(self, text: str | list[str], **_: object) -> SimpleNamespace:
        def ids(one: str) -> list[int]:
            return [len(word) for word in one.split()]

        found = ids(text) if isinstance(text, str) else [ids(one) for one in text]
        return SimpleNamespace(input_ids=found)

    def __repr__(self) -> str:
        return "<a tokenizer: a token is a word>"


class _SizedExample(dict):
    """An example that is shown in a message by its size, since its text is of no interest."""

    def __repr__(self) -> str:
        return f"<{self['row_id']}>"


def _fits(shots, example, tokenizer, window, answer_tokens):
    prefix = shots_prefix(shots)
    return prompt_budget(prefix, example["prompt"], tokenizer, window, answer_tokens).fits


def _keep_first(shots, example, tokenizer, window, answer_tokens):
    for end in range(len(shots), -1, -1):
        kept = list(shots[:end])
        if _fits(kept, example, tokenizer, window, answer_tokens):
            return kept


def _kept_if(fits, shots):
    return next(list(shots[start:]) for start in range(len(shots) + 1) if fits(shots[start:]))


def _no_room_for_answer(shots, example, tokenizer, window, answer_tokens):
    def fits(kept):
        return len(tokenizer(shots_prefix(kept) + example["prompt"]).input_ids) <= window

    return _kept_if(fits, shots)


def _no_room_for_question(shots, example, tokenizer, window, answer_tokens):
    def fits(kept):
        return len(tokenizer(shots_prefix(kept)).input_ids) + answer_tokens <= window

    return _kept_if(fits, shots)


def _answers_not_counted(shots, example, tokenizer, window, answer_tokens):
    def fits(kept):
        prompts = " ".join(shot["prompt"] for shot in [*kept, example])
        return len(tokenizer(prompts).input_ids) + answer_tokens <= window

    return _kept_if(fits, shots)


def _one_token_free(shots, example, tokenizer, window, answer_tokens):
    return fit_shots(shots, example, tokenizer, window - 1, answer_tokens)


def _skip_long(shots, example, tokenizer, window, answer_tokens):
    kept = []
    for shot in reversed(shots):
        longer = [shot, *kept]
        if _fits(longer, example, tokenizer, window, answer_tokens):
            kept = longer
    return kept


def _only_the_number(shots, example, tokenizer, window, answer_tokens):
    return len(fit_shots(shots, example, tokenizer, window, answer_tokens))


def _fit_cases() -> list[Case]:
    def example(name: str, prompt_tokens: int) -> dict:
        prompt = "very " * (prompt_tokens - 1) + "nice:"
        return _SizedExample(prompt=prompt, completion=" good", answer="good", row_id=name)

    def case(sizes: list[int], question: int, window: int, answer: int, hint: str) -> Case:
        # One token of a shot is its answer. The question has none yet.
        shots = [
            example(f"shot {number} of {size} tokens", size - 1)
            for number, size in enumerate(sizes, start=1)
        ]
        asked = example(f"question of {question} tokens", question)
        return Case((shots, asked, _Words(), window, answer), hint)

    return [
        case([], 3, 10, 1, "There are no shots to keep."),
        case([4], 3, 20, 1, "There is room for everything."),
        case([4], 3, 8, 1, "The shot has 4 tokens, the question 3, the answer 1: 8 fit into 8."),
        case([4], 3, 7, 1, "The shot has 4 tokens, the question 3, the answer 1: 8 are too many."),
        case([4, 4], 3, 12, 4, "The answer may have 4 tokens. They need room, too."),
        case([4, 4], 8, 14, 1, "The question has 8 tokens."),
        case([4, 4, 4], 3, 12, 1, "Two shots fit: which two?"),
        case([2, 9, 2], 3, 9, 1, "The one in the middle has 9 tokens."),
        case([2, 9], 3, 9, 1, "The last shot alone is too long."),
    ]


FIT_SHOTS = Exercise(
    name="fit_shots",
    notebook="01_prompt",
    title="As many shots as fit",
    minutes=10,
    difficulty=2,
    reference=fit_shots,
    cases=_fit_cases,
    mistakes=(
        Mistake(
            _keep_first,
            "The right number of shots for shots of one length, but you keep the first ones. "
            "Drop from the front: the last shots stand next to the question.",
        ),
        Mistake(
            _no_room_for_answer,
            "Shots and question fit, but the answer has no room left. The window holds what "
            "the model reads and what it writes.",
        ),
        Mistake(
            _no_room_for_question,
            "Shots and answer fit, but the question has to go into the window as well.",
        ),
        Mistake(
            _answers_not_counted,
            "A shot stands in the prompt with its answer. You have counted the shots' prompts "
            "alone.",
        ),
        Mistake(
            _one_token_free,
            "You leave one token of the window unused. A prompt that fills it to the last "
            "token fits.",
        ),
        Mistake(
            _skip_long,
            "You leave out a long shot and go on with those before it. Here the shots that "
            "are kept should be the last ones, without a gap.",
        ),
        Mistake(
            _only_the_number,
            "That is how many shots fit. Return the shots themselves, in their order.",
        ),
    ),
    hints=(
        "Try all of them first, then without the first one, then without the first two …",
        "prompt_budget(shots_prefix(kept), example['prompt'], tokenizer, window, answer_tokens) "
        "counts for you, and its .fits says whether there is room.",
        "shots[start:] are the last shots, for start from 0 to len(shots), that number "
        "included: then none is left.",
    ),
)


# ---------------------------------------------------------------------------------------------
# Calibration
# ---------------------------------------------------------------------------------------------


def _mean_of_prompt(scores: torch.Tensor) -> torch.Tensor:
    return scores - scores.mean(1, keepdim=True)


def _mean_of_all(scores: torch.Tensor) -> torch.Tensor:
    return scores - scores.mean()


def _only_offsets(scores: torch.Tensor) -> torch.Tensor:
    return scores.mean(0)


def _added(scores: torch.Tensor) -> torch.Tensor:
    return scores + scores.mean(0)


def _divided(scores: torch.Tensor) -> torch.Tensor:
    return scores / scores.mean(0)


def _of_probabilities(scores: torch.Tensor) -> torch.Tensor:
    shares = scores.softmax(1)
    return shares - shares.mean(0)


def _calibration_cases() -> list[Case]:
    drawn = torch.rand(7, 5, generator=torch.Generator().manual_seed(0)) * -8
    return [
        Case((torch.tensor([[-3.0, -1.0]]),), "One prompt: its own scores are the means."),
        Case((torch.tensor([[-3.0, -1.0], [-5.0, -1.0]]),), "The second word always gets -1."),
        Case(
            (torch.tensor([[-2.0, -4.0, -9.0], [-3.0, -4.0, -5.0]]),), "Two prompts, three words."
        ),
        Case((drawn,), "Seven prompts and five words."),
    ]


CALIBRATE = Exercise(
    name="calibrate",
    notebook="01_prompt",
    title="Take off the label bias",
    minutes=5,
    difficulty=1,
    reference=calibrate,
    cases=_calibration_cases,
    mistakes=(
        Mistake(
            _mean_of_prompt,
            "You take off the mean of each prompt, the same from all its words. So the "
            "largest stays the largest, and the bias stays what it was.",
        ),
        Mistake(
            _mean_of_all,
            "You take the same number off everywhere, which changes no answer. Each word has "
            "a mean of its own.",
        ),
        Mistake(
            _only_offsets,
            "These are the means that should be taken off. What remains when they are?",
        ),
        Mistake(
            _added,
            "You add the means, so the bias becomes twice as large.",
        ),
        Mistake(
            _divided,
            "You divide by the means. Log-probabilities are subtracted: that divides the "
            "probabilities behind them.",
        ),
        Mistake(
            _of_probabilities,
            "You work on probabilities. Stay with the log-probabilities as they are given: a "
            "rare word would hardly count otherwise.",
        ),
    ),
    hints=(
        "Each column belongs to one word, each row to one prompt.",
        "The mean over the prompts has one number for each word: scores.mean(0).",
        "PyTorch takes one row off every row of a matrix when you write matrix - row.",
    ),
    answer="""
def calibrate(scores):
    \"\"\"Log-probabilities (prompts, choices) without the label bias.\"\"\"
    return scores - scores.mean(0)
""",
)
