"""Templates turn a row of the table into a prompt and the completion that is asked for.

A template library is a YAML file: one task in several wordings. Prompts and completions are Jinja
templates. A library may come from anywhere, so only a part of Jinja is admitted, within Jinja's
sandbox: a template can read the fields of a row and nothing else, and it cannot repeat anything,
so that it always ends soon.

PromptSource's files (templates.yaml) are read too, see
https://github.com/bigscience-workshop/promptsource for their format. Those of its templates that
loop, assign or call are refused by name; a third does, mostly for fields that hold lists.
"""

import random
import re
import reprlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache, wraps
from pathlib import Path
from typing import Any

import jinja2
import yaml
from jinja2 import nodes
from jinja2.filters import FILTERS
from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError

from helpers.errors import CourseError
from helpers.table import Row, listed

TEMPLATES = Path(__file__).resolve().parents[1] / "data" / "templates"

# Longest text that a template may make or read, in characters: more than any context window here.
LONGEST = 50_000
# Longest template, with its choices, and longest library. PromptSource's longest: 2,900 and 17,000.
LONGEST_SOURCE = 5_000
LONGEST_LIBRARY = 100_000

SEPARATOR = "|||"  # PromptSource's sign between prompt and completion, and between choices


class TemplateError(CourseError):
    """A template that cannot be used. The message names the template and the field."""


@dataclass(frozen=True)
class Example:
    """What a model is asked, and what it should answer.

    prompt: ends in no space; encoding puts one space between prompt and completion.
    completion: without space around it.
    row_id: review_id of the row it was made from.
    choices: the completions that are allowed; empty where the answer is free.
    """

    prompt: str
    completion: str
    row_id: str
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Template:
    """One wording of one task.

    prompt, completion: Jinja source. Both may use the fields of the row and `choices`, a list
        (PromptSource calls it `answer_choices`), as in "{{ choices[star_rating - 1] }}".
    choices: the allowed completions, Jinja source as well; empty where the answer is free.
    metrics: names of modules in helpers/metrics.
    """

    task: str
    name: str
    prompt: str
    completion: str
    choices: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()

    @property
    def prompt_fields(self) -> frozenset[str]:
        """Columns that the prompt uses."""
        return _fields(self, "prompt", self.prompt)

    @property
    def completion_fields(self) -> frozenset[str]:
        """Columns that the completion uses."""
        return _fields(self, "completion", self.completion)

    @property
    def fields(self) -> frozenset[str]:
        """All columns that the template uses, those of its choices included."""
        in_choices = [_fields(self, "choices", choice) for choice in self.choices]
        return self.prompt_fields | self.completion_fields | frozenset().union(*in_choices)


def load_library(path: str | Path) -> dict[str, Template]:
    """The templates of a library by name, in the order of the file.

    Reads the course's own format and PromptSource's; which one it is, the content tells. A
    PromptSource template whose halves cannot be told apart is loaded with an empty completion,
    and check_template refuses it by name: the rest of its file can still be used.

    Raises TemplateError: no such file, no YAML, more than LONGEST_LIBRARY characters or
    LONGEST_SOURCE in one text, an unknown or missing key, a value of the wrong type, two templates
    of one name.
    """
    path = Path(path)
    try:
        with path.open(encoding="utf-8-sig") as file:
            text = file.read(LONGEST_LIBRARY + 1)
    except FileNotFoundError:
        there = ", ".join(file.name for file in sorted(path.parent.glob("*.yaml"))) or "none"
        raise TemplateError(
            f"There is no template library {path}. Template files in that folder: {there}."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise TemplateError(
            f"The template library {path} cannot be read: {error}. It must be a text in UTF-8."
        ) from None
    if len(text) > LONGEST_LIBRARY:
        raise TemplateError(
            f"The template library {path} has more than {LONGEST_LIBRARY:,} characters, which no "
            "library of wordings needs. Divide it into several files, or name another one."
        )
    try:
        library = yaml.load(text, Loader=_Loader)
    # PyYAML fails in many ways: a date such as 2026-99-99 is a ValueError.
    except Exception as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error) or "it is no YAML"
        raise TemplateError(
            f"The template library {path}{line} cannot be read: {' '.join(problem.split())}. "
            "Compare it with "
            "data/templates/opinion.yaml; a text that holds a colon or a brace stands in quotes "
            "or below a |- sign."
        ) from None
    if not isinstance(library, dict):
        raise TemplateError(
            f"The template library {path} holds no mapping. Its keys must be task, metrics, "
            "templates and, where answers are chosen, choices."
        )
    if "dataset" in library:
        templates = _read_promptsource(path, library)
    else:
        templates = _read_own(path, library)
    doubled = [name for name, n in Counter(one.name for one in templates).items() if n > 1]
    if doubled:
        raise TemplateError(
            f"The template library {path} has more than one template named {listed(doubled[:1])}. "
            "Rename one of them."
        )
    return {template.name: template for template in templates}


