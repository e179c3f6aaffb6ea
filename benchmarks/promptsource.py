"""How many PromptSource templates the course can use: `python -m benchmarks.promptsource FOLDER`.

FOLDER holds a copy of the collection. Its tables would have to be downloaded, so rows are made up
at random, always the same ones. A template counts if it renders one of up to 1,000 rows.
"""

import random
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from jinja2 import Environment, nodes

from helpers.data.templates import Template, TemplateError, load_templates

ITEM, TEXT = 0, 1  # in the path to a value, beside keys: an item of a list; a text


def made_up_rows(template: Template) -> Iterator[dict[str, object]]:
    """Rows that have lists, keys and texts where the template looks for them."""
    tree = Environment().parse("\n".join((template.prompt, *template.choices)))
    words = ["A lamp.", "B", "1", *(str(one.value) for one in tree.find_all(nodes.Const))]
    called = {call.node for call in tree.find_all(nodes.Call)}
    loops: dict[str, tuple] = {}  # variable of a loop → path

    def path(node: nodes.Node) -> tuple:
        """(column, key or ITEM, ...), as in answers.text[0]; () for what is no part of a column."""
        match node:
            case nodes.Name():
                return loops.get(node.name, (node.name,))
            case nodes.Getattr(attr=key) | nodes.Getitem(arg=nodes.Const(value=str(key))):
                text = node in called and hasattr("", key)
                return (*path(node.node), TEXT if text else key)
            case nodes.Getitem():
                return (*path(node.node), ITEM)
            case nodes.Filter(name="selectattr"):
                return (*path(node.node), ITEM, node.args[0].value)
            case nodes.Filter(name="map" | "sort"):
                keys = [one.value.value for one in node.kwargs if one.key == "attribute"]
                return (*path(node.node), ITEM, *keys)
        return path(node.node) if isinstance(node, nodes.Filter) else ()

    for loop in tree.find_all(nodes.For):
        loops[getattr(loop.target, "name", "")] = (*path(loop.iter), ITEM)
    known = [*map(path, tree.find_all(nodes.Expr)), *loops.values()]

    def value(here: tuple) -> object:
        inside = {one[len(here)] for one in known if one[: len(here)] == here != one}
        if keys := sorted(inside - {ITEM, TEXT}):
            return {key: value((*here, key)) for key in keys}
        if TEXT not in inside and random.random() < (0.8 if ITEM in inside else 0.1):
            return [value((*here, ITEM)) for _ in range(random.randint(1, 5))]
        texts = [random.choice(words), " ".join(random.choices(words, k=random.randint(2, 6)))]
        return random.choice(texts if TEXT in inside else [*texts, random.randrange(5)])

    random.seed(0)
    for _ in range(1000):
        yield {field: value((field,)) for field in sorted(template.fields)}


def refusal(template: Template) -> str:
    """Why no made-up row becomes an example, most often; "" if one does."""
    reasons: Counter[str] = Counter()
    for row in made_up_rows(template):
        try:
            return template.render(row) and ""
        except TemplateError as error:  # without names, and without what to do
            said = str(error).split(" row (without row_id), ")[-1].split(". ")[0]
            reasons[re.sub(r"(?<=choices): .*|'.*?'|\(line.*?\) |\d", "…", said)] += 1
    return reasons.most_common(1)[0][0]


if __name__ == "__main__":
    files = sorted(Path(sys.argv[1]).rglob("templates.yaml"))
    reasons = Counter(refusal(one) for file in files for one in load_templates(file).values())
    of, used = reasons.total(), reasons.pop("", 0)
    print(f"{len(files)} files load; {used} of {of} templates render ({used / max(of, 1):.1%}).")
    print(*(f"{number:4} {reason}" for reason, number in reasons.most_common()), sep="\n")
