"""Drawings that explain: the road of the course, and the steps that are mechanical.

Written as SVG, which stays sharp at any size, on a light card of its own, so that dark pages show
it, too. Displayed as an HTML image with a text alternative: bare SVG has none in JupyterLab, which
moreover hides it in a notebook that it does not trust yet.
"""

import base64
import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any
from unicodedata import east_asian_width

from IPython.display import display

from helpers.display.charts import BLUE, GREY, ORANGE

# As wide as a page of a notebook shows it, so that the letters are read in their own size.
WIDTH, LEFT, RIGHT = 720, 20, 700
SMALL, THICK = 13, 1.2
INK, FAINT, PALE_BLUE, PALE_ORANGE, MARK = "#1a1a1a", "#555555", "#e4f0f8", "#fdf0d2", "#a33f00"
# Looks of texts and lines, in SVG's own words.
START, BOLD, DASHED = {"text_anchor": "start"}, {"font_weight": "bold"}, {"stroke_dasharray": "4 3"}
NOTE, TITLE = {**START, "fill": FAINT}, {"font_size": 15, **BOLD}

STEP = "forward, loss, backward, clip, step, zero"

# Stage → column and row of its box, the notebook that treats it first, its title, and what happens
# there, in two lines.
STAGES = {
    "table": (0, 0, "02_template", "Table", "rows and", "columns"),
    "split": (1, 0, "03_split", "Split", "train, validation,", "test"),
    "template": (2, 0, "02_template", "Template", "turns a row", "into text"),
    "examples": (3, 0, "02_template", "Example", "prompt +", "completion"),
    "tokens": (4, 0, "04_fine_tune", "Tokens", "ids, and labels", "to learn from"),
    "model": (0, 1, "00_start_here", "Model", "predicts each", "next token"),
    "two distributions": (
        1,
        1,
        "04_fine_tune",
        "Two distributions",
        "what the model expects, and",
        "what the label says",
    ),
    "loss": (2, 1, "04_fine_tune", "Loss", "how far apart", "the two are"),
    "gradient": (3, 1, "04_fine_tune", "Gradient", "how each weight", "moves the loss"),
    "weights": (4, 1, "04_fine_tune", "Weights", "all change", "a little"),
    "train": (0, 2, "03_split", "Train", "its examples feed", "the loop above"),
    "validation": (1, 2, "05_validate", "Validation", "chooses settings", "and when to stop"),
    "test": (2, 2, "06_test", "Test", "one score,", "at the very end"),
    "new model": (3, 2, "07_instruct_model", "New model", "saved, loaded", "and used"),
}


def _short(value: str | float) -> str:
    """A number with one decimal at most: a notebook holds many."""
    return value if isinstance(value, str) else f"{value:.1f}".removesuffix(".0")


