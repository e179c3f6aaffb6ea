"""The search behind the course's default settings, on all rows of a task's training set.

    python -m benchmarks.search                 # the task and the profile in force

Notebook 05 searches on few rows, so that it can be done in a lesson. Here each run is of full size:
three learning rates with two epochs, then one epoch at the best of them, then other seeds of the
best. What is chosen by is the validation loss. Results are kept in the runs folder.
"""

import shutil
import time
from statistics import fmean

from helpers.data import load_examples, load_task, tokenize
from helpers.model import load_model
from helpers.profiles import profile, runs_folder
from helpers.results import cached
from helpers.training import TrainSettings, train_task

RATES, SEEDS = (5e-5, 1e-4, 2e-4), (1, 2)


def main() -> None:
    task = load_task()
    examples, folder = load_examples(task), runs_folder(task.name) / "search"

    def trained(settings: TrainSettings) -> dict:
        model, tokenizer = load_model()
        sets = tokenize(examples, tokenizer, model.config)
        begin = time.time()
        shutil.rmtree(folder, ignore_errors=True)
        history = train_task(model, tokenizer, examples["validation"], sets, settings, folder)
        shutil.rmtree(folder, ignore_errors=True)
        last = history.evaluations[-1]
        return {"loss": last.loss, "accuracy": last.accuracy, "seconds": time.time() - begin}

    def tried(rate: float, epochs: int, seed: int) -> float:
        settings = TrainSettings(learning_rate=rate, epochs=epochs, seed=seed, evaluations=1)
        key = [profile().model, examples["train"], examples["validation"], settings]
        name = f"{task.name}/search_{rate:.0e}_{epochs}_{seed}"
        result = cached(name, key, lambda: trained(settings))
        accuracy = "" if result["accuracy"] is None else f", accuracy {result['accuracy']:.3f}"
        words = f"loss {result['loss']:.4f}{accuracy}, {result['seconds']:.0f} s"
        print(f"rate {rate:.0e}, {epochs} epochs, seed {seed}: {words}", flush=True)
        return result["loss"]

    n, m = len(examples["train"]), len(examples["validation"])
    print(f"{task.name}, profile {profile().name}: {n} training rows, {m} validation rows")
    two = {rate: tried(rate, 2, 0) for rate in RATES}
    best = min(two, key=two.get)
    epochs = 2 if two[best] <= tried(best, 1, 0) else 1
    losses = [tried(best, epochs, seed) for seed in (0, *SEEDS)]
    spread = max(losses) - min(losses)
    print(f"Best: rate {best:.0e}, {epochs} epochs; {len(losses)} seeds: mean {fmean(losses):.4f},")
    print(f"{spread:.4f} from the lowest to the highest.")


if __name__ == "__main__":
    main()
