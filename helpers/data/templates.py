"""Templates turn a row of a table into a prompt and the completion that is asked for.

A template is Jinja text, rendered in Jinja's own sandbox. It is stricter than Jinja wherever Jinja
would silently make a wrong example: a missing field, a text that should be a number but is not, a
negative index, an empty cell that prints as "None".

PromptSource's files are read too, with their own helpers: `choice`, `most_frequent`,
`answer_choices`, and `|||` between prompt and completion. Their format:
https://github.com/bigscience-workshop/promptsource/blob/main/API_DOCUMENTATION.md
"""

import copy
import numbers
import random
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from statistics import multimode
from typing import Any

import jinja2.meta
import yaml
from jinja2 import nodes
from jinja2.filters import FILTERS
from jinja2.sandbox import SandboxedEnvironment

from helpers.data.tokenize import separator
from helpers.errors import CourseError, format_names

LIBRARIES = Path(__file__).resolve().parents[2] / "data" / "templates"
HALVES = "|||"  # PromptSource's sign between prompt and completion, and between choices
_CUT = "\0|||\0"  # the same sign in a template's own text, told apart from one in a cell
_CHOICES = frozenset({"choices", "answer_choices"})
_DRAW = "the random numbers of this row"  # no name that a template could spell


class TemplateError(CourseError):
    """A template that cannot be used, or not with this row. The message names both."""


class NoExample(TemplateError):
    """A row of which the template makes no example, because its answer is empty."""


