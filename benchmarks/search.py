"""The search behind the course's default settings, on all rows of a task's training set.

    python -m benchmarks.search                 # the task and the profile in force

Notebook 05 searches on few rows, so that it can be done in a lesson. Here each run is of full size:
three learning rates with two epochs, then one epoch at the best of them, each with three seeds.
What is chosen by is the mean validation loss after the last step. Then the best setting is tried
with two other forms of the prompt: another wording of the task, and its own wording as a chat. All
runs also tell what the mean of the weights of their last quarter of steps would have scored.

Each run's result is kept in the runs folder, so a search that was interrupted goes on. Those of the
rates and epochs for the task `opinion` in the profile `laptop` also go into data/example_run.json,
and notebook 05 shows them.
"""

import json
import shutil
import time
from functools import partial
from statistics import fmean

import torch
from datasets import DatasetDict
from transformers import PreTrainedModel

from helpers.data import Task, collate, load_examples, load_task, tokenize
from helpers.evaluation import row_scores
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
    task: Task, examples: DatasetDict, wording: str, rate: float, epochs: int, seed: int
) -> dict:
    """Loss and accuracy after the last step of one run, its seconds with evaluations, and loss and
    accuracy of the mean of its last weights.

    examples: rendered in this wording: a template of the task, or "chat", its own one as a chat.
    """
    settings = TrainSettings(learning_rate=rate, epochs=epochs, seed=seed, evaluations=1)
    name, chat = f"{task.name}/search_{wording}_{rate:.0e}_{epochs}_{seed}", wording == "chat"

    def trained() -> dict:
        model, tokenizer = load_model()
        sets, rows = tokenize(examples, tokenizer, model.config, chat), examples["validation"]
        pad = partial(collate, pad_token_id=tokenizer.pad_token_id)

        def score(model: PreTrainedModel) -> float:
            return fmean(row_scores(task, predict_answers(model, tokenizer, rows, chat=chat), rows))

        folder, mean, begin = runs_folder() / name, MeanOfLast(model), time.time()
        shutil.rmtree(folder, ignore_errors=True)
        sees = score if task.choices else None, mean
        parts = model, sets["train"], sets["validation"], settings, pad, folder, *sees
        last = train(*parts).evaluations[-1]
        shutil.rmtree(folder, ignore_errors=True)
        found = {"loss": last.loss, "accuracy": last.accuracy, "seconds": time.time() - begin}
        with torch.no_grad():
            for parameter, of_last in zip(model.parameters(), mean.weights, strict=True):
                parameter.copy_(of_last)
        loss = evaluate_loss(model, sets["validation"], pad, precision=settings.precision)
        found["averaged"] = {"loss": loss, "accuracy": score(model) if task.choices else None}
        return found

    key = [profile().model, examples["train"], examples["validation"], settings, chat]
    return cached(name, key, trained)


def main() -> None:
    task = load_task()
    examples, own = load_examples(task), task.wording.name
    n, m = map(len, examples.values())
    print(f"{task.name}, profile {profile().name}: {n} training rows, {m} validation rows")

    def of_seeds(wording: str, rate: float, epochs: int) -> dict:
        asked = examples if wording == "chat" else task.render(examples, wording)
        runs = [tried(task, asked, wording, rate, epochs, seed) for seed in SEEDS]
        print(f"{wording}, rate {rate:.0e}, epochs {epochs}: {in_words(runs)}")
        print(f"  mean of the last weights: {in_words([one['averaged'] for one in runs])}")
        return {"rate": rate, "epochs": epochs, "runs": runs}

    found = [of_seeds(own, rate, 2) for rate in RATES]
    found.append(of_seeds(own, min(found, key=mean_loss)["rate"], 1))
    best = min(found, key=mean_loss)
    print(f"Best: rate {best['rate']:.0e}, epochs {best['epochs']}.")
    if (task.name, profile().name) == ("opinion", "laptop"):
        path = ROOT / "data" / "example_run.json"
        kept = json.loads(path.read_text(encoding="utf-8"))
        kept["search"] = {"profile": profile().name, "rows": n, "found": found}
        write_whole(path, json.dumps(kept, indent=1) + "\n")
    for wording in WORDINGS:
        of_seeds(wording, best["rate"], best["epochs"])


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