class _Drawing:
    """Shapes on a light card, collected as SVG elements. Lengths are in pixels.

    What most of them share is said once, by `svg`, and only named where it differs.
    """

    def __init__(self, height: float) -> None:
        self.height = height
        self.parts: list[str] = []

    def add(self, tag: str, words: str | None = None, **attributes: str | float | None) -> None:
        """An element; attributes that are None are left out."""
        given = {name: value for name, value in attributes.items() if value is not None}
        style = " ".join(f'{n.replace("_", "-")}="{_short(value)}"' for n, value in given.items())
        end = "/>" if words is None else f">{escape(words)}</{tag}>"
        self.parts.append(f"<{tag} {style}{end}")

    def rect(
        self, x: float, y: float, width: float, height: float, fill: str = "white", **line: Any
    ) -> None:
        place = {"x": x, "y": y, "width": width, "height": height, "rx": 4}
        self.add("rect", **place, fill=fill, **{"stroke": BLUE, **line})

    def text(self, x: float, y: float, words: str, **style: Any) -> None:
        self.add("text", words, x=x, y=y, **style)

    def cell(
        self, x: float, y: float, width: float, height: float, words: str, **style: Any
    ) -> None:
        """A rectangle with a text in its middle."""
        self.rect(x, y, width, height, **style)
        self.text(x + width / 2, y + height / 2 + 5, words)

    def arrow(self, *points: tuple[float, float], colour: str = INK) -> None:
        """A line through the points, with a head at the last one."""
        (x0, y0), (x, y) = points[-2:]
        length = math.dist((x0, y0), (x, y))
        dx, dy = 7 * (x - x0) / length, 7 * (y - y0) / length
        head = (x, y), (x - dx - dy / 2, y - dy + dx / 2), (x - dx + dy / 2, y - dy - dx / 2)
        line, head = (" ".join(f"{_short(a)},{_short(b)}" for a, b in of) for of in (points, head))
        self.add("polyline", points=line, fill="none", stroke=colour, stroke_width=1.6)
        self.add("polygon", points=head, fill=None if colour == INK else colour)

    def box(
        self, x: float, y: float, width: float, title: str, *lines: str, fill: str = PALE_BLUE
    ) -> None:
        """A box with a title in bold and lines below it."""
        self.rect(x, y, width, 32 + 18 * len(lines), fill)
        self.text(x + width / 2, y + 24, title, **TITLE)
        for number, line in enumerate(lines):
            self.text(x + width / 2, y + 43 + 17 * number, line)

    def svg(self, title: str, says: str) -> str:
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{self.height:.0f}" '
            f'viewBox="0 0 {WIDTH} {self.height:.0f}" role="img" aria-labelledby="title says" '
            'font-family="Helvetica, Arial, sans-serif" '
            f'text-anchor="middle" font-size="{SMALL}" fill="{INK}" stroke-width="{THICK}">\n'
            f'<title id="title">{escape(title)}</title>\n<desc id="says">{escape(says)}</desc>\n'
            f'<rect width="{WIDTH}" height="{self.height:.0f}" rx="8" fill="white"/>\n'
            + "\n".join(self.parts)
            + "\n</svg>\n"
        )

    def show(self, title: str, says: str, line: str = "") -> None:
        """Show the picture with `says` as its text alternative, and print `line` (or `says`)."""
        data = base64.b64encode(self.svg(title, says).encode()).decode()
        page = f'<img alt="{escape(says)}" src="data:image/svg+xml;base64,{data}">'
        display({"text/html": page, "text/plain": says}, raw=True)
        print(line or says)


def show_road(here: str | tuple[str, ...] = ()) -> None:
    """Show the whole road of the course, from a table to a new model, and print it as a line.

    here: the stage or stages of STAGES to mark with "you are here".
    """
    here = (here,) if isinstance(here, str) else here
    drawing, says = _road(here)
    line = "The road: table → split → template → prompt + completion → tokens → model → two "
    line += "distributions → loss → gradient → weights, batch after batch; then validation, test, "
    line += "new model." + (f" You are here: {', '.join(here)}." if here else "")
    drawing.show("The road of the course", says, line)


def road_svg() -> str:
    """The road as a file for README and the site, whose boxes lead to the notebooks of the site."""
    drawing, says = _road((), linked=True)
    return drawing.svg("The road of the course", says)


