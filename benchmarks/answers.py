"""The course's way to ask the model beside a plain one, row by row.

    make bench

Plain constrained: for each row and each choice, prompt and choice go through the model, which
scores the whole vocabulary at each token. Plain free: `model.generate` for each row.

In each turn ours answers all rows. The plain way answers a few of them, spread evenly over the
lengths, and others in each turn. Speed is in rows per second.
"""

import statistics
import time
from collections.abc import Callable

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from helpers.data import load_task
from helpers.inference import (
    draw_shots,
    few_shot_prompt,
    generate_answers,
    pick_choices,
    score_choices,
)
from helpers.model import load_model

ROWS, PLAIN_ROWS, REPEATS, NEW_TOKENS = 64, 4, 5, 8


@torch.no_grad()
def plain_choice(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt: str, choices: tuple
) -> str:
    """The likeliest choice: each goes through the model after the prompt."""
    before = tokenizer(prompt, add_special_tokens=False).input_ids
    totals = []
    for choice in choices:
        ids = before + tokenizer(f" {choice}", add_special_tokens=False).input_ids
        scores = model(torch.tensor([ids], device=model.device)).logits[0].log_softmax(-1)
        totals.append(sum(scores[i - 1, ids[i]].item() for i in range(len(before), len(ids))))
    return choices[totals.index(max(totals))]


def plain_answer(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt: str) -> str:
    """The first line of what `generate` says."""
    inputs = tokenizer(prompt, return_tensors="pt", add_special_tokens=False).to(model.device)
    ids = model.generate(
        **inputs,
        max_new_tokens=NEW_TOKENS,
        do_sample=False,
        pad_token_id=tokenizer.pad_token_id,
    )
    said = tokenizer.decode(ids[0, inputs.input_ids.shape[1] :], skip_special_tokens=True)
    return (said.strip().splitlines() or [""])[0].strip()


def prompts(shots: int) -> tuple[list[str], tuple[str, ...]]:
    """Validation rows of the course task as prompts, short ones first, and the choices."""
    task = load_task("opinion")
    examples = task.render(task.split(task.load_table()))
    shown = draw_shots(examples["train"], shots, seed=0)
    asked = [few_shot_prompt(shown, row)["prompt"] for row in examples["validation"].take(ROWS)]
    return sorted(asked, key=len), task.choices


def timed(answer: Callable[[], list[str]]) -> tuple[list[str], float]:
    """The answers, and how many came in a second."""
    begin = time.perf_counter()
    answers = answer()
    return answers, len(answers) / (time.perf_counter() - begin)


def compare(ours: Callable, plain: Callable, asked: list[str]) -> tuple[list, list, int]:
    """Rows per second of ours and of the plain way in each turn; how many answers are the same."""
    fast, slow, same = [], [], 0
    for turn in range(REPEATS):
        answers, speed = timed(lambda: ours(asked))
        fast.append(speed)
        some = range(3 * turn, ROWS, ROWS // PLAIN_ROWS)
        plain_answers, speed = timed(lambda some=some: [plain(asked[row]) for row in some])
        slow.append(speed)
        same += sum(answers[row] == one for row, one in zip(some, plain_answers, strict=True))
    return fast, slow, same


def main() -> None:
    """Compare them with and without shots; print medians and ranges."""
    model, tokenizer = load_model()
    print(
        f"Answering: {ROWS} rows, free answers of up to {NEW_TOKENS} tokens, medians of {REPEATS} "
        f"turns (lowest to highest), {torch.get_num_threads()} threads.\n\n"
        f"{'rows/s':20}{'ours':>24}{'row by row':>24}{'ratio':>24}{'same answers':>14}"
    )
    for shots in (0, 4):
        asked, choices = prompts(shots)

        def constrained(some: list[str], choices=choices) -> list[str]:
            return pick_choices(score_choices(model, tokenizer, some, choices), choices)

        def free(some: list[str]) -> list[str]:
            return generate_answers(model, tokenizer, some, NEW_TOKENS)

        ways = {
            "constrained": (constrained, lambda p, c=choices: plain_choice(model, tokenizer, p, c)),
            "free": (free, lambda p: plain_answer(model, tokenizer, p)),
        }
        for name, (ours, plain) in ways.items():
            fast, slow, same = compare(ours, plain, asked)
            ratios = [a / b for a, b in zip(fast, slow, strict=True)]
            columns = "".join(f"{_spread(values):>24}" for values in (fast, slow, ratios))
            print(
                f"{f'{name}, {shots} shots':20}{columns} {same:8} of {REPEATS * PLAIN_ROWS}",
                flush=True,
            )


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


if __name__ == "__main__":
    main()