@dataclass(frozen=True)
class Template:
    """One way to ask for the answer.

    prompt, completion: Jinja source, which may use the columns of the table and `choices` (or
        `answer_choices`, which is the same list), as in "{{ choices[star_rating - 1] }}".
        A template in PromptSource's format has both in `prompt`, with ||| between them.
    choices: the allowed answers, if they differ from the task's; Jinja as well, for each row anew.
    may_copy: fields that the prompt may show although the answer is made from them, as when a
        text is to be corrected.
    """

    name: str
    prompt: str
    completion: str = ""
    choices: tuple[str, ...] = ()
    may_copy: tuple[str, ...] = ()

    @property
    def whole(self) -> bool:
        """Whether prompt and completion are one text, as PromptSource has them."""
        return not self.completion and HALVES in self.prompt

    @cached_property
    def prompt_fields(self) -> frozenset[str]:
        """Columns that the prompt uses."""
        names = self._names("prompt", self.prompt)
        return names & _names_by_half(self.prompt)[0] if self.whole else names

    @property
    def shown_fields(self) -> frozenset[str]:
        """The columns of which a model sees something. In PromptSource's files, a condition around
        both halves may name the column of the answer: that is not among them."""
        if not self.whole:
            return self.prompt_fields
        shown = self.prompt_fields & _names_by_half(self.prompt)[2]
        return shown or self.prompt_fields - self.completion_fields

    @cached_property
    def completion_fields(self) -> frozenset[str]:
        """Columns that the completion uses."""
        if self.whole:
            return self._names("prompt", self.prompt) & _names_by_half(self.prompt)[1]
        return self._names("completion", self.completion)

    @cached_property
    def fields(self) -> frozenset[str]:
        """All columns that the template uses, those of its choices included."""
        in_choices = (self._names("choices", choice) for choice in self.choices)
        whole = self._names("prompt", self.prompt)
        return whole.union(self.completion_fields, *in_choices)

    def check(self, columns: Iterable[str]) -> None:
        """Refuse the template if it does not fit a table with these columns.

        Raises TemplateError: Jinja that cannot be read, no completion, an unknown field, a prompt
        or a completion that uses no field, a field in Python's braces, or a leak: a field that
        decides the completion and stands in the prompt as well. (PromptSource's format has no
        may_copy, and a seventh of its templates share a field with good reason, such as a list
        of answers: leaks are not looked for in them.)
        """
        named, columns = f"Template {self.name!r}", sorted(columns)
        if not self.whole and not self.completion.strip():
            raise TemplateError(
                f"{named} has no completion. Write what the model should answer; in a PromptSource "
                f"file it stands after {HALVES}."
            )
        self._require(self.fields, columns)
        parts = {"prompt": self.prompt_fields, "completion": self.completion_fields}
        if self.whole:  # a loop or a condition may hide where its prompt ends
            parts = {"prompt": self.fields}
        for part, fields in parts.items():
            braces = re.findall(r"(?<!\{)\{\s*(\w+)\s*\}(?!\})", getattr(self, part))
            single = [name for name in braces if name in columns]
            if single or not fields:
                problem = f"has {{{single[0]}}} in single braces" if single else "uses no column"
                raise TemplateError(
                    f"{named}: its {part} {problem}, so it would say the same for every row. Jinja "
                    f"takes double braces: {{{{ {(single or columns or ['field'])[0]} }}}}. The "
                    f"columns of the table are: {format_names(columns)}."
                )
        leaked = sorted(self.prompt_fields & self.completion_fields - {*self.may_copy})
        if leaked and not self.whole:
            raise TemplateError(
                f"{named} leaks its answer: the field {', '.join(leaked)} decides the completion "
                "and is used in the prompt as well, so the model could copy it. Take it out of the "
                "prompt. If copying is the task, as in correcting a text, name the field in "
                "may_copy."
            )

    def render(self, row: Mapping[str, Any], choices: Sequence[str] = ()) -> dict[str, Any]:
        """The row as one example.

        choices: the task's answers, used where the template brings none of its own.
        Returns prompt, answer (the bare text), completion (the answer, with the space before it
        that separates it from the prompt) and, where there are any, choices (a list).

        Raises NoExample for a row with an empty answer, and TemplateError for all that `check`
        refuses, Jinja that fails, an empty prompt, space at the end of the prompt or around the
        answer, and an answer that is none of the choices.
        """
        self.check(row.keys())
        where, values, allowed = self._values(row, choices)
        prompt = self._fill("prompt", self.prompt, values, where)
        if self.whole:
            prompt, *answers = [half.strip() for half in prompt.split(_CUT)]
            if not answers:
                raise NoExample(f"{where} gives no example: its condition leaves this row out.")
            if len(answers) > 1:
                parts = len(answers) + 1
                raise TemplateError(f"{where} gives {parts} parts; {HALVES} must occur once.")
            answer = answers[0]
        else:
            answer = self._fill("completion", self.completion, values, where)
        self._check_text(answer, "completion", where)
        self._check_text(prompt, "prompt", where)
        if allowed and answer not in allowed:
            raise TemplateError(
                f"{where} gives the completion {answer[:40]!r}, which is none of its choices: "
                f"{format_names(allowed)}. Correct the choices, or leave out the row."
            )
        example = {"prompt": prompt, "completion": separator(prompt) + answer, "answer": answer}
        return example | ({"choices": allowed} if allowed else {})

    def question(self, row: Mapping[str, Any], choices: Sequence[str] = ()) -> dict[str, Any]:
        """The prompt (and choices, if any) for a row whose answer need not be known.

        Raises TemplateError as `render` does; the columns of the completion may be missing.
        """
        known = self.fields if self.whole else self.fields - self.completion_fields
        self._require(known | self.prompt_fields, row.keys())
        where, values, allowed = self._values(row, choices)
        prompt = self._fill("prompt", self.prompt, values, where).split(_CUT)[0]
        prompt = prompt.strip() if self.whole else prompt
        self._check_text(prompt, "prompt", where)
        return {"prompt": prompt} | ({"choices": allowed} if allowed else {})

    def _values(
        self, row: Mapping[str, Any], choices: Sequence[str]
    ) -> tuple[str, dict[str, Any], list[str]]:
        """How an error message begins, what the template may use, and the allowed answers."""
        where = f"Template {self.name!r}, row {row.get('row_id') or '(without row_id)'},"
        values = copy.deepcopy(dict(row))  # Jinja can change a list of the row (append, pop)
        values[_DRAW] = random.Random(repr([(name, row.get(name)) for name in sorted(self.fields)]))
        allowed = [
            choice.strip()
            for source in self.choices or choices
            for choice in self._fill("choices", source, values, where).split(_CUT)
        ]
        if allowed:
            values["answer_choices"] = allowed
            if not self.whole:  # in PromptSource's format, choices is the name of a column
                values["choices"] = allowed
        return where, values, allowed

    def _require(self, fields: frozenset[str], columns: Iterable[str]) -> None:
        if unknown := sorted(fields - {*columns}):
            raise TemplateError(
                f"Template {self.name!r} uses the field {', '.join(unknown)}, which the table does "
                f"not have. Its columns are: {format_names(sorted(columns))}. Correct the name in "
                "the template."
            )

    def _names(self, part: str, source: str) -> frozenset[str]:
        try:
            names = _undeclared(source)
        except jinja2.TemplateError as error:
            raise self._failed(f"Template {self.name!r}:", part, error) from None
        return names - ({"answer_choices"} if self.whole else _CHOICES)

    def _fill(self, part: str, source: str, values: dict[str, Any], where: str) -> str:
        try:
            return _compiled(source, self.whole or part == "choices").render(values)
        except Exception as error:  # a template may fail in any way that Python can
            raise self._failed(where, part, error) from None

    def _failed(self, where: str, part: str, error: Exception) -> TemplateError:
        line = f" (line {error.lineno} of it)" if getattr(error, "lineno", None) else ""
        problem = " ".join(str(error).split()).rstrip(".")[:300] or type(error).__name__
        hint = "" if isinstance(error, _Refused) else " Correct the Jinja between its braces."
        if re.search("list object'? has no", problem):
            hint = " Count from 0; a number that is stored as text needs a filter: field | int."
        return TemplateError(f"{where} its {part}{line} fails: {problem}.{hint}")

    def _check_text(self, text: str, part: str, where: str) -> None:
        if not text.strip():
            fields = " and ".join(sorted(getattr(self, f"{part}_fields"))) or "text"
            raise (NoExample if part == "completion" else TemplateError)(
                f"{where} gives an empty {part}. Leave out the rows whose {fields} is empty."
            )
        bare = text.strip() if part == "completion" else text.rstrip(" \t\xa0")
        if text != bare:
            problem = "with space around it" if part == "completion" else "that ends in a space"
            raise TemplateError(
                f"{where} gives a {part} {problem}: {text[-30:]!r}. Delete the space, or cut it "
                "off, as in {{ field | trim }}; the one between prompt and completion is "
                "added automatically."
            )