def check_template(template: Template, columns: Iterable[str]) -> None:
    """Refuse a template that does not fit a table with these columns.

    Raises TemplateError: Jinja that cannot be read, an empty completion, an unknown field, or a
    leak, which is a field that the completion uses and the prompt shows as well.
    """
    columns = sorted(columns)
    if not template.completion.strip():
        raise TemplateError(
            f"{_named(template)} has no completion. Write what the model should answer; in a "
            f"PromptSource file it stands after {SEPARATOR}, which must occur once, outside of "
            "any Jinja block."
        )
    unknown = sorted(template.fields - set(columns))
    if unknown:
        raise TemplateError(
            f"{_named(template)} uses the field {', '.join(unknown)}, which the table does not "
            f"have. Its columns are: {listed(columns)}. Correct the name in the template."
        )
    leaked = sorted(template.prompt_fields & template.completion_fields)
    if leaked:
        raise TemplateError(
            f"{_named(template)} leaks its answer: the field {', '.join(leaked)} decides the "
            "completion and is used in the prompt as well, so that the model could copy it. "
            "Take it out of the prompt."
        )


def told_by(column: Sequence[object], answers: Sequence[str]) -> float:
    """How much a column gives away: the share of rows whose answer it tells, 0 to 1.

    For each row, guess the commonest answer among the *other* rows with the same value in the
    column. Where no other row has that value, there is no guess, and it is not told.
    """
    told = 0
    for place, value in enumerate(column):
        others = Counter(
            answers[other] for other, same in enumerate(column) if same == value and other != place
        )
        told += bool(others) and others.most_common(1)[0][0] == answers[place]
    return told / len(column)


def render(template: Template, row: Row) -> Example:
    """The example that a template makes of one row.

    Raises TemplateError: unknown field, Jinja that fails or is not admitted, more than LONGEST
    characters read or made, an empty prompt or completion, a prompt that ends in a space, a
    completion that is none of the choices.
    """
    unknown = sorted(template.fields - row.keys())
    if unknown:
        check_template(template, row)
    choices = tuple(
        choice.strip()
        for source in template.choices
        for choice in _render(template, "choices", source, row, ()).split(SEPARATOR)
    )
    prompt = _render(template, "prompt", template.prompt, row, choices)
    completion = _render(template, "completion", template.completion, row, choices)
    row_id = str(row.get("review_id", ""))
    where = f"{_named(template)}, row {row_id or '(without review_id)'},"
    if not completion.strip():
        raise TemplateError(
            f"{where} gives an empty completion; there is nothing to learn from it. Leave out "
            f"the rows whose {_listed(template.completion_fields)} is empty."
        )
    if not prompt.strip():
        raise TemplateError(
            f"{where} gives an empty prompt. Leave out the rows whose "
            f"{_listed(template.prompt_fields)} is empty, or add words to the prompt."
        )
    if prompt != prompt.rstrip(" \t\xa0"):
        raise TemplateError(
            f"{where} gives a prompt that ends in a space: {prompt[-30:]!r}. Delete the space; "
            "the one between prompt and completion is put there when both are encoded."
        )
    if completion != completion.strip():
        raise TemplateError(
            f"{where} gives a completion with space around it: {completion[:30]!r}. Delete that "
            "space; the one between prompt and completion is put there when both are encoded."
        )
    if choices and completion not in choices:
        raise TemplateError(
            f"{where} gives the completion {completion[:40]!r}, which is none of its choices: "
            f"{listed(choices)}. Correct the choices, or leave out the row."
        )
    return Example(prompt, completion, row_id, choices)


