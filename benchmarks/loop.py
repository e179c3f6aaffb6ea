"""The course's training loop beside transformers.Trainer and TRL's SFTTrainer, in one run.

    make bench

All train the same model on the same rows in batches of 8, with the same learning rate, weight decay
and clipping. They differ in precision of the multiplications, order of the rows and activation
checkpointing (which TRL has on by itself), and each line of the table says how. Besides, only the
course's loop reads once what all rows of a batch begin with.

An order is made for the whole training set, by the code that the line is about. Of its batches a
few are timed, evenly spaced from the narrowest to the widest, so that padding weighs as much as in
the whole epoch. The widest of all comes first: it warms up and sets the peak of memory.

Each measurement is a process of its own, so that peak memory is its own as well. They take turns,
so that a machine that slows down slows all. Speed is in real tokens, without padding.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from helpers.course import course_split, course_template
from helpers.encoding import IGNORE, Encoded, batches_by_length, encode_all, joint, pad_batch
from helpers.models import load_model
from helpers.shared_prefix import shared_length
from helpers.templates import Example, make_examples
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainingArguments
from transformers.trainer_callback import TrainerCallback
from transformers.trainer_pt_utils import LengthGroupedSampler

from helpers.machine import matrix_speed, native_precision, peak_memory
from helpers.training import TrainSettings, make_optimizer, training_memory, training_step

BATCH, TIMED, REPEATS = 8, 4, 5
FP32, BF16 = "float32", "bfloat16"
SETTINGS = TrainSettings(memory="normal")

Batch = list[tuple[Example, Encoded]]


def by_length(lengths: list[int]) -> list[list[int]]:
    """Batches as the course's loop makes them."""
    return batches_by_length(lengths, BATCH, seed=0)


def shuffled(lengths: list[int]) -> list[list[int]]:
    """Batches as Trainer and SFTTrainer make them by themselves."""
    return _cut(torch.randperm(len(lengths)).tolist())


def grouped(lengths: list[int]) -> list[list[int]]:
    """Batches as Trainer makes them with train_sampling_strategy="group_by_length"."""
    return _cut(list(LengthGroupedSampler(BATCH, lengths=lengths)))


def _cut(order: list[int]) -> list[list[int]]:
    return [order[i : i + BATCH] for i in range(0, len(order), BATCH)]


