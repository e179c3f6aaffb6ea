"""Everything that decides a training run, and the record of what happened in it."""

import json
from dataclasses import asdict, dataclass, field
from math import inf, nan
from numbers import Integral, Real
from sys import float_info

from helpers.errors import CourseError
from helpers.machine import memory_is_short, native_precision

# The most rows that an evaluation reads at once; with low_memory, fewer.
ROWS_AT_ONCE, LOW_MEMORY_ROWS = 16, 4


class TrainingError(CourseError):
    """Settings, data or a disk that training cannot go on with."""


@dataclass(frozen=True)
class TrainSettings:
    """Everything that decides a run, besides the model and the examples.
    Raises TrainingError for a value of the wrong type or out of range."""

    epochs: int = 2  # how often each example is seen
    batch_size: int = 8  # examples in one optimizer step
    # Examples that go through the model at once; their gradients add up to those of the batch.
    micro_batch_size: int = 8
    learning_rate: float = 2e-4  # the largest of the run: it rises to this, then falls to 0
    weight_decay: float = 0.01  # how strongly each step pulls the matrices towards zero
    warmup_ratio: float = 0.1  # share of the steps in which the learning rate rises
    max_grad_norm: float = 1.0  # a gradient with a larger norm is scaled down to this one
    evaluations: int = 2  # how often in an epoch the validation set is scored, evenly spaced
    patience: int | None = None  # stop after this many evaluations without a lower loss
    seed: int = 0  # decides the order of the examples, and what dropout drops
    # Multiply in "float32" or "bfloat16"; weights, gradients and losses stay in 32 bits.
    precision: str = field(default_factory=native_precision)
    # Train in less than half of the memory (see `low_memory_step`), always in float32;
    # micro_batch_size and max_grad_norm are then not used.
    low_memory: bool = field(default_factory=memory_is_short)

    def __post_init__(self) -> None:
        for names, kind, least, below, wanted in _RANGES:
            for name in names.split():
                value = getattr(self, name)
                fits = isinstance(value, kind) and not isinstance(value, bool)
                if not (fits and least <= value < below or name == "patience" and value is None):
                    raise TrainingError(f"TrainSettings.{name} is {value!r}; it must be {wanted}.")
        if self.precision not in ("float32", "bfloat16") or not isinstance(self.low_memory, bool):
            raise TrainingError(
                f"TrainSettings.precision is {self.precision!r} and low_memory is "
                f"{self.low_memory!r}; they must be 'float32' or 'bfloat16', and True or False."
            )
        if self.low_memory:
            object.__setattr__(self, "precision", "float32")

    @property
    def rows_at_once(self) -> int:
        """How many validation rows an evaluation reads at once, for the loss and for the score."""
        return LOW_MEMORY_ROWS if self.low_memory else ROWS_AT_ONCE


# Names, kind of number, the least value, the value that it stays below, and the same in words.
_RANGES = (
    ("epochs batch_size micro_batch_size evaluations", Integral, 1, inf, "a whole number from 1"),
    ("patience", Integral, 1, inf, "a whole number from 1, or None"),
    ("seed", Integral, 0, inf, "a whole number from 0"),
    ("learning_rate max_grad_norm", Real, float_info.min, inf, "a number above 0"),
    ("weight_decay", Real, 0, inf, "a number from 0"),
    ("warmup_ratio", Real, 0, 1, "a share of the steps: a number from 0 to less than 1"),
)


@dataclass
class StepRecord:
    """One optimizer step. loss: nats per labelled token; tokens: of the inputs, no padding."""

    step: int
    loss: float
    learning_rate: float
    gradient_norm: float
    tokens: int
    seconds: float


@dataclass
class EvaluationRecord:
    """One evaluation on the validation set, after `step` optimizer steps.
    loss: nats per labelled token. accuracy: what `score` said, None without it."""

    step: int
    loss: float
    accuracy: float | None
    seconds: float


@dataclass
class History:
    """What happened in a run; also what the live picture is drawn from.
    stopped: "running", "finished", "patience" or "interrupted"."""

    total_steps: int
    steps_per_epoch: int
    steps: list[StepRecord] = field(default_factory=list)
    evaluations: list[EvaluationRecord] = field(default_factory=list)
    stopped: str = "running"

    @property
    def best(self) -> EvaluationRecord:
        """The evaluation with the lowest loss (the first of them if several are equal)."""
        return min(self.evaluations, key=lambda record: record.loss)

    @property
    def tokens_per_second(self) -> float:
        """Tokens trained on, per second of training (evaluations not counted)."""
        seconds = sum(record.seconds for record in self.steps)
        return sum(record.tokens for record in self.steps) / seconds if seconds else 0.0

    @property
    def seconds_left(self) -> float:
        """Rough time to the end, from the mean step and the mean evaluation so far."""
        if not self.steps:
            return nan
        so_far = sum(record.seconds for record in [*self.steps, *self.evaluations])
        return (self.total_steps - len(self.steps)) * so_far / len(self.steps)

    def to_json(self) -> str:
        """This history as JSON text."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "History":
        """The history that `to_json` wrote."""
        data = json.loads(text)
        data["steps"] = [StepRecord(**record) for record in data["steps"]]
        data["evaluations"] = [EvaluationRecord(**record) for record in data["evaluations"]]
        return cls(**data)
