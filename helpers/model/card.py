"""What a new version of the model is, in words (the model card) and in numbers (what has moved)."""

import math
import re
import textwrap
from collections.abc import Mapping

import torch
from transformers import PreTrainedModel

from helpers.model.load import ModelError


def model_card(
    title: str,
    starting: dict[str, str],
    facts: dict[str, dict[str, object]],
    prompt: str,
    limits: list[str],
) -> str:
    """The text of a model card (README.md): what a new version is, came from, can and cannot do.

    starting: the starting model's provenance: model, licence, source and changes.
    facts: heading → {what: value}, for instance {"Data": {...}, "Scores": {...}}.
    prompt: an example of what the model is asked, word for word.
    limits: sentences on what it is not for.
    Everything in the card comes from these arguments.
    """
    parts = [
        f"---\nlicense: {starting['licence'].lower()}\nlibrary_name: transformers\n"
        "pipeline_tag: text-generation\n---",
        f"# {title}",
        f"All weights of {starting['model']} ({starting['source']}; {starting['changes']}), "
        f"fine-tuned. Licence of the starting model: {starting['licence']}.",
    ]
    for heading, values in facts.items():
        lines = [f"- {what}: {value}" for what, value in values.items()]
        parts.append("\n".join([f"## {heading}", "", *lines]))
    # Four spaces make a block that no text inside can end.
    parts.append("## Prompt\n\n" + textwrap.indent(prompt, "    ", lambda line: True))
    parts.append("\n".join(["## Limits", "", *(f"- {limit}" for limit in limits)]))
    return "\n\n".join(parts) + "\n"


def card_scores(
    kept: dict | None, version: str, names: tuple[str, ...] = ("tuned", "best prompt", "majority")
) -> dict[str, str]:
    """What a card may say about the test: scores of this very version, or that there are none yet.

    kept: what notebook 06 kept, or None: {"version": ..., "rows": ..., "board": {name: {kind of
    score: (score, low, high)}}}. Scores of another version would be a lie that nobody notices.
    names: whose accuracy and macro-F1 go on the card.
    """
    if kept is None or kept["version"] != version:
        return {"test": "not scored yet"}
    lines = {"sealed test rows (95 % intervals)": str(kept["rows"])}
    for kind in ("accuracy", "macro-F1"):
        for name in names:
            score, low, high = kept["board"][name][kind]
            lines[f"{kind}, {name}"] = f"{score:.3f} ({low:.3f} to {high:.3f})"
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
    differing = differing_tensors(old, new)
    if differing:
        raise ModelError(
            "The two models cannot be compared: their tensors have other names or shapes, the "
            f"first of them {differing[0]!r}. Compare a tuned model with the starting model that "
            "it was made from."
        )
    with torch.no_grad():
        return {name: relative_change(old[name], new[name]) for name in old}


def by_layer(changes: dict[str, float]) -> tuple[dict[str, dict[int, float]], dict[str, float]]:
    """Sort `weight_changes` by kind of tensor and layer.

    Returns ({kind: {layer: change}}, {name: change} of tensors that belong to no layer, such as
    the embeddings); both in the order of `changes`, with short names.
    """
    layered: dict[str, dict[int, float]] = {}
    single = {}
    for name, change in changes.items():
        short = name.removeprefix("model.").removesuffix(".weight")
        place = re.search(r"\.(\d+)\.(.+)", short)
        if place:
            layered.setdefault(place[2], {})[int(place[1])] = change
        else:
            single[short] = change
    return layered, single

