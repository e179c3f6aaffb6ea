"""The search behind the course's default settings, on all rows of a task's training set.

    python -m benchmarks.search                 # the task and the profile in force

Notebook 05 searches on few rows, so that it can be done in a lesson. Here each run is of full size:
three learning rates with two epochs, then one epoch at the best of them, each with three seeds.
What is chosen by is the mean validation loss after the last step. Each run's result is kept in the
runs folder, so a search that was interrupted goes on. Those of the task `opinion` in the profile
`laptop` also go into data/example_run.json, and notebook 05 shows them.
"""

import json
import shutil
import time
from statistics import fmean

from datasets import DatasetDict

from helpers.data import Task, load_examples, load_task, tokenize
from helpers.files import write_whole
from helpers.model import load_model
from helpers.profiles import ROOT, profile, runs_folder
from helpers.results import cached
from helpers.training import TrainSettings, train_task

RATES, SEEDS = (5e-5, 1e-4, 2e-4), range(3)


def tried(task: Task, examples: DatasetDict, rate: float, epochs: int, seed: int) -> dict:
    """Loss and accuracy after the last step of one run, and its seconds, evaluations included."""
    settings = TrainSettings(learning_rate=rate, epochs=epochs, seed=seed, evaluations=1)

    def trained() -> dict:
        model, tokenizer = load_model()
        sets = tokenize(examples, tokenizer, model.config)
        folder = runs_folder(task.name) / f"search_{rate:.0e}_{epochs}_{seed}"
        shutil.rmtree(folder, ignore_errors=True)
        begin = time.time()
        history = train_task(model, tokenizer, examples["validation"], sets, settings, folder)
        shutil.rmtree(folder, ignore_errors=True)
        last = history.evaluations[-1]
        return {"loss": last.loss, "accuracy": last.accuracy, "seconds": time.time() - begin}

    key = [profile().model, examples["train"], examples["validation"], settings]
    return cached(f"{task.name}/search_{rate:.0e}_{epochs}_{seed}", key, trained)


def main() -> None:
    task = load_task()
    examples = load_examples(task)
    n, m = len(examples["train"]), len(examples["validation"])
    print(f"{task.name}, profile {profile().name}: {n} training rows, {m} validation rows")
    found = []

    def of_seeds(rate: float, epochs: int) -> None:
        runs = [tried(task, examples, rate, epochs, seed) for seed in SEEDS]
        found.append({"rate": rate, "epochs": epochs, "runs": runs})
        losses = ", ".join(f"{one['loss']:.3f}" for one in runs)
        print(f"rate {rate:.0e}, epochs {epochs}: mean {mean_loss(found[-1]):.3f} ({losses})")

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


def mean_loss(setting: dict) -> float:
    return fmean(one["loss"] for one in setting["runs"])


if __name__ == "__main__":
    main()