def _road(here: tuple[str, ...], linked: bool = False) -> tuple[_Drawing, str]:
    """The road with some stages marked, or with each box a link, and its text alternative."""
    pen = _Drawing(424)
    tops, says = (30, 174, 340), ["The road of the course."]
    for column in range(4):
        for row in (0, 1):
            x = 146 + 140 * column
            pen.arrow((x + 1, tops[row] + 34), (x + 19, tops[row] + 34))
    pen.arrow((646, 98), (646, 116), (6, 116), (6, 208), (25, 208))
    pen.rect(14, 130, 702, 174, "none", stroke=GREY, **DASHED)
    pen.text(26, 148, f"for each batch of training examples: {STEP}", **NOTE)
    pen.arrow((646, 242), (646, 272), (86, 272), (86, 244))
    pen.text(366, 292, "the changed weights are the model of the next batch", fill=FAINT)
    pen.text(26, 318, "the parts of the split, and what comes out", **NOTE)
    for x in (181, 356, 531):
        pen.arrow((x + 1, tops[2] + 34), (x + 19, tops[2] + 34))
    for stage, (column, row, notebook, title, *lines) in STAGES.items():
        width = (120, 120, 155)[row]
        x, y = 26 + (width + 20) * column, tops[row]
        marked = stage in here
        fill = PALE_ORANGE if marked else PALE_BLUE
        if linked:
            # The label, since the lines in the box would be read as one word.
            label = escape(f"{title}: {' '.join(lines)} (notebook {notebook[:2]})")
            pen.parts.append(f'<a href="notebooks/{notebook}.html" aria-label="{label}">')
        if stage == "two distributions":
            _two_distributions(pen, x, y, title, fill)
        else:
            pen.box(x, y, width, title, *lines, fill=fill)
        if linked:
            pen.parts.append("</a>")
        if marked:
            pen.rect(x, y, width, 68, "none", stroke=MARK, stroke_width=3)
            pen.rect(x + width / 2 - 50, y - 16, 100, 19, MARK, stroke=MARK)
            pen.text(x + width / 2, y - 2, "you are here", fill="white", **BOLD)
        if stage == "model":
            says.append(f"For each batch of training examples: {STEP}.")
        if stage == "train":
            says.append("The changed weights are the model of the next batch.")
        says.append(f"{title}{' (you are here)' if marked else ''}: {' '.join(lines)}.")
    return pen, " ".join(says)


def _two_distributions(pen: _Drawing, x: float, y: float, title: str, fill: str) -> None:
    """The model's distribution, which is spread, beside the label's, which is sure."""
    pen.rect(x, y, 120, 68, fill)
    pen.text(x + 60, y + 16, title, font_size=12, **BOLD)
    drawn = ("model's", (10, 15, 24, 6), BLUE), ("label's", (0, 0, 28, 0), ORANGE)
    for panel, (name, heights, colour) in enumerate(drawn):
        left = x + 7 + 56 * panel
        for number, height in enumerate(heights):
            pen.rect(left + 12 * number, y + 47 - height, 9, height + 1, colour, stroke=None)
        pen.text(left + 23, y + 62, name)


def _visible(token: str) -> str:
    """A token on one line: ␣ for a space, ⏎ for the end of a line; a long one is cut."""
    text = token.replace(" ", "␣").replace("\n", "⏎")
    text = "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
    return text if len(text) <= 20 else f"{text[:19]}…"


def _room(words: str) -> int:
    """Pixels that a text may need, in whatever font: twice as many for wide letters."""
    return sum(16 if east_asian_width(c) in "WF" or c in "MWmw@%…" else 9 for c in words)