def batches(order: Callable, tokenizer: PreTrainedTokenizerBase, window: int) -> list[Batch]:
    """The widest batch of an epoch, then the timed ones."""
    examples = make_examples(course_template(), course_split().train)
    encoded = encode_all(examples, tokenizer, window)
    lengths = [len(one.input_ids) for one in encoded]
    torch.manual_seed(0)
    full = [batch for batch in order(lengths) if len(batch) == BATCH]
    full.sort(key=lambda batch: max(lengths[i] for i in batch))
    timed = [full[(2 * turn + 1) * len(full) // (2 * TIMED)] for turn in range(TIMED)]
    return [[(examples[i], encoded[i]) for i in batch] for batch in [full[-1], *timed]]


def ours(model: PreTrainedModel, tokenizer, data: list[Batch], precision: str) -> list[float]:
    """Seconds of each step of the course's loop."""
    seconds = []
    optimizer = make_optimizer(model, SETTINGS)
    model.train()
    with training_memory(model, SETTINGS.memory):
        for batch in data:
            begin = time.perf_counter()
            part = pad_batch([encoded for _, encoded in batch], tokenizer.pad_token_id)
            training_step(model, optimizer, [part], SETTINGS.clip, precision)
            seconds.append(time.perf_counter() - begin)
    return seconds


class _Clock(TrainerCallback):
    def on_train_begin(self, *_, **__) -> None:
        self.ends = [time.perf_counter()]

    def on_step_end(self, *_, **__) -> None:
        self.ends.append(time.perf_counter())

    def seconds(self) -> list[float]:
        return [end - begin for begin, end in zip(self.ends, self.ends[1:], strict=False)]


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
    "max_grad_norm": SETTINGS.clip,
    "optim": "adamw_torch_fused",
}


def trainer(model: PreTrainedModel, tokenizer, data: list[Batch], precision: str) -> list[float]:
    """Seconds of each step of transformers.Trainer."""
    rows = [
        {"input_ids": encoded.input_ids, "labels": encoded.labels}
        for batch in data
        for _, encoded in batch
    ]

    def collate(part):
        encoded = [Encoded(row["input_ids"], row["labels"]) for row in part]
        return pad_batch(encoded, tokenizer.pad_token_id)

    clock = _Clock()
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(folder, **QUIET, **SAME, bf16=precision == BF16)
        Trainer(
            model=model,
            args=arguments,
            train_dataset=rows,
            data_collator=collate,
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
    import datasets
    from trl import SFTConfig, SFTTrainer

    datasets.disable_progress_bars()
    rows = [
        {"prompt": example.prompt, "completion": joint(example.prompt) + example.completion}
        for batch in data
        for example, _ in batch
    ]
    clock = _Clock()
    with tempfile.TemporaryDirectory() as folder:
        sft = SFTTrainer(
            model=model,
            args=SFTConfig(folder, **QUIET, completion_only_loss=True, **settings),
            train_dataset=datasets.Dataset.from_list(rows),
            processing_class=tokenizer,
            callbacks=[clock],
        )
        expected = [encoded.input_ids for batch in data for _, encoded in batch]
        assert list(sft.train_dataset["input_ids"]) == expected, "TRL trains on other tokens"
        sft.train()
    return clock.seconds()


@dataclass(frozen=True)
class Line:
    """One line of the table: how to run it, in which order, and how it multiplies."""

    run: Callable
    order: Callable
    precision: str


OURS = {FP32: "ours, fp32", BF16: "ours, bf16"}
LINES = {
    OURS[FP32]: Line(ours, by_length, FP32),
    OURS[BF16]: Line(ours, by_length, BF16),
    "Trainer, our batches, fp32": Line(trainer, by_length, FP32),
    "Trainer, shuffled, fp32": Line(trainer, shuffled, FP32),
    "Trainer, group_by_length, fp32": Line(trainer, grouped, FP32),
    "TRL, our batches, fp32": Line(trl, by_length, FP32),
    "Trainer, group_by_length, bf16": Line(trainer, grouped, BF16),
    "TRL as it comes: shuffled, bf16, checkpointing": Line(trl_defaults, shuffled, BF16),
}


def measure(name: str) -> dict[str, float]:
    """Run one line in this process: its tokens per second, peak memory in GB, and GFLOP/s."""
    line = LINES[name]
    model, tokenizer = load_model()
    data = batches(line.order, tokenizer, model.config.max_position_embeddings)
    seconds = sum(line.run(model, tokenizer, data, line.precision)[1:])
    timed = [[encoded for _, encoded in batch] for batch in data[1:]]
    work = sum(operations(model, batch, line.run is ours) for batch in timed)
    return {
        "tokens": sum(len(one.input_ids) for batch in timed for one in batch) / seconds,
        "peak": peak_memory() / 1e9,
        "gflops": work / seconds / 1e9,
    }


def operations(model: PreTrainedModel, batch: list[Encoded], prefix_once: bool) -> int:
    """The arithmetic that training on a batch needs, in floating-point operations.

    2 for each weight of a matrix that a token passes forward, and 4 backward. The head is needed
    at the supervised tokens only, and no padding is. prefix_once: what all rows begin with passes
    once. Attention between the tokens, some per cent at these lengths, is left out.
    Source: Kaplan et al., Scaling Laws for Neural Language Models, 2020, section 2.1.
    """
    layers = [m for m in model.base_model.modules() if isinstance(m, nn.Linear)]
    body = sum(layer.weight.numel() for layer in layers)
    head = model.get_output_embeddings().weight.numel()
    tokens = sum(len(one.input_ids) for one in batch)
    if prefix_once:
        tokens -= (len(batch) - 1) * shared_length(pad_batch(batch, pad_id=0))
    supervised = sum(label != IGNORE for one in batch for label in one.labels)
    return 6 * (body * tokens + head * supervised)


def in_its_own_process(name: str) -> dict[str, float]:
    """What `measure` finds, in a new process of this group."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore::FutureWarning", "-m", "benchmarks.loop", name],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
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
        print(json.dumps(measure(sys.argv[1])))
    else:
        main()