# Jinja


_MISSING = object()


class _Refused(Exception):
    """What Jinja would allow and the course does not; the message says what to do."""


def _printable(value: Any) -> Any:
    """What a template prints: never the words that Python has for an empty cell or a list."""
    if value is None or (isinstance(value, float) and value != value):
        raise _Refused(
            "it prints a cell that is empty (None or NaN). Leave out those rows, or put the field "
            "in a condition: {% if field is not none %}{{ field }}{% endif %}"
        )
    if isinstance(value, list | tuple | dict | set):
        raise _Refused(
            f"it prints a {type(value).__name__} as Python writes it: {str(value)[:40]}. Take one "
            "of its items, as in {{ field[0] }}, or join them: {{ field | join(', ') }}"
        )
    return value


def _of_text(kind: str) -> Any:
    """A filter of Jinja, without its "None" for an empty cell."""
    return lambda value, *given, **named: FILTERS[kind](_printable(value), *given, **named)


@jinja2.pass_eval_context
def _join(context: Any, items: Any, *given: Any, **named: Any) -> Any:
    """Jinja's filter, without its "None" for an empty item."""
    if isinstance(items, list | tuple) and not named:
        items = [_printable(one) for one in items]
    return FILTERS["join"](context, items, *given, **named)


def _number(kind: str) -> Any:
    """Jinja's filters int and float, without their 0 for what is no number."""

    def convert(value: Any, default: Any = _MISSING, **base: int) -> Any:
        number = FILTERS[kind](value, default, **base)
        if number is _MISSING:
            raise _Refused(
                f"{str(value)[:40]!r} | {kind} is not a number. Compare instead: "
                "{{ choices[0] if field == 'yes' else choices[1] }}"
            )
        return number

    return convert