def draw_shift(tokens: Sequence[str], n_prompt: int) -> None:
    """Draw the shift by one and the loss mask: what each position predicts, and what counts.

    tokens: the texts of an example's tokens, the prompt's first. n_prompt: how many are the
    prompt's; prompt and completion have at least one each.
    """
    words = [_visible(token) for token in tokens]
    pen, x, y = _Drawing(0), RIGHT, -76.0
    for i in range(len(tokens) - 1):
        target, labelled = words[i + 1], i + 1 >= n_prompt
        width = 14 + max(_room(words[i]), _room(target), 36)
        if x + width > RIGHT:
            x, y = 110.0, y + 94
            pen.text(LEFT, y + 18, "reads", **NOTE)
            pen.text(LEFT, y + 70, "next token", **NOTE)
        pen.cell(x, y, width, 26, words[i], fill=PALE_BLUE)
        pen.arrow((x + width / 2, y + 27), (x + width / 2, y + 51))
        if labelled:
            pen.rect(x, y + 52, width, 26, PALE_ORANGE, stroke=MARK, stroke_width=2)
        else:
            pen.rect(x, y + 52, width, 26, stroke=GREY)
            pen.rect(x, y + 52, width, 26, stroke=FAINT, **DASHED)
        pen.text(x + width / 2, y + 70, target, **(BOLD if labelled else {"fill": FAINT}))
        x += width + 8
    pen.text(LEFT, y + 104, "dashed: in the prompt, label -100, no loss", **NOTE)
    pen.text(RIGHT, y + 104, "bold: labelled, its loss counts", text_anchor="end", **BOLD)
    pen.height = y + 118
    masked = "1 next token is" if n_prompt == 2 else f"{n_prompt - 1} next tokens are"
    line = f"Shift by one: {len(tokens)} tokens make {len(tokens) - 1} predictions, each of the "
    line += f"next token. {masked} in the prompt: label -100, no loss. "
    line += f"{len(tokens) - n_prompt} labelled: {' '.join(words[n_prompt:])}."
    pen.show("Shift by one and loss mask", line)


def draw_padding(lengths: Sequence[int]) -> None:
    """Draw a batch that is padded to its longest row. lengths: tokens of each row."""
    pen, longest = _Drawing(52 + 28 * len(lengths)), max(lengths)
    for row, length in enumerate(lengths):
        y, end = 16 + 28 * row, 170 + 530 * length / longest
        pen.text(LEFT, y + 16, f"row {row + 1}: {length} tokens", **START)
        pen.rect(170, y, end - 170, 22, PALE_BLUE)
        if length < longest:
            pen.rect(end, y, RIGHT - end, 22, stroke=FAINT, **DASHED)
    pen.text(170, pen.height - 14, "blue: tokens; dashed: padding", **NOTE)
    whole, padding = longest * len(lengths), longest * len(lengths) - sum(lengths)
    line = f"{len(lengths)} rows of {', '.join(map(str, lengths))} tokens, padded to {longest}: "
    line += f"{padding} of {whole} positions ({padding / whole:.0%}) are padding."
    pen.show("Padding of a batch", line)


def draw_epoch(rows: int, batch_size: int, epochs: int) -> None:
    """Draw how rows make batches, batches steps, and steps epochs."""
    steps, shown = math.ceil(rows / batch_size), _some(epochs, 4)
    pen = _Drawing(122 + 34 * len(shown))
    pen.box(30, 16, 160, "One batch", f"{min(rows, batch_size)} rows")
    pen.arrow((191, 41), (229, 41))
    pen.box(230, 16, 460, "One step", STEP, fill=PALE_ORANGE)
    for number, epoch in enumerate(shown):
        y = 84 + 34 * number
        pen.text(LEFT + 10, y + 18, f"epoch {epoch}" if epoch else "…", **START)
        cells = _some(steps, 10) if epoch else []
        width = 590 / len(cells) if cells else 0
        for place, step in enumerate(cells):
            pen.rect(100 + width * place, y, width - 3, 26, PALE_ORANGE if step else "white")
            name = str(step + steps * (epoch - 1)) if step else "…"
            pen.text(100 + width * (place + 0.5), y + 18, name)
    pen.text(100, pen.height - 14, "numbers: optimizer steps", **NOTE)
    last = rows - batch_size * (steps - 1)
    line = f"{rows} rows in batches of {batch_size} are {steps} steps an epoch"
    line += f" (the last batch has {last})" if last < batch_size and steps > 1 else ""
    line += f"; {epochs} × {steps} = {epochs * steps} steps, and each row is seen {epochs} times."
    pen.show("Batch, step, epoch", line.replace("seen 1 times", "seen once"))


def _some(count: int, most: int) -> list[int]:
    """The numbers 1 … count, at most `most`: 0 stands for those left out in the middle."""
    if count <= most:
        return list(range(1, count + 1))
    return [*range(1, most - 1), 0, count]


