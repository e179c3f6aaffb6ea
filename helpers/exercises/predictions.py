"""Predictions: the learner's guess before a result, beside it when it comes, and all at the end."""

import math
from numbers import Real
from pathlib import Path

from helpers.data import load_task
from helpers.display.charts import BLUE, GREY, figure, show
from helpers.display.tables import show_table
from helpers.errors import CourseError
from helpers.exercises import record
from helpers.profiles import profile


def predict(name: str, guess: float) -> None:
    """Keep a guess for this profile and task, and print it back. Guessing again replaces it.

    name: what is guessed, as a short text; `reveal` is called with the same. guess: any number, a
    share as 0 to 1.

    Raises CourseError for a guess that is no number.
    """
    guess = _checked(name, guess)
    _note(name, {"guess": guess})
    print(f"Your guess for {name}: {_number(guess)}.")


def reveal(name: str, actual: float) -> None:
    """Print the guess beside the result, in a sentence, and keep the result for the end.

    Raises CourseError for a result that is no number.
    """
    actual = _checked(name, actual)
    known = _load().get(name)
    if known is None:
        print(f"{name}: {_number(actual)}. You made no guess: predict({name!r}, …) records one.")
        return
    _note(name, {"guess": known["guess"], "result": actual})
    guess = _number(known["guess"])
    print(f"{name}: you guessed {guess}, it is {_number(actual)}: {_off(known['guess'], actual)}.")


def show_predictions() -> None:
    """Show all guesses whose result is known: a table, shares against results, and a summary.

    Where guess and result are not both within 0 and 1, there is no common scale, and only the
    table has them; so it is with tiny numbers such as a learning rate.
    """
    known = {name: one for name, one in _load().items() if "result" in one}
    if not known:
        print("No guess has a result yet: predict records a guess, and reveal shows its result.")
        return
    pairs = {name: (one["guess"], one["result"]) for name, one in known.items()}
    rows = [
        [number, name, _number(guess), _number(result), _off(guess, result)]
        for number, (name, (guess, result)) in enumerate(pairs.items(), start=1)
    ]
    show_table(["", "prediction", "your guess", "result", "your guess was"], rows)
    low, high = (sum(row[-1].endswith(word) for row in rows) for word in ("too low", "too high"))
    line = f"{len(rows)} guess{'' if len(rows) == 1 else 'es'}: {low} too low, {high} too high, "
    line += f"{len(rows) - low - high} exact."
    shares = {
        number: pair
        for number, pair in enumerate(pairs.values(), start=1)
        if min(pair) >= 0 and 0.01 <= max(pair) <= 1
    }
    if not shares:
        print(line)
        return
    off = [guess - result for guess, result in shares.values()]
    mean, bias = sum(map(abs, off)) / len(off), sum(off) / len(off)
    chart = figure(4.5, 4.2)
    (axes,) = chart.axes
    axes.plot([0, 1], [0, 1], "--", color=GREY, lw=1)
    style = {"color": "#555555", "fontsize": 8}
    axes.annotate("result = guess", (0.02, 0.05), rotation=45, **style)
    axes.annotate("guessed too low", (0.02, 0.99), va="top", **style)
    axes.annotate("guessed too high", (0.98, 0.01), ha="right", **style)
    for number, pair in shares.items():
        axes.plot(*pair, "o", color=BLUE)
        axes.annotate(str(number), pair, xytext=(5, 4), textcoords="offset points", fontsize=9)
    axes.set(xlim=(-0.05, 1.05), ylim=(-0.05, 1.05), xlabel="your guess", ylabel="result")
    line += f" The {len(shares)} between 0 and 1 were off by {mean:.2f} on average"
    drawn = [rows[number - 1][-1] for number in shares]
    low, high = (sum(one.endswith(word) for one in drawn) for word in ("too low", "too high"))
    title = f"Between 0 and 1: {low} guessed too low, {high} too high"
    show(chart, line + f" (guess minus result: {bias:+.2f}).", title)


def _path() -> Path:
    """One file for each profile and task, next to what is done: other sizes have other results."""
    return record.path().with_name(f"predictions-{profile().name}-{load_task().name}.json")


def _load() -> dict[str, dict[str, float]]:
    """Name → {"guess": number} and, once revealed, "result": number; in the order made."""
    return record.read(_path(), _are_predictions)


def _note(name: str, prediction: dict[str, float]) -> None:
    record.update(_path(), _are_predictions, lambda content: content.update({name: prediction}))


def _are_predictions(content: dict) -> bool:
    return all(
        "guess" in one and all(_is_number(value) for value in one.values())
        for one in content.values()
    )


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _checked(name: str, value: float) -> float:
    if not isinstance(name, str) or not _is_number(value):
        raise CourseError(
            f"{value!r} is not a number for {name!r}. Give a name and a number, a share as 0 to 1: "
            'predict("accuracy after one epoch", 0.6).'
        )
    return float(value)


def _number(value: float) -> str:
    """With two decimals, where that says enough; whole numbers and large ones without."""
    if value == round(value) or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.2f}" if abs(value) >= 0.01 else f"{value:.1g}"


def _off(guess: float, result: float) -> str:
    if _number(guess) == _number(result):
        return "exact"
    return f"{_number(abs(guess - result))} too {'low' if guess < result else 'high'}"
