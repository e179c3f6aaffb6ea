"""The course's training loop beside transformers.Trainer: speed and memory, in one run.

    make bench

Both get the same model, the same batches of 8 in the same order, the same optimizer settings. A
third line is Trainer as one would use it: the same rows in batches of 8, but as the table has them,
with the padding that this brings. Each measurement is a process of its own, so that peak memory is
its own as well; they take turns, so that a machine that slows down slows all.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time

import psutil
import torch
from torch.utils.data import SequentialSampler
from transformers import Trainer, TrainerCallback, TrainingArguments

from helpers.course import course_split, course_template, matrix_speed
from helpers.encoding import Encoded, batches_by_length, encode_all, pad_batch
from helpers.models import load_model
from helpers.templates import make_examples
from helpers.training import TrainSettings, make_optimizer, training_step

OURS, TRAINER, TABLE_ORDER = "ours", "trainer", "trainer, table order"
BATCH, WARM_UP, TIMED, REPEATS = 8, 2, 12, 3


def batches(tokenizer, window: int, by_length: bool = True) -> list[list[Encoded]]:
    """Batches of 8 of the course task, as the loop makes them; or the same rows in table order."""
    examples = make_examples(course_template(), course_split().train)
    encoded = encode_all(examples, tokenizer, window)
    order = batches_by_length([len(one.input_ids) for one in encoded], BATCH, seed=0)
    order = [batch for batch in order if len(batch) == BATCH][: WARM_UP + TIMED]
    if not by_length:
        rows = sorted(i for batch in order for i in batch)
        order = [rows[i : i + BATCH] for i in range(0, len(rows), BATCH)]
    return [[encoded[i] for i in batch] for batch in order]


def ours(model, tokenizer, data: list[list[Encoded]]) -> list[float]:
    """Seconds of each step of the course's loop."""
    settings, seconds = TrainSettings(), []
    optimizer = make_optimizer(model, settings)
    model.train()
    for batch in data:
        begin = time.perf_counter()
        part = pad_batch(batch, tokenizer.pad_token_id)
        training_step(model, optimizer, [part], settings.clip)
        seconds.append(time.perf_counter() - begin)
    return seconds


class _InOrder(Trainer):
    def _get_train_sampler(self, *_):
        return SequentialSampler(self.train_dataset)


class _Clock(TrainerCallback):
    def __init__(self) -> None:
        self.ends = [time.perf_counter()]

    def on_train_begin(self, *_, **__) -> None:
        self.ends = [time.perf_counter()]

    def on_step_end(self, *_, **__) -> None:
        self.ends.append(time.perf_counter())


def trainer(model, tokenizer, data: list[list[Encoded]]) -> list[float]:
    """Seconds of each step of transformers.Trainer."""
    rows = [{"input_ids": one.input_ids, "labels": one.labels} for batch in data for one in batch]

    def collate(part):
        encoded = [Encoded(row["input_ids"], row["labels"]) for row in part]
        return pad_batch(encoded, tokenizer.pad_token_id)

    clock, settings = _Clock(), TrainSettings()
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            num_train_epochs=1,
            per_device_train_batch_size=BATCH,
            learning_rate=settings.learning_rate,
            weight_decay=settings.weight_decay,
            optim="adamw_torch_fused",
            max_grad_norm=settings.clip,
            logging_strategy="no",
            save_strategy="no",
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
            remove_unused_columns=False,
        )
        _InOrder(
            model=model.train(),
            args=arguments,
            train_dataset=rows,
            data_collator=collate,
            callbacks=[clock],
        ).train()
    return [end - begin for begin, end in zip(clock.ends, clock.ends[1:], strict=False)]


def measure(name: str) -> dict[str, float]:
    """Run one loop in this process: its tokens per second, peak memory in GB, and GFLOP/s."""
    model, tokenizer = load_model()
    window = model.config.max_position_embeddings
    data = batches(tokenizer, window, by_length=name != TABLE_ORDER)
    seconds = (ours if name == OURS else trainer)(model, tokenizer, data)
    tokens = sum(len(one.input_ids) for batch in data[WARM_UP:] for one in batch)
    # The head works on the supervised tokens alone, so it is left out; 2 operations a weight
    # forward and 4 backward.
    body = model.num_parameters() - model.get_output_embeddings().weight.numel()
    speed = tokens / sum(seconds[WARM_UP:])
    return {"tokens": speed, "peak": _peak_memory() / 1e9, "gflops": 6 * body * speed / 1e9}


def _peak_memory() -> int:
    """Most resident memory that this process has had, in bytes."""
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def main() -> None:
    """Let them take turns and print medians."""
    results: dict[str, list[dict]] = {OURS: [], TRAINER: [], TABLE_ORDER: []}
    matrix = []
    for turn in range(1, REPEATS + 1):
        matrix.append(matrix_speed())
        for name, measured in results.items():
            done = subprocess.run(
                [sys.executable, "-m", "benchmarks.loop", name],
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            )
            measured.append(json.loads(done.stdout.splitlines()[-1]))
            print(f"turn {turn}: {name} {measured[-1]['tokens']:.0f} tokens/s", flush=True)
    limit = statistics.median(matrix)
    print(
        f"\n{TIMED} batches of {BATCH} rows, {REPEATS} turns, {torch.get_num_threads()} threads; "
        f"matrix multiplication {limit:.0f} GFLOP/s (fp32)\n"
        f"{'':22} {'tokens/s (range)':>22} {'peak GB':>8} {'of matrix speed':>16}"
    )
    medians = {}
    for name, measured in results.items():
        speeds = sorted(one["tokens"] for one in measured)
        medians[name] = statistics.median(speeds)
        peak = statistics.median(one["peak"] for one in measured)
        share = statistics.median(one["gflops"] for one in measured) / limit
        print(
            f"{name:22} {medians[name]:8.0f} ({speeds[0]:.0f} to {speeds[-1]:.0f})"
            f"{peak:14.1f} {share:16.0%}"
        )
    for name in (TRAINER, TABLE_ORDER):
        print(f"{OURS} / {name}: {medians[OURS] / medians[name]:.2f}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(measure(sys.argv[1])))
    else:
        main()
