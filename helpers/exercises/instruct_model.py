"""The exercises of notebook 07: whether two models fit together, and how far weights moved."""

import math

import torch
from torch import Tensor

from helpers.exercises.exercise import Case, Exercise, wrong_answers
from helpers.model.card import differing_tensors, relative_change

# ---- Which tensors differ

Tensors = dict[str, Tensor]


def _values_too(before: Tensors, after: Tensors) -> list[str]:
    changed = {n for n in before.keys() & after.keys() if not torch.equal(before[n], after[n])}
    return sorted((before.keys() ^ after.keys()) | changed)


def _sizes_only(before: Tensors, after: Tensors) -> list[str]:
    sizes, others = ({name: t.numel() for name, t in side.items()} for side in (before, after))
    return sorted(n for n in sizes.keys() | others.keys() if sizes.get(n) != others.get(n))


def _shapes_of_common(before: Tensors, after: Tensors) -> list[str]:
    common = before.keys() & after.keys()
    return sorted(name for name in common if before[name].shape != after[name].shape)


def _tensor_cases() -> list[Case]:
    def side(**shapes: tuple[int, ...]) -> Tensors:
        return {name: torch.zeros(shape) for name, shape in shapes.items()}

    moved = {"q": torch.ones(2, 2)}
    return [
        Case((side(q=(2, 2)), side(q=(2, 2))), "The two sides are equal."),
        Case((side(q=(2, 2)), moved), "Same name, same shape, other values: that is training."),
        Case((side(q=(2,), k=(2,)), side(q=(2,))), "'k' is missing on the right."),
        Case((side(q=(2,)), side(q=(2,), v=(2,))), "'v' is missing on the left."),
        Case((side(q=(2, 3)), side(q=(3, 2))), "Equally many numbers, but in another shape."),
        Case(
            (side(q=(2,), norm=(4,), up=(1,)), side(q=(2,), norm=(5,), bias=(3,))),
            "One name is only on the left, one is only on the right, and one has another shape.",
        ),
    ]


DIFFERING_TENSORS = Exercise(
    name="differing_tensors",
    notebook="07_instruct_model",
    title="Do two models fit together?",
    minutes=6,
    difficulty=1,
    reference=differing_tensors,
    cases=_tensor_cases(),
    mistakes=wrong_answers(
        lambda before, after: sorted(before.keys() - after.keys()),
        "You find what the right side lacks. You miss what it has in addition, and what has "
        "another shape.",
        lambda before, after: sorted(before.keys() ^ after.keys()),
        "You find every name that is missing. But two tensors of the same name can have "
        "different shapes.",
        _values_too,
        "You also name tensors whose values differ. That is what training is for: only "
        "names and shapes matter here.",
        _sizes_only,
        "You compare how many numbers there are. A matrix of 2 × 3 and one of 3 × 2 have "
        "equally many, but do not fit.",
        _shapes_of_common,
        "You compare only the names that both have. A name that only one of them has differs "
        "most of all.",
        lambda before, after: sorted(differing_tensors(before, after), reverse=True),
        "The right names, but not in alphabetical order.",
    ),
    hints=(
        "Compare the shapes under each name that either dictionary has. A name without a partner "
        "counts as different.",
        "`shapes = {name: tensor.shape for name, tensor in before.items()}`, and `others` in the "
        "same way from `after`. All names are `shapes.keys() | others.keys()`.",
        "`.get(name)` gives None when a dictionary has no such name, and None is not equal to "
        "any shape: keep a name `if shapes.get(name) != others.get(name)`, and return "
        "`sorted(names)`.",
    ),
)


# ---- How far a tensor moved


def _change_cases() -> list[Case]:
    def tensor(*rows: list[float]) -> Tensor:
        return torch.tensor(rows)

    return [
        Case((tensor([3.0, 4.0]), tensor([3.0, 4.0])), "It did not move."),
        Case((tensor([3.0, 4.0]), tensor([6.0, 8.0])), "Every number doubled: moved by its size."),
        Case((tensor([3.0, 4.0]), tensor([3.0, 5.0])), "It is 5 long and moved by 1."),
        Case((tensor([3.0, 4.0]), tensor([-3.0, 4.0])), "As long as before, but turned around."),
        Case(
            (tensor([3.0, 0.0], [0.0, 4.0]), tensor([3.0, 0.5], [0.5, 4.0])),
            "Two numbers of the matrix were 0.",
        ),
        Case((torch.zeros(2, 2), torch.zeros(2, 2)), "Only zeros, and they did not move: 0.0."),
        Case((torch.zeros(3), torch.ones(3)), "From zeros to something: infinitely far."),
    ]


def _nan_for_zeros(before: Tensor, after: Tensor) -> float:
    moved = relative_change(before, after)
    return moved if before.any() else math.nan


RELATIVE_CHANGE = Exercise(
    name="relative_change",
    notebook="07_instruct_model",
    title="How far did it move?",
    minutes=6,
    difficulty=1,
    reference=relative_change,
    cases=_change_cases(),
    mistakes=wrong_answers(
        lambda before, after: ((after - before).abs() / before.abs()).mean().item(),
        "You compare number by number. A number that was 0, or nearly, then decides "
        "everything. Compare the length of the difference with the length of the tensor.",
        lambda before, after: ((after - before).norm() / after.norm()).item(),
        "You divide by the size after training. How far it moved is measured from where it "
        "started.",
        lambda before, after: ((after.norm() - before.norm()).abs() / before.norm()).item(),
        "You compare the two lengths. A tensor can turn without growing: take the length "
        "of the difference, not the difference of the lengths.",
        lambda before, after: relative_change(before, after) ** 2,
        "This is the square of the right value: a length is the root of the sum of squares.",
        lambda before, after: (after - before).norm().item(),
        "This is how far it moved, but not in proportion to its own size. A large matrix "
        "moves further than a small one, even if every number in it moves less.",
        lambda before, after: relative_change(before, after) / before.numel(),
        "You also divide by how many numbers there are. Both lengths come from equally many, "
        "so their ratio needs no further division.",
        lambda before, after: 100 * relative_change(before, after),
        "Right, but in per cent. Return the share: 0.01 is one per cent.",
        _nan_for_zeros,
        "Right if the tensor has a size. A tensor of zeros has none: return 0.0 if it did not "
        "move, math.inf if it did.",
    ),
    hints=(
        "Divide the length of the difference by the length of `before`. Only a tensor of zeros "
        "needs another answer.",
        "`moved = (after - before).norm().item()`: `.norm()` is the length, and `.item()` makes "
        "a Python number of it.",
        "`before.any()` tells whether anything in it is not 0: `return moved / "
        "before.norm().item() if before.any() else math.inf if moved else 0.0`.",
    ),
)