@jinja2.pass_context
def _choice(context: Any, items: Sequence[Any]) -> Any:
    """PromptSource's filter: one of the items at random, the same ones for the same row."""
    return context[_DRAW].choice(items)


def _position(value: Any) -> Any:
    """A computed position in a list; a label of -1 would silently pick the last choice."""
    if isinstance(value, numbers.Integral) and value < 0:
        raise _Refused(
            f"it computes {int(value)} as a position in a list, which would count from the end. "
            "Leave out the rows without a label, or correct the sum"
        )
    return value


_JINJA = SandboxedEnvironment(undefined=jinja2.StrictUndefined, finalize=_printable)
_JINJA.filters |= {"int": _number("int"), "float": _number("float"), "position": _position}
_JINJA.filters |= {kind: _of_text(kind) for kind in "trim lower upper title capitalize".split()}
_JINJA.filters |= {"join": _join, "printable": _printable}
_JINJA.filters |= {"choice": _choice, "random": _choice, "most_frequent": multimode}
_JINJA.globals["zip"] = zip


@lru_cache(maxsize=1024)
def _compiled(source: str, halved: bool) -> jinja2.Template:
    tree = _JINJA.parse(source.replace(HALVES, _CUT) if halved else source)
    for item in tree.find_all(nodes.Getitem):
        # "{{ choices[-1] }}", which is spelled out, remains what it is.
        spelled = item.arg.node if isinstance(item.arg, nodes.Neg) else item.arg
        computed = not isinstance(spelled, nodes.Const | nodes.Slice)
        if computed and not isinstance(item.node, nodes.Dict):
            item.arg = nodes.Filter(item.arg, "position", [], [], None, None)
    for joined in tree.find_all(nodes.Concat):  # "a ~ b" makes a text of an empty cell, too
        parts = [nodes.Filter(one, "printable", [], [], None, None) for one in joined.nodes]
        joined.nodes = parts
    return _JINJA.from_string(tree)


def _undeclared(source: str) -> frozenset[str]:
    """The names that a template expects. A column may have the name of a Jinja function (range,
    dict): it is a column where it is used and not called."""
    tree = _JINJA.parse(source)
    called = {call.node.name for call in tree.find_all(nodes.Call) if hasattr(call.node, "name")}
    used = {name.name for name in tree.find_all(nodes.Name) if name.ctx == "load"}
    columns = (used - called) & _JINJA.globals.keys()
    return frozenset(jinja2.meta.find_undeclared_variables(tree) | columns)


def _names_by_half(source: str) -> tuple[set[str], set[str], set[str]]:
    """The words before and after |||, keywords and filters included (so callers intersect them with
    the template's names), and those before it without the conditions around both halves."""
    shown, after, open_conditions = set(), set(), []
    words, begins, cut = shown, False, False
    for _, kind, text in _JINJA.lex(source):
        if kind == "data" and HALVES in text:
            cut = True
        elif kind in ("block_begin", "block_end"):
            words, begins = shown, kind == "block_begin"
        elif kind == "name" and cut:
            after.add(text)
        elif kind == "name":
            if begins and text == "if":
                open_conditions.append(set())
            if begins and text in ("if", "elif"):
                words = open_conditions[-1]
            if begins and text == "endif":
                shown |= open_conditions.pop()
            words.add(text)
            begins = False
    return shown.union(*open_conditions), after, shown