def make_examples(template: Template, rows: Sequence[Row]) -> list[Example]:
    """One example for each row, in order; the template is checked first.

    Raises TemplateError as check_template and render do.
    """
    if rows:
        check_template(template, rows[0])
    return [render(template, row) for row in rows]


def as_chat(example: Example, tokenizer: Any) -> Example:
    """The example with its prompt as a user's message in the tokenizer's chat template.

    The new prompt ends where the assistant's answer begins.

    Raises TemplateError: a tokenizer without a chat template.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise TemplateError(
            "This tokenizer has no chat template: its model was not tuned for chats. "
            "Use the prompt as it is, without as_chat."
        )
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": example.prompt}], tokenize=False, add_generation_prompt=True
    )
    return Example(prompt, example.completion, example.row_id, example.choices)


# Jinja
#
# A template may come from a stranger, so it must end soon and stay small. Nothing that is admitted
# repeats, calls or assigns. What a template reads, and what each operation makes, has at most
# LONGEST characters. So the work is at most the length of the template times LONGEST.

_ADMITTED = (
    *(nodes.Template, nodes.Output, nodes.TemplateData, nodes.FilterBlock, nodes.If),
    *(nodes.Name, nodes.Const, nodes.List, nodes.Tuple, nodes.Dict, nodes.Pair, nodes.Keyword),
    *(nodes.CondExpr, nodes.Compare, nodes.Operand, nodes.And, nodes.Or, nodes.Not, nodes.Test),
    *(nodes.Add, nodes.Sub, nodes.Mul, nodes.Div, nodes.FloorDiv, nodes.Mod, nodes.Neg, nodes.Pos),
    *(nodes.Getitem, nodes.Slice, nodes.Filter),
)
_TESTS = ("defined", "none", "number", "string", "odd", "even", "true", "false")
_DIGITS = 15
_DEEPEST = 20


class _TooLong(SecurityError):
    """A template or a text beyond its limit."""


class _Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's sandbox without any attribute, and with sums that cannot fill the memory."""

    intercepted_binops = frozenset(["+", "-", "*", "/", "//", "%"])

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        # A text times a number could fill the memory at once, and so could % with a wide format.
        if operator != "+":
            for one in (left, right):
                if not isinstance(one, int | float) or abs(one) >= 10**_DIGITS:
                    raise SecurityError(
                        f"{operator} is allowed between numbers of at most {_DIGITS} digits only"
                    )
        return _short(super().call_binop(context, operator, left, right))

    # field["name"] may find an element of the field, and never an attribute such as str.format.

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        return False

    def wrap_str_format(self, value: Any) -> None:
        return None


def _limit(length: int) -> None:
    if length > LONGEST:
        raise _TooLong(f"it reads or makes a text of more than {LONGEST:,} characters")


def _short(value: Any) -> Any:
    """The value itself, if it is not too long as a text."""
    _limit(len(str(value)))
    return value


def _bounded(work: Callable) -> Callable:
    """The filter, refused where its result is too long."""

    @wraps(work)  # also copies Jinja's mark that a filter wants the context
    def bounded(*args: Any, **kwargs: Any) -> Any:
        return _short(work(*args, **kwargs))

    return bounded


# join and replace multiply lengths, so they look before they make the text.