def draw_backward() -> None:
    """Draw how numbers flow forward to the loss, and the gradient back to all weights."""
    pen = _Drawing(214)
    names = ("Embedding", "Layer 1", "…", "Last layer", "Logits", "Loss")
    for column, name in enumerate(names):
        x, has_weights = 15 + 117 * column, column < 4
        pen.box(x, 60, 104, name, fill=PALE_BLUE if has_weights else "white")
        if column < 5:
            pen.arrow((x + 80, 59), (x + 80, 40), (x + 141, 40), (x + 141, 59), colour=BLUE)
            pen.arrow((x + 141, 93), (x + 141, 114), (x + 80, 114), (x + 80, 93), colour=MARK)
        if has_weights:
            pen.arrow((x + 40, 93), (x + 40, 136), colour=MARK)
            pen.cell(x, 137, 104, 28, "its gradient", fill=PALE_ORANGE, stroke=MARK)
    pen.text(LEFT, 26, "forward: numbers flow to the loss", **START, fill=BLUE, **BOLD)
    pen.text(600, 134, "p − q", fill=MARK)
    back = "backward: the gradient flows back, to every weight"
    pen.text(LEFT, 192, back, **START, fill=MARK, **BOLD)
    line = "Forward: embedding → layer 1 → … → last layer → logits → loss. Backward: the gradient "
    line += "flows from the loss to the logits (there it is p − q) and through the layers in "
    line += "reverse; along the way, each weight gets its own gradient."
    pen.show("The gradient flows back", line)


def draw_window(shots: Sequence[int], tokens_per_shot: float, window: int) -> None:
    """Draw how solved examples (shots) fill the context window; longer bars are cut at the edge.

    shots: numbers of shots. tokens_per_shot: mean length of one. window: in tokens.
    """
    needed = [count * tokens_per_shot for count in shots]
    scale = 470 / (1.15 * window)
    pen = _Drawing(80 + 30 * len(shots))
    for row, (count, tokens) in enumerate(zip(shots, needed, strict=True)):
        y, fits = 40 + 30 * row, tokens < window
        name = f"{count} shot{'' if count == 1 else 's'}: {tokens:,.0f} tokens"
        pen.text(LEFT, y + 16, name, **START, **({} if fits else BOLD))
        length = min(470, scale * tokens)
        pen.rect(220, y, length, 22, PALE_BLUE if fits else PALE_ORANGE)
        if not fits:
            pen.rect(220, y, length, 22, "none", stroke=MARK, stroke_width=3)
            pen.text(228, y + 16, "too long", **START, fill=MARK, **BOLD)
        if tokens > 1.15 * window:
            pen.text(684, y + 16, "→", text_anchor="end", fill=MARK, **BOLD)
    limit = 220 + scale * window
    pen.rect(220, 32, scale * window, pen.height - 74, "none", stroke=FAINT, **DASHED)
    pen.text(limit, 24, f"window: {window:,} tokens", text_anchor="end", fill=FAINT)
    room = "The question and its answer need room, too."
    pen.text(220, pen.height - 16, room, **NOTE)
    too_long = [str(count) for count, tokens in zip(shots, needed, strict=True) if tokens >= window]
    line = f"At about {tokens_per_shot:,.0f} tokens a shot, a window of {window:,} holds about "
    line += f"{math.ceil(window / tokens_per_shot) - 1} shots before the question. Too many: "
    line += f"{', '.join(too_long)}." if too_long else f"none of {', '.join(map(str, shots))}."
    pen.show("Shots fill the context window", line)


