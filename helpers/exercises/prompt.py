"""The exercises of notebook 01: a better prompt, filling the window, subtracting label bias."""

from functools import partial
from types import SimpleNamespace

import torch

from helpers.data.templates import Template
from helpers.evaluation.prompt_search import calibrate
from helpers.exercises.exercise import Case, Exercise, altered, wrong_answers
from helpers.exercises.template import wrong_prompt
from helpers.inference.few_shot import fit_shots, prompt_budget, shots_prefix

# ---- A better prompt

_CHOICES = ("terrible", "poor", "okay", "good", "excellent")


def _judge_prompt(source: str) -> str | None:
    completion = "{{ choices[star_rating - 1] }}"
    return wrong_prompt(Template("better_prompt", source, completion, _CHOICES))


BETTER_PROMPT = Exercise(
    name="better_prompt",
    notebook="01_prompt",
    title="Write a better prompt",
    minutes=10,
    difficulty=2,
    judge=_judge_prompt,
    answer='''better_prompt = """What does this customer think of the product?

{{ review_headline }}
{{ review_body }}

Answer with one word ({{ choices | join(", ") }}):"""
''',
    mistakes=wrong_answers(
        "{{ review_headline }}\nOne word ({{ choices | join(', ') }}):",
        "The headline is not the review, and some rows have none. Put in {{ review_body }}.",
        "{{ review_body }}\nWhat does the customer think? One word:",
        "The model cannot know which words are allowed. Name them: {{ choices | join(', ') }}.",
        "{{ review_body }} ({{ star_rating }} stars)\nOne word ({{ choices | join(', ') }}):",
        "The stars decide the answer: a model could copy it, and so could a reader. Leave "
        "them out.",
        "{{ review_body }}\nOne word ({{ choices | join(', ') }}): ",
        "The prompt ends in a space. The space belongs to the answer's token: let the prompt "
        "end before it.",
    ),
    hints=(
        "Say what you want, show the review, name the allowed words, and end with a colon.",
        "Start from the templates printed above, and change the words of the instruction. Then "
        'comes `Choose from: {{ choices | join(", ") }}.`, then the review, `{{ review_body }}`, '
        "and at the end `Answer:`.",
    ),
)


# ---- As many shots as fit


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


_FIT_ANSWER = """
from helpers.inference import prompt_budget, shots_prefix


def fit_shots(shots, example, tokenizer, window, answer_tokens):
    for start in range(len(shots) + 1):
        prefix = shots_prefix(shots[start:])
        if prompt_budget(prefix, example["prompt"], tokenizer, window, answer_tokens).fits:
            return shots[start:]
"""
_fit_with = partial(altered, _FIT_ANSWER)


def _answers_not_counted(shots, example, tokenizer, window, answer_tokens):
    for start in range(len(shots) + 1):
        prompts = " ".join(row["prompt"] for row in [*shots[start:], example])
        if len(tokenizer(prompts).input_ids) + answer_tokens <= window:
            return shots[start:]
    return []


def _skip_long(shots, example, tokenizer, window, answer_tokens):
    kept = []
    for shot in reversed(shots):
        prefix = shots_prefix([shot, *kept])
        if prompt_budget(prefix, example["prompt"], tokenizer, window, answer_tokens).fits:
            kept = [shot, *kept]
    return kept


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
    cases=_fit_cases(),
    mistakes=wrong_answers(
        _fit_with({"shots[start:]": "shots[: len(shots) - start]"}),
        "The number is right if all shots are equally long, but you keep the first ones. Drop "
        "shots from the front: the last ones are next to the question.",
        _fit_with({"window, answer_tokens).fits": "window + answer_tokens, answer_tokens).fits"}),
        "Shots and question fit, but the answer has no room left. The window holds what "
        "the model reads and what it writes.",
        _fit_with({'example["prompt"]': '""'}),
        "Shots and answer fit, but the question has to go into the window as well.",
        _answers_not_counted,
        "A shot appears in the prompt with its answer. You count only the shots' prompts.",
        _fit_with({"window, answer_tokens).fits": "window - 1, answer_tokens).fits"}),
        "You leave one token of the window unused. A prompt that fills it to the last token fits.",
        _skip_long,
        "You leave out a long shot and go on with those before it. The shots that you keep "
        "should be the last ones, without a gap.",
        lambda *given: len(fit_shots(*given)),
        "That is how many shots fit. Return the shots themselves, in their order.",
    ),
    hints=(
        "Try all of them first, then without the first one, then without the first two …",
        "`shots[start:]` are the last shots: `for start in range(len(shots) + 1):`. At the end, "
        "no shot is left.",
        "Return them as soon as there is room: `prompt_budget(shots_prefix(shots[start:]), "
        'example["prompt"], tokenizer, window, answer_tokens).fits`.',
    ),
    answer=_FIT_ANSWER,
)


# ---- Calibration


def _of_probabilities(scores: torch.Tensor) -> torch.Tensor:
    shares = scores.softmax(1)
    return shares - shares.mean(0)


CALIBRATE = Exercise(
    name="calibrate",
    notebook="01_prompt",
    title="Subtract the label bias",
    minutes=5,
    difficulty=1,
    reference=calibrate,
    cases=(
        Case((torch.tensor([[-3.0, -1.0]]),), "One prompt: its own scores are the means."),
        Case((torch.tensor([[-3.0, -1.0], [-5.0, -1.0]]),), "The second word always gets -1."),
        Case(
            (torch.tensor([[-2.0, -4.0, -9.0], [-3.0, -4.0, -5.0]]),), "Two prompts, three words."
        ),
        Case(
            (-8 * torch.rand(7, 5, generator=torch.Generator().manual_seed(0)),),
            "Seven prompts and five words.",
        ),
    ),
    mistakes=wrong_answers(
        lambda scores: scores - scores.mean(1, keepdim=True),
        "You subtract each prompt's mean, the same number from all its words. So the largest "
        "stays the largest, and the bias stays as it was.",
        lambda scores: scores - scores.mean(),
        "You subtract the same number everywhere, which changes no answer. Each word has a "
        "mean of its own.",
        lambda scores: scores.mean(0),
        "These are the means to subtract. What remains when you subtract them?",
        lambda scores: scores + scores.mean(0),
        "You add the means, so the bias becomes twice as large.",
        lambda scores: scores / scores.mean(0),
        "You divide by the means. Subtract log-probabilities: that divides the probabilities "
        "behind them.",
        _of_probabilities,
        "You work with probabilities. Keep the log-probabilities as they are given: otherwise "
        "a rare word would hardly count.",
    ),
    hints=(
        "Each column belongs to one word, each row to one prompt.",
        "The mean over the prompts has one number for each word: `scores.mean(0)`.",
        "PyTorch subtracts one row from every row of a matrix: `return scores - scores.mean(0)`.",
    ),
    answer="""
def calibrate(scores):
    \"\"\"Log-probabilities (prompts, choices) without the label bias.\"\"\"
    return scores - scores.mean(0)
""",
)