def _join(items: Iterable[Any], separator: Any = "") -> str:
    texts = [str(item) for item in items]
    _limit(len(texts) * len(str(separator)))
    return str(separator).join(texts)


def _replace(text: Any, old: Any, new: Any) -> str:
    _limit(str(text).count(str(old)) * len(str(new)))
    return str(text).replace(str(old), str(new))


def _round(number: Any, precision: int = 0) -> float:
    # Jinja's own takes 10 ** precision, which could fill the memory.
    return round(float(number), precision)


@jinja2.pass_context
def _choice(context: Any, items: Sequence[Any]) -> Any:
    """PromptSource's filter `choice`: one of the items, always the same one for the same row."""
    return random.Random(context.parent[_SEED]).choice(items)


def _most_frequent(items: Sequence[Any]) -> list[Any]:
    """PromptSource's filter `most_frequent`: those items that occur most often."""
    counts = Counter(items)
    most = max(counts.values(), default=0)
    return [item for item, count in counts.items() if count == most]


def _make_sandbox() -> _Sandbox:
    sandbox = _Sandbox(undefined=jinja2.StrictUndefined)
    sandbox.globals = {}
    own = {"join": _join, "replace": _replace, "round": _round}
    own |= {"choice": _choice, "most_frequent": _most_frequent}
    names = "capitalize default first float int last length lower title trim upper".split()
    filters = {name: FILTERS[name] for name in names} | own
    sandbox.filters = {name: _bounded(work) for name, work in sorted(filters.items())}
    sandbox.tests = {name: sandbox.tests[name] for name in _TESTS}
    return sandbox


_SANDBOX = _make_sandbox()
_CHOICES = ("choices", "answer_choices")
_SEED = "the seed of this row"  # no name that a template could spell


@lru_cache(maxsize=512)
def _compiled(source: str) -> tuple[jinja2.Template, tuple[str, ...]]:
    """The template, and the names that it reads, each as often as it stands there."""
    tree = _SANDBOX.parse(source)
    names = []
    waiting: list[tuple[nodes.Node, int]] = [(tree, 0)]
    while waiting:
        node, depth = waiting.pop()
        waiting += [(child, depth + 1) for child in reversed([*node.iter_child_nodes()])]
        if not isinstance(node, _ADMITTED):
            _refuse(node, _written(node))
        if isinstance(node, nodes.Filter) and node.name not in _SANDBOX.filters:
            _refuse(node, f"the filter {node.name}")
        if isinstance(node, nodes.Test) and node.name not in _SANDBOX.tests:
            _refuse(node, f"the test 'is {node.name}'")
        if depth > _DEEPEST:
            _refuse(node, f"nesting of more than {_DEEPEST} levels")
        if isinstance(node, nodes.Name):
            names.append(node.name)
    return _SANDBOX.from_string(tree), tuple(names)


def _refuse(node: nodes.Node, what: str) -> None:
    error = SecurityError(f"{what} is not allowed")
    error.lineno = node.lineno
    raise error


def _written(node: nodes.Node) -> str:
    """A part of Jinja as its author wrote it."""
    if isinstance(node, nodes.Call):
        name = getattr(node.node, "attr", None) or getattr(node.node, "name", "")
        return f"the call {name}()"
    if isinstance(node, nodes.Getattr):
        return f"the attribute .{node.attr}"
    signs = {"Pow": "the power **", "Concat": "the sign ~"}
    words = {"Assign": "set", "AssignBlock": "set", "FromImport": "from", "CallBlock": "call"}
    kind = type(node).__name__
    return signs.get(kind) or f"{{% {words.get(kind, kind.lower())} %}}"


def _prepare(template: Template, source: str) -> tuple[jinja2.Template, tuple[str, ...]]:
    length = len(template.prompt) + len(template.completion) + sum(map(len, template.choices))
    if length > LONGEST_SOURCE:
        raise _TooLong(
            f"the template has {length:,} characters, and {LONGEST_SOURCE:,} is the most"
        )
    return _compiled(source)


