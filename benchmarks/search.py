"""The search behind the course's default settings, on all rows of a task's training set.

    python -m benchmarks.search                 # the task and the profile in force

Notebook 05 searches on few rows, so that it can be done in a lesson. Here each run is of full size:
three learning rates with two epochs, then one epoch at the best of them, each with three seeds.
What is chosen by is the mean validation loss after the last step. Then the best setting is tried
with two other forms of the prompt: another wording of the task, and its own wording as a chat. All
runs also tell what the mean of the weights of their last quarter of steps would have scored.

Each run's result is kept in the runs folder, so a search that was interrupted goes on. Those of the
rates and epochs for the task `opinion` in the profile `laptop` also go into data/example_run.json,
and notebook 05 shows them; docs/what_we_tried.md has the others.
"""

import json
import shutil
import time
from functools import partial
from statistics import fmean

import torch
from transformers import PreTrainedModel

from helpers.data import Task, collate, load_examples, load_task, tokenize
from helpers.files import write_whole
from helpers.inference import predict_answers
from helpers.model import load_model
from helpers.profiles import ROOT, profile, runs_folder
from helpers.results import cached
from helpers.training import History, TrainSettings, evaluate_loss, train

RATES, SEEDS, WORDINGS = (5e-5, 1e-4, 2e-4), range(3), ("plain", "chat")


class MeanOfLast:
    """The mean of a model's weights over the last quarter of a run's steps. Watches the run."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model, self.count, self.weights = model, 0, []

    def __call__(self, history: History) -> None:
        step, first = len(history.steps), history.total_steps * 3 // 4
        if step != first + self.count + 1:  # too early, or called for an evaluation
            return
        now = [parameter.detach().clone() for parameter in self.model.parameters()]
        self.count += 1
        self.weights = self.weights or now
        for mean, weight in zip(self.weights, now, strict=True):
            mean.lerp_(weight, 1 / self.count)


def tried(
    task: Task, wording: str, rate: float, epochs: int, seed: int, averaged: bool = False
) -> dict:
    """Loss and accuracy after the last step of one run, and its seconds, evaluations included.

    wording: a template of the task, or "chat": its own one as a chat. averaged: also loss and
    accuracy of the mean of the last weights.
    """
    settings = TrainSettings(learning_rate=rate, epochs=epochs, seed=seed, evaluations=1)
    name = f"{task.name}/search_{rate:.0e}_{epochs}_{seed}" + f"_{wording}" * averaged
    chat, examples = wording == "chat", load_examples(task)
    examples = examples if chat else task.render(examples, wording)

    def trained() -> dict:
        model, tokenizer = load_model()
        sets, rows = tokenize(examples, tokenizer, model.config, chat), examples["validation"]
        pad = partial(collate, pad_token_id=tokenizer.pad_token_id)

        def score(model: PreTrainedModel) -> float:
            answers = predict_answers(model, tokenizer, rows, chat=chat)
            return fmean(said == right for said, right in zip(answers, rows["answer"], strict=True))

        mean = MeanOfLast(model) if averaged else None
        folder, begin = runs_folder() / name, time.time()
        shutil.rmtree(folder, ignore_errors=True)
        sees = score if task.choices else None, mean
        parts = model, sets["train"], sets["validation"], settings, pad, folder, *sees
        last = train(*parts).evaluations[-1]
        shutil.rmtree(folder, ignore_errors=True)
        found = {"loss": last.loss, "accuracy": last.accuracy, "seconds": time.time() - begin}
        if averaged:
            with torch.no_grad():
                for parameter, of_last in zip(model.parameters(), mean.weights, strict=True):
                    parameter.copy_(of_last)
            loss = evaluate_loss(model, sets["validation"], pad, precision=settings.precision)
            found["averaged"] = {"loss": loss, "accuracy": score(model) if task.choices else None}
        return found

    key = [profile().model, examples["train"], examples["validation"], settings]
    return cached(name, [*key, chat] if averaged else key, trained)


def main() -> None:
    task = load_task()
    n, m = (len(part) for part in load_examples(task).values())
    print(f"{task.name}, profile {profile().name}: {n} training rows, {m} validation rows")
    found = []

    def of_seeds(rate: float, epochs: int) -> None:
        runs = [tried(task, task.wording.name, rate, epochs, seed) for seed in SEEDS]
        found.append({"rate": rate, "epochs": epochs, "runs": runs})
        print(f"rate {rate:.0e}, epochs {epochs}: {in_words(runs)}")

    for rate in RATES:
        of_seeds(rate, 2)
    of_seeds(min(found, key=mean_loss)["rate"], 1)
    best = min(found, key=mean_loss)
    print(f"Best: rate {best['rate']:.0e}, epochs {best['epochs']}.")
    if (task.name, profile().name) == ("opinion", "laptop"):
        path = ROOT / "data" / "example_run.json"
        kept = json.loads(path.read_text(encoding="utf-8"))
        kept["search"] = {"profile": profile().name, "rows": n, "found": found}
        write_whole(path, json.dumps(kept, indent=1) + "\n")
    for wording in (task.wording.name, *WORDINGS):
        setting = task, wording, best["rate"], best["epochs"]
        runs = [tried(*setting, seed, averaged=True) for seed in SEEDS]
        print(f"{wording}: {in_words(runs)}")
        print(f"{wording}, mean of the last weights: {in_words([one['averaged'] for one in runs])}")


def in_words(runs: list[dict]) -> str:
    """The mean loss of these runs, and the loss (and accuracy) of each."""
    each = [f"{one['loss']:.3f}" for one in runs]
    if runs[0]["accuracy"] is not None:
        each = [f"{loss} ({one['accuracy']:.2f})" for loss, one in zip(each, runs, strict=True)]
    return f"mean loss {fmean(one['loss'] for one in runs):.3f}; of each seed: {', '.join(each)}"


def mean_loss(setting: dict) -> float:
    return fmean(one["loss"] for one in setting["runs"])


if __name__ == "__main__":
    main()
