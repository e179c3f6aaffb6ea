"""The course's training loop beside transformers.Trainer and TRL's SFTTrainer, in one run.

    make bench

All train the same model on the same rows in batches of 8, with the same learning rate, weight decay
and clipping. They differ in precision of the multiplications, order of the rows and activation
checkpointing (which TRL has on by itself), and each line of the table says how. Besides, only the
course's loop reads once what all rows of a batch begin with. Two lines are the course's loop in
other circumstances: with an adapter (LoRA) in the place of all weights, and in two processes that
share the cores.

An order is made for the whole training set, by the code that the line is about. Of its batches a
few are timed, evenly spaced from the narrowest to the widest, so that padding weighs as much as in
the whole epoch. The widest of all comes first: it warms up and sets the peak of memory.

Each measurement is a process of its own, so that peak memory is its own as well. They take turns,
so that a machine that slows down slows all. Speed is in real tokens, without padding.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

import torch
from datasets import Dataset, disable_progress_bars
from torch import nn
from transformers import (
    DataCollatorForSeq2Seq,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainingArguments,
)
from transformers.trainer_callback import TrainerCallback
from transformers.trainer_pt_utils import LengthGroupedSampler

from helpers.data.task import load_task
from helpers.data.tokenize import IGNORE, collate, length_grouped_batches, tokenize
from helpers.machine import matrix_speed, native_precision, peak_memory
from helpers.model.load import load_model
from helpers.training.loop import make_optimizer, training_step
from helpers.training.low_memory import training_memory
from helpers.training.processes import join_processes, process_index, share_of_process
from helpers.training.settings import TrainSettings
from helpers.training.shared_prefix import shared_length

BATCH, TIMED, REPEATS = 8, 4, 5
FP32, BF16 = "float32", "bfloat16"
SETTINGS = TrainSettings(low_memory=False)

Batch = list[dict]  # rows with prompt, completion, input_ids and labels


def by_length(lengths: list[int]) -> list[list[int]]:
    """Batches as the course's loop makes them."""
    return length_grouped_batches(lengths, BATCH, seed=0)


def shuffled(lengths: list[int]) -> list[list[int]]:
    """Batches as Trainer and SFTTrainer make them by themselves."""
    return _cut(torch.randperm(len(lengths)).tolist())


def grouped(lengths: list[int]) -> list[list[int]]:
    """Batches as Trainer makes them with train_sampling_strategy="group_by_length"."""
    return _cut(list(LengthGroupedSampler(BATCH, lengths=lengths)))


def _cut(order: list[int]) -> list[list[int]]:
    return [order[i : i + BATCH] for i in range(0, len(order), BATCH)]