def _fields(template: Template, part: str, source: str) -> frozenset[str]:
    try:
        # Nothing is assigned, so every other name is a field.
        return frozenset(_prepare(template, source)[1]) - {*_CHOICES}
    except Exception as error:
        raise _failed(template, part, error) from None


def _render(template: Template, part: str, source: str, row: Row, choices: tuple[str, ...]) -> str:
    pieces, length = [], 0
    try:
        compiled, names = _prepare(template, source)
        seed = random.Random(repr(sorted(row.items()))).random()
        values = dict(row) | dict.fromkeys(_CHOICES, list(choices)) | {_SEED: seed}
        _limit(sum(len(str(values[name])) for name in names))
        for piece in compiled.generate(values):
            pieces.append(piece)
            length += len(piece)
            _limit(length)
    # Whatever goes wrong while a template is rendered, the template is at fault.
    except Exception as error:
        raise _failed(template, part, error) from None
    return "".join(pieces)


def _failed(template: Template, part: str, error: Exception) -> TemplateError:
    line = getattr(error, "lineno", None)
    where = f" (line {line} of it)" if line else ""
    hint = "Correct the Jinja between its braces."
    if isinstance(error, _TooLong):
        hint = "Shorten it, or leave out the rows that are so long."
    elif isinstance(error, SecurityError):
        hint = (
            "A template may hold text, the fields of a row, if, comparisons, sums, and fields "
            f"changed by a filter, as in {{{{ field | lower }}}}: {', '.join(_SANDBOX.filters)}."
        )
    elif re.search("list object'? has no", str(error)):
        hint = "Count from 0; a field that is text must be made a number first: field | int."
    problem = " ".join(str(error).split()).rstrip(".")[:300] or type(error).__name__
    return TemplateError(f"{_named(template)}: its {part}{where} fails: {problem}. {hint}")


def _named(template: Template) -> str:
    return f"Template {template.name[:80]!r} of task {template.task[:80]!r}"


def _listed(fields: frozenset[str]) -> str:
    return " and ".join(sorted(fields)) or "text"


# YAML