# Files


def load_templates(path: str | Path) -> dict[str, Template]:
    """The templates of a file by name, in the order of the file.

    path: a file in the course's own format (a list of name, prompt, completion and, where needed,
        choices and may_copy) or in PromptSource's; or the name of a library in data/templates.

    Raises TemplateError: no such file, no YAML, wrong keys, two templates of one name.
    """
    path = Path(path)
    if not path.suffix and not path.exists():
        path = LIBRARIES / f"{path.name}.yaml"
    if not path.exists():
        there = [file.name for file in sorted(path.parent.glob("*.yaml"))]
        raise TemplateError(
            f"There is no template file {path}. Those in its folder: "
            f"{format_names(there) or 'none'}."
        )
    content = read_yaml(path, TemplateError)
    entries = content.get("templates") if isinstance(content, dict) else content
    if isinstance(entries, dict):
        return _read_promptsource(entries, str(path))
    return read_templates(entries, str(path))


def read_yaml(path: Path, error_type: type[CourseError]) -> Any:
    """What a YAML file says; a file that is none raises `error_type`, with the line.

    Every value is the text that stands there, so that the choices yes, no, 0 and True stay what
    they are in the table. A tag, as PromptSource's files have them, makes no Python object.
    """
    try:
        return yaml.load(path.read_text(encoding="utf-8-sig"), Loader=yaml.BaseLoader)
    except (OSError, ValueError, yaml.YAMLError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        raise error_type(
            f"The file {path}{line} cannot be read: {problem}. It must be YAML in UTF-8; put a "
            "text that holds a colon or a brace in quotes or below a |- sign."
        ) from None


def read_templates(entries: Any, where: str) -> dict[str, Template]:
    """Templates by name, from the list that the YAML file `where` has of them."""
    if not isinstance(entries, list) or not entries:
        raise TemplateError(
            f"{where}: its templates must be a list of at least one template, each with name, "
            "prompt and completion."
        )
    templates = []
    for position, entry in enumerate(entries, start=1):
        keys = dict(entry) if isinstance(entry, dict) else {}
        texts = [keys.pop(key, None) for key in ("name", "prompt", "completion")]
        lists = {key: keys.pop(key, None) or [] for key in ("choices", "may_copy")}
        good = all(isinstance(text, str) for text in texts)
        good &= all(isinstance(items, list) for items in lists.values())
        if not good or keys:
            raise TemplateError(
                f"{where}: template {position} must have the texts name, prompt and completion, "
                "may have the lists choices and may_copy, as in [a, b], and nothing else. It is: "
                f"{str(entry)[:200]!r}."
            )
        lists = {key: tuple(map(str, items)) for key, items in lists.items()}
        templates.append(Template(*texts, **lists))
    return _by_name(templates, where)


def _read_promptsource(entries: dict, where: str) -> dict[str, Template]:
    templates = []
    for entry in entries.values():
        if not isinstance(entry, dict) or not {"name", "jinja"} <= entry.keys():
            raise TemplateError(f"{where} has an entry without name or jinja. Delete that entry.")
        text = entry.get("answer_choices", "")
        if text.lower() in ("null", "~"):  # YAML's words for none
            text = ""
        parts = [text] if "{" in text else text.split(HALVES)  # Jinja is split once it is rendered
        choices = tuple(part.strip() for part in parts if part)
        templates.append(Template(entry["name"], entry["jinja"], choices=choices))
    return _by_name(templates, where)


def _by_name(templates: list[Template], where: str) -> dict[str, Template]:
    named: dict[str, Template] = {}
    for template in templates:
        if template.name in named:
            raise TemplateError(f"{where} has two templates named {template.name!r}. Rename one.")
        named[template.name] = template
    return named