def batches(order: Callable, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase):
    """The widest batch of an epoch, then the timed ones: a list of lists of rows."""
    task = load_task("opinion")
    examples = task.render(task.split(task.load_table())["train"])
    tokenized = tokenize(examples, tokenizer, model.config)
    rows = [{**example, **ids} for example, ids in zip(examples, tokenized, strict=True)]
    lengths = [len(row["input_ids"]) for row in rows]
    torch.manual_seed(0)
    full = [batch for batch in order(lengths) if len(batch) == BATCH]
    full.sort(key=lambda batch: max(lengths[i] for i in batch))
    timed = [full[(2 * turn + 1) * len(full) // (2 * TIMED)] for turn in range(TIMED)]
    return [[rows[i] for i in batch] for batch in [full[-1], *timed]]


def ours(model: PreTrainedModel, tokenizer, data: list[Batch], precision: str) -> list[float]:
    """Seconds of each step of the course's loop."""
    seconds, settings = [], replace(SETTINGS, precision=precision)
    padded = partial(collate, pad_token_id=tokenizer.pad_token_id)
    data = [share_of_process(rows) for rows in data]
    optimizer = make_optimizer(model, settings)
    model.train()
    with training_memory(model, low_memory=False):
        for rows in data:
            begin = time.perf_counter()
            training_step(model, optimizer, [padded(rows)], settings)
            seconds.append(time.perf_counter() - begin)
    return seconds


def lora(model: PreTrainedModel, tokenizer, data: list[Batch], precision: str) -> list[float]:
    """Seconds of each step of the course's loop, with notebook 11's adapter."""
    from peft import LoraConfig, get_peft_model

    get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear"))
    return ours(model, tokenizer, data, precision)


class _Clock(TrainerCallback):
    def on_train_begin(self, *_, **__) -> None:
        self.ends = [time.perf_counter()]

    def on_step_end(self, *_, **__) -> None:
        self.ends.append(time.perf_counter())

    def seconds(self) -> list[float]:
        return [end - begin for begin, end in pairwise(self.ends)]


# Rows come in the order of `data`; nothing is written but what the clock needs.
QUIET = {
    "num_train_epochs": 1,
    "per_device_train_batch_size": BATCH,
    "train_sampling_strategy": "sequential",
    "logging_strategy": "no",
    "save_strategy": "no",
    "report_to": [],
    "use_cpu": True,
    "disable_tqdm": True,
}
SAME = {
    "learning_rate": SETTINGS.learning_rate,
    "weight_decay": SETTINGS.weight_decay,
    "max_grad_norm": SETTINGS.max_grad_norm,
    "optim": "adamw_torch_fused",
}


def trainer(model: PreTrainedModel, tokenizer, data: list[Batch], precision: str) -> list[float]:
    """Seconds of each step of transformers.Trainer."""
    rows = Dataset.from_list([row for batch in data for row in batch])
    clock = _Clock()
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(folder, **QUIET, **SAME, bf16=precision == BF16)
        Trainer(
            model=model,
            args=arguments,
            train_dataset=rows.select_columns(["input_ids", "labels"]),
            data_collator=DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=IGNORE),
            callbacks=[clock],
        ).train()
    return clock.seconds()


def trl_defaults(model: PreTrainedModel, tokenizer, data: list[Batch], precision: str):
    """Seconds of each step of TRL's SFTTrainer, with its own settings."""
    return _trl(model, tokenizer, data, {})


def trl(model: PreTrainedModel, tokenizer, data: list[Batch], precision: str) -> list[float]:
    """Seconds of each step of TRL's SFTTrainer, with the settings of the others."""
    same = {**SAME, "bf16": precision == BF16, "gradient_checkpointing": False}
    return _trl(model, tokenizer, data, same)


def _trl(model: PreTrainedModel, tokenizer, data: list[Batch], settings: dict) -> list[float]:
    from trl import SFTConfig, SFTTrainer

    disable_progress_bars()
    rows = Dataset.from_list([row for batch in data for row in batch])
    clock = _Clock()
    with tempfile.TemporaryDirectory() as folder:
        sft = SFTTrainer(
            model=model,
            args=SFTConfig(folder, **QUIET, completion_only_loss=True, **settings),
            train_dataset=rows.select_columns(["prompt", "completion"]),
            processing_class=tokenizer,
            callbacks=[clock],
        )
        same = list(sft.train_dataset["input_ids"]) == list(rows["input_ids"])
        assert same, "TRL trains on other tokens"
        sft.train()
    return clock.seconds()


@dataclass(frozen=True)
class Line:
    """One line of the table: how to run it, in which order, how it multiplies, and in how many
    processes."""

    run: Callable
    order: Callable
    precision: str
    processes: int = 1


OURS = {FP32: "ours, fp32", BF16: "ours, bf16"}
LINES = {
    OURS[FP32]: Line(ours, by_length, FP32),
    OURS[BF16]: Line(ours, by_length, BF16),
    "ours, LoRA, fp32": Line(lora, by_length, FP32),
    "ours, two processes, fp32": Line(ours, by_length, FP32, processes=2),
    "Trainer, our batches, fp32": Line(trainer, by_length, FP32),
    "Trainer, shuffled, fp32": Line(trainer, shuffled, FP32),
    "Trainer, group_by_length, fp32": Line(trainer, grouped, FP32),
    "TRL, our batches, fp32": Line(trl, by_length, FP32),
    "Trainer, group_by_length, bf16": Line(trainer, grouped, BF16),
    "TRL as it comes: shuffled, bf16, checkpointing": Line(trl_defaults, shuffled, BF16),
}


def measure(name: str) -> dict[str, float]:
    """Run one line in this process: its tokens per second, peak memory in GB, and GFLOP/s.

    Of several processes each runs its part; tokens and GFLOP/s are those of all of them, the peak
    is this one's.
    """
    line = LINES[name]
    join_processes()
    model, tokenizer = load_model(device="cpu")
    data = batches(line.order, model, tokenizer)
    seconds = sum(line.run(model, tokenizer, data, line.precision)[1:])
    work = sum(operations(model, batch, line.run in (ours, lora)) for batch in data[1:])
    return {
        "tokens": sum(len(row["input_ids"]) for batch in data[1:] for row in batch) / seconds,
        "peak": peak_memory() / 1e9,
        "gflops": work / seconds / 1e9,
    }


def operations(model: PreTrainedModel, batch: Batch, prefix_once: bool) -> int:
    """The arithmetic that training on a batch needs, in floating-point operations.

    2 for each weight of a matrix that a token passes forward, and 4 backward, of which a frozen
    weight needs 2. The head is needed at the labelled tokens only, and no padding is. prefix_once:
    what all rows begin with passes once. Attention between the tokens, some per cent at these
    lengths, is left out.
    Source: Kaplan et al., Scaling Laws for Neural Language Models, 2020, section 2.1.
    """

    def needed(weight: torch.Tensor) -> int:
        return (6 if weight.requires_grad else 4) * weight.numel()

    layers = [m for m in model.base_model.modules() if isinstance(m, nn.Linear)]
    body = sum(needed(layer.weight) for layer in layers)
    head = needed(model.get_output_embeddings().weight)
    tokens = sum(len(row["input_ids"]) for row in batch)
    if prefix_once:
        tokens -= (len(batch) - 1) * shared_length(collate(batch, pad_token_id=0))
    labelled = sum(label != IGNORE for row in batch for label in row["labels"])
    return body * tokens + head * labelled


def in_its_own_process(name: str) -> dict[str, float]:
    """What `measure` finds, in a new process of this group, or in several."""
    python, environment = [sys.executable, "-W", "ignore::FutureWarning"], dict(os.environ)
    if (count := LINES[name].processes) > 1:
        python += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
        environment["OMP_NUM_THREADS"] = str(max(1, torch.get_num_threads() // count))
    command = [*python, "-m", "benchmarks.loop", name]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Let the lines take turns; print medians and ranges."""
    # Where the processor has no bf16 arithmetic, one batch would take minutes.
    precisions = [FP32, BF16] if native_precision() == BF16 else [FP32]
    lines = {name: line for name, line in LINES.items() if line.precision in precisions}
    limits: dict[str, list[float]] = {precision: [] for precision in precisions}
    results: dict[str, list[dict]] = {name: [] for name in lines}
    for turn in range(1, REPEATS + 1):
        for precision, speeds in limits.items():
            speeds.append(matrix_speed(dtype=getattr(torch, precision)))
        for name, measured in results.items():
            measured.append(in_its_own_process(name))
            print(f"turn {turn}: {name}: {measured[-1]['tokens']:.0f} tokens/s", flush=True)
    report(lines, results, limits)


def report(
    lines: dict[str, Line], results: dict[str, list[dict]], limits: dict[str, list[float]]
) -> None:
    """Print the table."""
    middle = {
        name: {key: statistics.median(one[key] for one in measured) for key in measured[0]}
        for name, measured in results.items()
    }
    print(
        f"\nTraining: {TIMED} batches of {BATCH} rows, medians of {REPEATS} turns (lowest to "
        f"highest), {torch.get_num_threads()} threads.\n"
        "Of the limit: share of what matrix multiplication in the same precision could do. Ours\n"
        "needs less of it, because it reads once what all rows of a batch begin with.\n\n"
        f"{'':47}{'real tokens/s':>18}{'peak GB':>9}{'of the limit':>14}"
        + "".join(f"{f'{OURS[precision]} /':>14}" for precision in limits)
    )
    for name, line in lines.items():
        speeds = [one["tokens"] for one in results[name]]
        speed = middle[name]["tokens"]
        share = middle[name]["gflops"] / statistics.median(limits[line.precision])
        ratios = [middle[OURS[precision]]["tokens"] / speed for precision in limits]
        print(
            f"{name:47}{f'{speed:.0f} ({min(speeds):.0f} to {max(speeds):.0f})':>18}"
            f"{middle[name]['peak']:9.1f}{share:14.0%}" + "".join(f"{r:14.2f}" for r in ratios)
        )
    # Of two lines with the same batches, one with each need of arithmetic for a token.
    needs = {"": OURS[FP32], ", whole rows": "Trainer, our batches, fp32"}
    for precision, speeds in limits.items():
        speed = statistics.median(speeds)
        for how, name in needs.items():
            limit = f"{speed * middle[name]['tokens'] / middle[name]['gflops']:.0f}"
            print(f"{f'limit: {precision}, {speed:.0f} GFLOP/s{how}':47}{limit:>5}")
    if BF16 not in limits:
        print("This processor has no instructions for bf16: the lines with it are left out.")
    print()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        found = measure(sys.argv[1])
        if process_index() == 0:
            print(json.dumps(found))
    else:
        main()