def draw_three_ways() -> None:
    """Draw three ways to make a model do a task: a prompt, full fine-tuning, LoRA.

    LoRA: Hu et al. 2021, arXiv:2106.09685.
    """
    pen = _Drawing(276)
    ways = {
        "Prompt": ("no weight changes;", "the task is described", "in every prompt"),
        "Full fine-tuning": ("all weights change;", "the result is", "a new model"),
        "LoRA": ("the model is frozen;", "small matrices beside", "its weights are trained"),
    }
    for column, (name, lines) in enumerate(ways.items()):
        x = LEFT + 232 * column
        pen.rect(x, 14, 216, 248, stroke=GREY)
        pen.text(x + 108, 38, name, **TITLE)
        pen.cell(x + 20, 52, 176, 26, "examples + question" if name == "Prompt" else "question")
        left = x + (33 if name == "LoRA" else 58)
        for y in (90, 120, 150):
            if name == "Full fine-tuning":
                pen.cell(left, y, 100, 24, "trained", fill=PALE_ORANGE)
            else:
                pen.cell(left, y, 100, 24, "frozen", fill="#eeeeee", **DASHED)
            if name == "LoRA":
                pen.cell(left + 106, y, 44, 24, "A · B", fill=PALE_ORANGE, stroke=MARK)
        for number, line in enumerate(lines):
            pen.text(x + 108, 206 + 19 * number, line)
    line = "; ".join(f"{name}: {' '.join(words).replace(';', ',')}" for name, words in ways.items())
    pen.show("Three ways to make a model do a task", f"Three ways to a task. {line}.")


def draw_all_reduce() -> None:
    """Draw data parallelism: two processes, each with its rows and the whole model, and the sum of
    their gradients, from which both make the same step."""
    pen = _Drawing(258)
    pen.rect(266, 96, 200, 66, PALE_ORANGE, stroke=MARK)
    pen.text(366, 124, "all-reduce", **TITLE)
    pen.text(366, 146, "sum of gradients")
    for number, x in enumerate((LEFT, 502)):
        pen.box(x, 14, 216, f"Process {number}", f"rows {number}, {number + 2}, {number + 4} …")
        pen.cell(x + 20, 92, 176, 30, "the whole model", fill=PALE_BLUE)
        pen.cell(x + 20, 150, 176, 30, "its gradient", fill=PALE_ORANGE)
        pen.cell(x + 20, 212, 176, 30, "the same step")
        for top in (64, 122):
            pen.arrow((x + 108, top), (x + 108, top + 28))
        inner, edge = (x + 196, 266) if number == 0 else (x + 20, 466)
        pen.arrow((inner, 165), ((inner + edge) / 2, 165), ((inner + edge) / 2, 146), (edge, 146))
        below = 320 if number == 0 else 412
        pen.arrow((below, 162), (below, 227), (inner, 227))
    line = "Two processes. Each has its own rows of the batch and the whole model, and finds its "
    line += "own gradient. All-reduce gives both the sum of the gradients, so both make the same "
    pen.show("Data parallelism", line + "step.")


def draw_parts(sizes: Mapping[str, int]) -> None:
    """Draw train, validation and test, in proportion, and what each is for. sizes: part → rows."""
    uses = (
        ("train", "changes the weights", PALE_BLUE),
        ("validation", "chooses settings", PALE_ORANGE),
        ("test", "gives one score, at the end", "#dddddd"),
    )
    pen, x, parts = _Drawing(140), float(LEFT), []
    for column, (part, use, fill) in enumerate(uses):
        share = sizes[part] / sum(sizes.values())
        width, left = 680 * share, LEFT + 230 * column
        pen.rect(x, 16, width, 34, fill, stroke=INK)
        x += width
        pen.rect(left, 70, 14, 14, fill, stroke=INK)
        pen.text(left + 22, 83, part, **START, **TITLE)
        pen.text(left, 105, f"{sizes[part]:,} rows ({share:.0%})", **START)
        pen.text(left, 124, use, **START)
        parts.append(f"{part} ({sizes[part]:,} rows, {share:.0%}) {use}")
    pen.show("Train, validation, test", f"The three parts: {'; '.join(parts)}.")