class _Loader(yaml.SafeLoader):
    """YAML without Python objects; PromptSource's two tags are read as plain mappings."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        # A few lines of merges of merges would fill the memory.
        if any(key.tag == "tag:yaml.org,2002:merge" for key, _ in node.value):
            problem = "the merge key << is not allowed; write the keys out"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        # Python refuses to print a number of more than 4,300 digits.
        return int(repr(super().construct_yaml_int(node)))


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
for _tag in ("!Template", "!TemplateMetadata"):
    _Loader.add_constructor(_tag, lambda loader, node: loader.construct_mapping(node, deep=True))


def _read_own(path: Path, library: dict) -> list[Template]:
    _check_keys(path, "the library", library, {"task", "metrics", "templates"}, {"choices"})
    task = _text(path, "task", library["task"])
    metrics = _texts(path, "metrics", library["metrics"])
    choices = _texts(path, "choices", library.get("choices") or [])
    if not isinstance(library["templates"], list) or not library["templates"]:
        raise TemplateError(
            f"The template library {path}: templates must be a list of at least one template, "
            "each with name, prompt and completion."
        )
    templates = []
    for place, entry in enumerate(library["templates"], start=1):
        _check_keys(path, f"template {place}", entry, {"name", "prompt", "completion"}, set())
        name, prompt, completion = (
            _text(path, f"{key} of template {place}", entry[key])
            for key in ("name", "prompt", "completion")
        )
        templates.append(Template(task, name, prompt, completion, choices, metrics))
    return templates


def _read_promptsource(path: Path, library: dict) -> list[Template]:
    entries = library.get("templates")
    if not isinstance(entries, dict):
        raise TemplateError(
            f"The template library {path} names a dataset, as PromptSource's files do, and has "
            "no mapping of templates. Download the file again."
        )
    names = [_text(path, key, library[key]) for key in ("dataset", "subset") if library.get(key)]
    templates = []
    for entry in entries.values():
        if not isinstance(entry, dict) or not {"name", "jinja"} <= entry.keys():
            raise TemplateError(
                f"The template library {path} has an entry without name or jinja. "
                "Download the file again, or delete that entry."
            )
        name = _text(path, "the name of a template", entry["name"])
        prompt, completion = _halves(_text(path, f"the jinja of {listed([name])}", entry["jinja"]))
        choices = entry.get("answer_choices") or []
        if isinstance(choices, str):
            choices = _split_choices(choices)
        metadata = entry.get("metadata")
        metrics = (metadata.get("metrics") if isinstance(metadata, dict) else None) or []
        templates.append(
            Template(
                "/".join(names),
                name,
                prompt,
                completion,
                _texts(path, f"the answer_choices of {listed([name])}", choices),
                _texts(path, f"the metrics of {listed([name])}", metrics),
            )
        )
    return templates


_GUARD = re.compile(r"\s*(\{%-?\s*if\b(?:(?!%\}).)*%\})(.*)(\{%-?\s*endif\s*-?%\})\s*", re.DOTALL)


def _halves(jinja: str) -> tuple[str, str]:
    """Prompt and completion of a PromptSource template, trimmed as PromptSource does.

    Many of its templates stand as a whole in one {% if %}, which leaves out rows without an
    answer. The condition then goes with the completion: for such a row it is empty, and refused.
    """
    guard = _GUARD.fullmatch(jinja)
    for opening, whole, closing in [("", jinja, "")] + ([guard.groups()] if guard else []):
        halves = whole.split(SEPARATOR)
        if len(halves) == 2 and all(_parses(half) for half in halves):
            prompt, completion = (half.strip() for half in halves)
            return _trimmed(prompt), _trimmed(f"{opening}{completion}{closing}")
    return jinja, ""


def _split_choices(jinja: str) -> list[str]:
    """Choices that are written one by one, or the whole where one Jinja block makes them all."""
    choices = [choice.strip() for choice in jinja.split(SEPARATOR)]
    return choices if all(_parses(choice) for choice in choices) else [jinja]


def _parses(source: str) -> bool:
    try:
        _SANDBOX.parse(source)
    except Exception:  # more than a TemplateSyntaxError: a number of 5,000 digits is a ValueError
        return False
    return True


def _trimmed(source: str) -> str:
    """The source, such that space which its blocks leave around the text is cut away."""
    return "{% filter trim %}" + source + "{% endfilter %}" if "{%" in source else source


def _check_keys(path: Path, what: str, entry: Any, needed: set[str], allowed: set[str]) -> None:
    keys = {str(key) for key in entry} if isinstance(entry, dict) else set()
    if missing := sorted(needed - keys):
        raise TemplateError(
            f"The template library {path}: {what} lacks {', '.join(missing)}. "
            f"It needs {', '.join(sorted(needed))}."
        )
    if unknown := sorted(keys - needed - allowed):
        raise TemplateError(
            f"The template library {path}: {what} has the unknown key {listed(unknown)}. "
            f"The known ones are {', '.join(sorted(needed | allowed))}."
        )


def _text(path: Path, what: str, value: Any) -> str:
    if not isinstance(value, str):
        raise TemplateError(
            f"The template library {path}: {what} is {reprlib.repr(value)[:60]}, which is no text "
            "to YAML. Put it in quotes."
        )
    if len(value) > LONGEST_SOURCE:
        raise TemplateError(
            f"The template library {path}: {what} has {len(value):,} characters, and "
            f"{LONGEST_SOURCE:,} is the most. Shorten it."
        )
    return value


def _texts(path: Path, what: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise TemplateError(f"The template library {path}: {what} must be a list, as in [a, b].")
    texts = tuple(_text(path, what, one) for one in value)
    if len(set(texts)) < len(texts):
        raise TemplateError(
            f"The template library {path}: {what} names something twice. Each must differ."
        )
    return texts
