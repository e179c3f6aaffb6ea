"""What a new version of the model is: in words (its card) and in numbers (what has moved)."""

import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from huggingface_hub import EvalResult, ModelCardData
from transformers import PreTrainedModel

from helpers.data.formats import hub_name
from helpers.data.task import Task
from helpers.model.load import ModelError

LIMITS = "## Limits\n\n"
# The bound is for any task: the model ends its answer by itself.
USE = """from transformers import pipeline

as_text = {"split_special_tokens": True}  # "<|im_end|>" in a prompt stays text, as in training
pipe = pipeline("text-generation", "path/to/this/folder", tokenizer_encode_kwargs=as_text)
print(pipe(prompt, max_new_tokens=128, do_sample=False, return_full_text=False))"""
# transformers has no pipeline for these any more.
USE_ENCODER_DECODER = """from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

folder = "path/to/this/folder"
model = AutoModelForSeq2SeqLM.from_pretrained(folder)
tokenizer = AutoTokenizer.from_pretrained(folder)
# T5's tokenizer cannot split its special tokens: for it, write "< /s>" for each "</s>" in a prompt.
asked = tokenizer(prompt, split_special_tokens=True, return_tensors="pt")
ids = model.generate(**asked, max_new_tokens=128)[0]
print(tokenizer.decode(ids, skip_special_tokens=True))"""


def model_card(
    title: str,
    starting: Mapping[str, str],
    facts: Mapping[str, Mapping[str, object]],
    prompt: str,
    limits: Sequence[str],
    metadata: Mapping[str, object] | None = None,
    encoder_decoder: bool = False,
) -> str:
    """The text of a model card (README.md): what a new version is, came from, can and cannot do.

    starting: the starting model's `provenance`. facts: heading → {what: value}, for instance
    {"Data": {...}, "Scores": {...}}. prompt: an example of what the model is asked, word for word.
    limits: sentences on what it is not for. metadata: more for the front matter that the Hugging
    Face Hub reads, by the names of its ModelCardData: what `card_metadata` gives, metrics, tags.
    encoder_decoder: whether the model is one (T5, BART), which is used in another way.
    """
    front = {
        "license": starting["licence"].lower(),
        "language": starting.get("language"),
        "base_model": starting.get("hub_id", starting["model"]),
        "library_name": "transformers",
        "pipeline_tag": "text2text-generation" if encoder_decoder else "text-generation",
        **(metadata or {}),
    }
    parts = [
        f"---\n{ModelCardData(**front).to_yaml()}\n---",
        f"# {title}",
        f"{starting['model']}, with all of its weights fine-tuned on one task.",
        f"The starting weights: {starting['source']}, {starting['changes']}. Their licence: "
        f"{starting['licence']}.",
    ]
    for heading, values in facts.items():
        lines = "\n".join(f"- {what}: {value}" for what, value in values.items())
        parts.append(f"## {heading}\n\n{lines}")
    # Four spaces make a block that no text inside can end.
    parts.append("## Prompt\n\n" + textwrap.indent(prompt, "    ", lambda line: True))
    use = USE_ENCODER_DECODER if encoder_decoder else USE
    parts.append("## Use\n\n" + textwrap.indent(use, "    ", lambda line: True))
    parts.append(LIMITS + "\n".join(f"- {limit}" for limit in limits))
    return "\n\n".join(parts) + "\n"


def card_metadata(
    task: Task, title: str, scores: Mapping[str, tuple[str, Sequence[float]]]
) -> dict[str, object]:
    """What model hubs read in a card's front matter on data and scores.

    title: the model's name there. scores: {"195 test rows": (metric, (score, low, high))}; may be
    empty. Scores are rounded to three digits.
    """
    source = task.source
    dataset = source.name if isinstance(source, Path) else hub_name(source)[0]
    results = [
        EvalResult(
            task_type="text-generation",
            dataset_type=task.name,
            dataset_name=f"{task.name}, {rows}",
            metric_type=metric,
            metric_value=round(score, 3),
            metric_name=f"{metric} (95 % interval {low:.3f} to {high:.3f})",
        )
        for rows, (metric, (score, low, high)) in scores.items()
    ]
    named = {"model_name": title, "eval_results": results} if results else {}
    return {"datasets": [dataset], **named}


def card_scores(stored: Mapping | None, version: str, kinds: Sequence[str]) -> dict[str, str]:
    """What a card may say about the test: scores of this very version, or that there are none yet.

    stored: the result that notebook 06 stored, or None: {"version": ..., "rows": ..., "board":
    {name: {kind of score: (score, low, high)}}}. kinds: which of the scores go on the card; that of
    "accuracy by group" is the accuracy, with an interval that draws whole groups.
    """
    if stored is None or stored["version"] != version:
        return {"test": "not scored yet"}
    lines = {"locked test rows": f"{stored['rows']} (in brackets below: 95 % intervals)"}
    for kind in kinds:
        for name, scores in stored["board"].items():
            score, low, high = scores[kind]
            metric = kind.removesuffix(" by group")
            lines[f"{metric}, {name}"] = f"{score:.3f} ({low:.3f} to {high:.3f})"
    return lines


def relative_change(before: torch.Tensor, after: torch.Tensor) -> float:
    """How far a tensor moved, by its own size: ‖after − before‖ / ‖before‖ (Frobenius norms).

    0.0 for a tensor that did not move, infinite for one of zeros that did.
    """
    moved = (after - before).norm().item()
    return moved / before.norm().item() if before.any() else math.inf if moved else 0.0


def differing_tensors(
    before: Mapping[str, torch.Tensor], after: Mapping[str, torch.Tensor]
) -> list[str]:
    """Names, in order, of tensors that only one side has, or that have another shape there."""
    shapes, others = ({name: t.shape for name, t in side.items()} for side in (before, after))
    return sorted(n for n in shapes.keys() | others.keys() if shapes.get(n) != others.get(n))


def weight_changes(before: PreTrainedModel, after: PreTrainedModel) -> dict[str, float]:
    """Relative change of each parameter tensor: {parameter name: change}.

    Raises ModelError when the two models do not have the same tensors.
    """
    old, new = dict(before.named_parameters()), dict(after.named_parameters())
    if differing := differing_tensors(old, new):
        raise ModelError(
            "The two models cannot be compared: their tensors differ in names or shapes, the "
            f"first of them {differing[0]!r}. Compare a tuned model with the starting model that "
            "it was made from."
        )
    with torch.no_grad():
        return {name: relative_change(old[name], new[name]) for name in old}


def by_layer(
    changes: Mapping[str, float],
) -> tuple[dict[str, dict[int, float]], dict[str, float]]:
    """Sort `weight_changes` by kind of tensor and layer.

    Returns ({kind: {layer: change}}, {name: change} of tensors that belong to no layer, such as
    the embeddings); both in the order of `changes`, with short names. In an encoder–decoder a kind
    begins with the side it is on, since both sides count their layers from 0.
    """
    layered: dict[str, dict[int, float]] = {}
    single = {}
    for name, change in changes.items():
        short = name.removeprefix("model.").removesuffix(".weight")
        # What stands before the first number names the stack of layers, and the side at its start.
        parts = re.fullmatch(r"(encoder\.|decoder\.)?.*?\.?(\d+)\.(.+)", short)
        if parts:
            layered.setdefault((parts[1] or "") + parts[3], {})[int(parts[2])] = change
        else:
            single[short] = change
    return layered, single
