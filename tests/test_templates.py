"""helpers/templates.py: the course's libraries, rendering, leaks, attacks, PromptSource."""

import time
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.errors import CourseError
from helpers.table import COLUMNS, REVIEWS, read_table
from helpers.templates import (
    LONGEST,
    LONGEST_LIBRARY,
    LONGEST_SOURCE,
    TEMPLATES,
    Example,
    Template,
    TemplateError,
    as_chat,
    check_template,
    load_library,
    make_examples,
    render,
    told_by,
)
from tests.refusals import refusal

ROW = {
    "review_id": "R1",
    "department": "pets",
    "product_title": "Rope Toy",
    "star_rating": 4,
    "review_headline": "Nice toy",
    "review_body": "My dog likes it.",
}
WORDS = ("terrible", "poor", "okay", "good", "excellent")
STARS = "{{ choices[star_rating - 1] }}"
LIBRARIES = {path.stem: load_library(path) for path in sorted(TEMPLATES.glob("*.yaml"))}
ALL = [template for library in LIBRARIES.values() for template in library.values()]


def template(prompt="{{ review_body }}\nRating:", completion=STARS, choices=WORDS):
    return Template("opinion", "mine", prompt, completion, choices)


refused = partial(refusal, TemplateError)


def library(folder, text):
    path = folder / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return path


# The course's libraries


def test_the_course_has_four_tasks_whose_first_wording_is_plain():
    assert set(LIBRARIES) == {"department", "headline", "opinion", "review"}
    for task, wordings in LIBRARIES.items():
        assert next(iter(wordings)) == "plain"
        assert len(wordings) >= (4 if task in ("opinion", "department") else 3)
        for name, one in wordings.items():
            assert (one.task, one.name) == (task, name)
            chosen = one.choices != ()
            assert one.metrics == (("accuracy", "macro_f1") if chosen else ("rouge",))


@pytest.mark.parametrize("one", ALL, ids=lambda one: f"{one.task}-{one.name}")
def test_every_wording_renders_every_row(one):
    rows = [row for row in read_table(REVIEWS)[0] if row["review_headline"]]
    check_template(one, COLUMNS)
    examples = make_examples(one, rows)
    assert [example.row_id for example in examples] == [row["review_id"] for row in rows]
    for row, example in zip(rows, examples, strict=True):
        assert example.prompt == example.prompt.strip()
        assert "{" not in example.prompt and "  " not in example.prompt
        answers = {
            "opinion": WORDS[row["star_rating"] - 1],
            "department": row["department"],
            "headline": row["review_headline"],
            "review": row["review_body"],
        }
        assert example.completion == answers[one.task]
        assert example.choices == one.choices
        # What the model reads is the review itself, whole.
        if one.task != "review":
            assert row["review_body"] in example.prompt


@pytest.mark.parametrize("one", ALL, ids=lambda one: f"{one.task}-{one.name}")
def test_no_wording_has_the_answer_in_its_prompt(one):
    assert not one.prompt_fields & one.completion_fields
    assert one.fields <= set(COLUMNS)


def test_a_missing_headline_leaves_no_gap():
    for one in LIBRARIES["opinion"].values():
        assert "\n\n\n" not in render(one, ROW | {"review_headline": ""}).prompt
        assert not render(one, ROW | {"review_headline": ""}).prompt.startswith("\n")


_text = st.text(max_size=80).map(lambda text: " ".join(text.split())).filter(bool)


@given(
    st.fixed_dictionaries(
        {name: _text for name in COLUMNS}
        | {
            "department": st.sampled_from(LIBRARIES["department"]["plain"].choices),
            "star_rating": st.integers(1, 5),
        }
    )
)
def test_any_clean_row_renders_and_its_text_is_never_taken_for_jinja(row):
    for one in ALL:
        example = render(one, row)
        assert example.completion == example.completion.strip() != ""
        for name in one.prompt_fields:
            assert str(row[name]) in example.prompt


# Texts that look like Jinja, PromptSource or HTML, and any others.
_wild = st.one_of(
    st.text(max_size=80),
    st.lists(
        st.sampled_from(["{{", "}}", "{%", "%}", "{#", "#}", "|||", "{{ star_rating }}", "a", " "]),
        max_size=12,
    ).map("".join),
).map(lambda text: " ".join(text.split()))


@given(_wild.filter(bool), st.integers(1, 5))
def test_fields_stand_in_the_prompt_as_they_are_and_the_answer_comes_from_its_own(text, stars):
    row = ROW | {"review_body": text, "star_rating": stars}
    one = template("<{{ review_body }}> {{ choices | join('/') }}:")
    example = render(one, row)
    assert example.prompt == f"<{text}> {'/'.join(WORDS)}:"
    assert example.completion == WORDS[stars - 1]
    # No leak: another answer, and the prompt is the same.
    assert render(one, row | {"star_rating": stars % 5 + 1}).prompt == example.prompt


@given(st.sampled_from(ALL), st.data())
def test_no_prompt_changes_with_its_answer(one, data):
    answers = {
        "star_rating": st.integers(1, 5),
        "department": st.sampled_from(LIBRARIES["department"]["plain"].choices),
        "review_headline": _wild.filter(bool),
        "review_body": _wild.filter(bool),
    }
    (field,) = one.completion_fields
    first, other = (render(one, ROW | {field: data.draw(answers[field])}) for _ in range(2))
    assert first.prompt == other.prompt


@given(_wild.filter(bool))
def test_raw_text_in_a_template_is_rendered_as_it_stands(text):
    if "{" in text or "}" in text:
        text = "{% raw %}" + text + "{% endraw %}"
    expected = text.removeprefix("{% raw %}").removesuffix("{% endraw %}")
    one = template(text + " {{ department }}:", "{{ review_headline }}", ())
    assert render(one, ROW).prompt == expected + " pets:"


_jinja = st.lists(
    st.sampled_from(
        "{{ }} {% %} {# #} if else endif for in set filter endfilter raw endraw macro trim "
        "review_body star_rating choices long self loop 'a' 1 99999999999999999 ( ) [ ] | ~ + * "
        "** % / - . , : == = join replace lower round int first choice __class__ ||| \n".split(" ")
    ),
    max_size=30,
).map(" ".join)


_names = st.sampled_from("review_body star_rating choices long 'a' '' 1 -7 99999999999 2.5".split())
_filters = "lower title join trim first last int round length replace('a','aaa') most_frequent"
_expression = st.recursive(
    _names,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(_filters.split())).map(" | ".join),
        st.tuples(inner, st.sampled_from("+ - * / // % == < in and".split()), inner).map(" ".join),
        st.tuples(inner, inner).map(lambda two: f"({two[0]})[{two[1]}]"),
        st.lists(inner, max_size=3).map(lambda items: f"[{', '.join(items)}]"),
    ),
    max_leaves=8,
)
_wellformed = st.lists(
    st.one_of(
        _expression.map("{{{{ {} }}}}".format),
        _expression.map("{{% if {} %}}yes{{% else %}}no{{% endif %}}".format),
        st.just("a word"),
    ),
    min_size=1,
    max_size=3,
).map(" ".join)


@settings(max_examples=200)
@given(st.one_of(_wellformed, _jinja), st.one_of(_wellformed, _jinja))
def test_any_template_renders_small_or_is_refused(prompt, completion):
    row = ROW | {"long": "a" * 30_000}
    try:
        example = render(template(prompt, completion, ()), row)
    except TemplateError as error:
        assert "'mine'" in str(error) and "\n" not in str(error) and len(str(error)) < 1000
    else:
        assert 0 < len(example.prompt) <= LONGEST and 0 < len(example.completion) <= LONGEST


@given(st.one_of(st.text(max_size=200), _jinja), st.integers(0, 400), st.integers(0, 60))
def test_any_library_is_read_or_refused(tmp_path_factory, text, place, cut):
    for source in (OWN, PROMPTSOURCE):
        place %= len(source)
        path = library(
            tmp_path_factory.mktemp("any"), source[:place] + text + source[place + cut :]
        )
        try:
            templates = load_library(path).values()
        except TemplateError as error:
            assert "mine.yaml" in str(error) and "\n" not in str(error)
            continue
        for one in templates:
            try:
                check_template(one, COLUMNS)
            except TemplateError as error:
                assert "\n" not in str(error)


def test_braces_in_a_review_stay_as_they_are():
    body = "I paid {{ star_rating }} {% if x %} dollars ||| {# no #} <b>&"
    example = render(template(), ROW | {"review_body": body})
    assert example.prompt == body + "\nRating:"


# Rendering


def test_render():
    one = template('{{ review_body }}\n({{ choices[:-1] | join(", ") }} or {{ choices[-1] }}):')
    assert render(one, ROW) == Example(
        "My dog likes it.\n(terrible, poor, okay, good or excellent):", "good", "R1", WORDS
    )
    assert one.prompt_fields == {"review_body"}
    assert one.completion_fields == {"star_rating"}
    assert one.fields == {"review_body", "star_rating"}


def test_a_row_without_id_and_a_prompt_that_ends_in_a_line_break():
    one = template("{{ review_body }}\n{{ '\\n' }}")
    row = {"review_body": "Fine.", "star_rating": 3}
    assert render(one, row) == Example("Fine.\n\n", "okay", "", WORDS)


def test_make_examples_of_no_rows():
    assert make_examples(template(), []) == []


def test_as_chat_ends_where_the_answer_begins():
    class Tokenizer:
        chat_template = "present"

        def apply_chat_template(self, messages, tokenize, add_generation_prompt):
            assert not tokenize and add_generation_prompt
            (message,) = messages
            return f"<{message['role']}>{message['content']}<assistant>\n"

    example = render(template(), ROW)
    chat = as_chat(example, Tokenizer())
    assert chat.prompt == f"<user>{example.prompt}<assistant>\n"
    assert (chat.completion, chat.row_id, chat.choices) == ("good", "R1", WORDS)


def test_as_chat_needs_a_chat_template():
    refused(lambda: as_chat(render(template(), ROW), object()), "no chat template", "as_chat")


# What is refused when a template meets a row


def test_unknown_field():
    one = template("{{ review_bdy }}\nRating:")
    words = ("'mine'", "'opinion'", "review_bdy", "review_body", "Correct the name")
    refused(lambda: check_template(one, COLUMNS), *words)
    refused(lambda: render(one, ROW), *words)
    refused(lambda: make_examples(one, [ROW]), *words)


def test_unknown_field_in_a_choice():
    refused(lambda: render(template(choices=("{{ colour }}", "b")), ROW), "colour", "'mine'")


def test_leak():
    one = template("{{ star_rating }} stars: {{ review_body }}\nRating:")
    refused(lambda: check_template(one, COLUMNS), "'mine'", "leaks", "star_rating", "Take it out")
    refused(lambda: make_examples(one, [ROW]), "star_rating")


def test_leak_through_a_condition():
    one = template("{% if star_rating > 3 %}Happy: {% endif %}{{ review_body }}\nRating:")
    refused(lambda: check_template(one, COLUMNS), "leaks", "star_rating")


def test_choices_in_the_prompt_are_no_leak():
    check_template(template("{{ choices | join(' ') }} {{ review_body }}:"), COLUMNS)


@pytest.mark.parametrize("completion", ["", "  "])
def test_template_without_a_completion(completion):
    one = template(completion=completion)
    refused(lambda: check_template(one, COLUMNS), "'mine'", "no completion", "|||")


def test_empty_completion_names_the_row():
    one = template(completion="{{ review_headline }}", choices=())
    row = ROW | {"review_headline": ""}
    refused(lambda: render(one, row), "'mine'", "row R1", "review_headline", "Leave out")


def test_empty_prompt():
    row = ROW | {"review_body": ""}
    refused(lambda: render(template("{{ review_body }}"), row), "empty prompt", "review_body")


@pytest.mark.parametrize("prompt", ["{{ review_body }} ", "Rating:\t", "{{ review_body }}\xa0"])
def test_prompt_that_ends_in_a_space(prompt):
    refused(lambda: render(template(prompt), ROW), "'mine'", "R1", "ends in a space", "Delete")


def test_completion_with_space_around_it():
    one = template(completion=" " + STARS)
    refused(lambda: render(one, ROW), "'mine'", "space around it", "' good'", "Delete")


def test_completion_that_is_no_choice():
    one = template(completion="{{ department }}")
    refused(lambda: render(one, ROW), "'pets'", "none of its choices", "terrible", "Correct")


def test_choice_beyond_the_list():
    refused(lambda: render(template(), ROW | {"star_rating": 9}), "completion", "Count from 0")


def test_choice_counted_with_text():
    one = template(completion="{{ choices[star_rating] }}")
    refused(lambda: render(one, ROW | {"star_rating": "3"}), "field | int")


def test_jinja_that_cannot_be_read():
    one = template("Review:\n{{ review_body }\nRating:")
    refused(lambda: check_template(one, COLUMNS), "'mine'", "prompt", "line 2", "braces")


def test_jinja_that_fails():
    refused(lambda: render(template("{{ review_body / 0 }}:"), ROW), "'mine'", "prompt", "fails")


# What a template may not do. Each line: the attack, and the word that its refusal must have.
ATTACKS = [
    # Out of the sandbox: attributes, however they are written.
    ("{{ ''.__class__ }}", ".__class__"),
    ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "__subclasses__()"),
    ("{{ ''['__class__'] }}", "__class__"),
    ("{{ ''['__cla' + 'ss__'] }}", "__class__"),
    ("{{ review_body | attr('__class__') }}", "filter attr"),
    ("{{ [''] | map(attribute='__class__') | join }}", "filter map"),
    ("{{ [review_body] | selectattr('__class__') | first }}", "filter selectattr"),
    ("{{ choices | sort(attribute='__class__') }}", "filter sort"),
    ("{{ [''] | join(attribute='__class__') }}", "attribute"),
    ("{{ choices.append('x') }}", "append()"),
    ("{{ (review_body.format).__globals__ }}", ".__globals__"),
    ("{{ '{0.__class__}'.format(review_body) }}", "format()"),
    ("{{ '{0.__class__}'['format'] }}", "format"),
    ("{{ '%s' | format(review_body) }}", "filter format"),
    # Out of the sandbox: what Jinja offers by itself.
    ("{{ range.__globals__ }}", ".__globals__"),
    ("{{ self.__init__.__globals__ }}", ".__globals__"),
    ("{{ self }}", "self"),
    ("{{ namespace.__init__.__globals__ }}", ".__globals__"),
    ("{{ lipsum.__globals__['os'].popen('id').read() }}", "read()"),
    ("{{ cycler.__init__ }}", ".__init__"),
    ("{{ joiner() }}", "joiner()"),
    ("{{ lipsum(100000) }}", "lipsum()"),
    ("{{ dict(a=1) }}", "dict()"),
    ("{{ review_body is filter }}", "is filter"),
    ("{% include '/etc/passwd' %}", "{% include %}"),
    ("{% import 'os' as os %}", "{% import %}"),
    ("{% from 'os' import path %}", "{% from %}"),
    ("{% extends 'base' %}", "{% extends %}"),
    ("{% block a %}{% endblock %}", "{% block %}"),
    ("{% autoescape true %}{% endautoescape %}", "not allowed"),
    ("{% do choices.append(1) %}", "'do'"),
    ("{% debug %}", "'debug'"),
    # Without end: loops, recursion, names that grow.
    (
        "{% for i in range(99999) %}{% for j in range(99999) %}a{% endfor %}{% endfor %}",
        "{% for %}",
    ),
    ("{% for i in [1,2] recursive %}{{ loop([1,2]) }}{% endfor %}", "{% for %}"),
    ("{% set a = 'ab' %}{% for i in range(9999) %}{% set a = a ~ a %}{% endfor %}", "{% set %}"),
    ("{% set a %}{{ review_body }}{% endset %}", "{% set %}"),
    ("{% with a = 1 %}{% endwith %}", "{% with %}"),
    ("{% macro m(n) %}{{ m(n) }}{{ m(n) }}{% endmacro %}{{ m(1) }}", "{% macro %}"),
    ("{% call m() %}{% endcall %}", "{% call %}"),
    ("{{ range(10**9) }}", "range()"),
    ("{{ range(10000000000) | list }}", "filter list"),
    ("{{ cycler('a').next() }}", "next()"),
    # Huge from one short line.
    ("{{ 'a' * 10000000000 }}", "15 digits"),
    ("{{ [0] * 10000000000 }}", "15 digits"),
    ("{{ 10 ** 10000000000 }}", "**"),
    ("{{ 10000000000 * 10000000000 * 10000000000 }}", "15 digits"),
    ("{{ 'a' ~ 'b' }}", "~"),
    ("{{ '%10000000000d' % 1 }}", "15 digits"),
    ("{{ '%10000000000d' is divisibleby(1) }}", "is divisibleby"),
    ("{{ 'a'.ljust(10000000000) }}", "ljust()"),
    ("{{ '{:>10000000000}'.format('a') }}", "format()"),
    ("{{ '%10000000000d' | format(1) }}", "filter format"),
    ("{{ 'a' | center(10000000000) }}", "filter center"),
    ("{{ 'a' | indent(10000000000) }}", "filter indent"),
    ("{{ 'a' | wordwrap(1, wrapstring='a' * 10000000000) }}", "wordwrap"),
    ("{{ [] | batch(10000000000, 'a') | first }}", "filter batch"),
    ("{{ [] | slice(10000000000) | first }}", "filter slice"),
    ("{{ 'a' | urlize }}", "filter urlize"),
    ("{{ 'a' | tojson(indent=10000000000) }}", "filter tojson"),
    ("{{ choices | random }}", "filter random"),
    ("{{ long | replace('a', long) }}", "50,000"),
    ("{{ long | join(long) }}", "50,000"),
    ("{{ long + long }}", "50,000"),
    ("{{ [long, long] }}", "50,000"),
    ("{{ [long | replace('a', '\\n')] | lower }}", "50,000"),
    ("{% filter trim %}" + "{{ long | replace('a', 'bb') }}" * 100 + "{% endfilter %}", "50,000"),
    ("{{ " + "9" * 4500 + " }}", "digits"),
    ("{{ ('9' * 20) | int }}", "15 digits"),
    ("{{ 1e300 | int | int * 10 }}", "15 digits"),
    ("{{ " + "(" * 2000 + "1" + ")" * 2000 + " }}", "recursion"),
    ("{{ " + "not " * 100 + "1 }}", "20 levels"),
    ("{{ long" + " | upper | lower" * 100 + " }}", "20 levels"),
    ("{% if 1 %}" * 90 + "{% endif %}" * 90, "20 levels"),
    ("a" * LONGEST_SOURCE, "5,000"),
]


@pytest.mark.parametrize(("attack", "word"), ATTACKS, ids=lambda one: one[:50])
def test_attacks_are_refused_at_once_with_their_reason(attack, word):
    row = ROW | {"long": "a" * 30_000}
    start = time.process_time()
    for one in (template(attack + "{{ review_body }}:"), template(completion=attack)):
        message = refused(lambda one=one: render(one, row), "'mine'", word)
        assert len(message) < 1000
    # Hundredths of a second. An attack that comes through would take hours, or all memory.
    assert time.process_time() - start < 5


def test_a_refusal_names_the_line_and_says_what_may_be_used():
    one = template("{{ review_body }}\n{{ department.lower() }}:")
    words = ("prompt (line 2 of it)", "the call lower() is not allowed", "{{ field | lower }}")
    refused(lambda: check_template(one, COLUMNS), *words, "replace, round, title")


def test_what_is_printed_is_text_and_no_code_of_another_page():
    row = ROW | {"review_body": "<script>alert(1)</script>{{ 7 * 7 }}"}
    assert render(template(), row).prompt == row["review_body"] + "\nRating:"


def test_too_long_a_field():
    row = ROW | {"review_body": "a" * (LONGEST + 1)}
    refused(lambda: render(template(), row), f"{LONGEST:,} characters", "leave out the rows")
    assert len(render(template(), row | {"review_body": "a" * (LONGEST - 8)}).prompt) == LONGEST


def test_what_a_template_may_use():
    source = (
        "{% if star_rating > 3 and not review_headline == '' %}+{% elif 1 %}-{% else %}0{% endif %}"
        "{{ {4: 'four'}[star_rating] }} {{ ['a', 'b'][-1] }}{{ review_body[:3] | upper }} "
        "{{ (star_rating + 1) * 2 // 3 }} {{ review_body | replace('dog', 'cat') }} "
        "{{ 2.567 | round(1) }} {{ 'x' if review_headline is defined }} {{ 'it' in review_body }}"
        "{% raw %}{{ raw }}{% endraw %}{# nothing #}:"
    )
    prompt = render(template(source, "{{ department | title }}", ()), ROW).prompt
    assert prompt == "+four bMY  3 My cat likes it. 2.6 x True{{ raw }}:"


def test_sums_are_allowed():
    one = template("{{ 2 * star_rating }}{{ 7 % 4 }}:", "{{ review_headline }}", ())
    assert render(one, ROW).prompt == "83:"


# Files


OWN = """
task: colour
choices: [red, blue]
metrics: [accuracy]
templates:
  - name: first
    prompt: |-
      {{ text }}
      Colour:
    completion: "{{ choices[number | int] }}"
"""


def test_own_format(tmp_path):
    one = load_library(library(tmp_path, OWN))["first"]
    assert one == Template(
        "colour",
        "first",
        "{{ text }}\nColour:",
        "{{ choices[number | int] }}",
        ("red", "blue"),
        ("accuracy",),
    )
    assert render(one, {"text": "A sky.", "number": "1"}).completion == "blue"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("metrics:", "metric:", ("lacks metrics", "It needs")),
        ("choices:", "choice:", ("unknown key choice", "known ones")),
        ("    prompt:", "    promt:", ("template 1", "lacks prompt")),
        ("[red, blue]", "[yes, no]", ("choices is True", "quotes")),
        ("[red, blue]", "[red, red]", ("choices", "twice")),
        ("[red, blue]", "red", ("choices", "list")),
        ("task: colour", "task: 3", ("task is 3", "quotes")),
        ("- name: first", "name: first", ("mine.yaml", "line 7", "cannot be read")),
        ('"{{ choices', "{{ choices", ("mine.yaml", "line 10", "cannot be read")),
        ("task: colour", "task: !!python/object/apply:os.getcwd []", ("line 2", "cannot be read")),
    ],
)
def test_faults_of_a_file_are_named(tmp_path, old, new, words):
    assert old in OWN
    refused(lambda: load_library(library(tmp_path, OWN.replace(old, new))), "mine.yaml", *words)


@pytest.mark.parametrize("text", ["", "- a", "just words"])
def test_no_mapping(tmp_path, text):
    refused(lambda: load_library(library(tmp_path, text)), "mine.yaml", "no mapping", "templates")


def test_no_templates(tmp_path):
    text = "task: a\nmetrics: []\ntemplates: []"
    refused(lambda: load_library(library(tmp_path, text)), "mine.yaml", "at least one template")


def test_two_templates_of_one_name(tmp_path):
    text = OWN + OWN[OWN.index("  - name") :]
    refused(lambda: load_library(library(tmp_path, text)), "mine.yaml", "named first", "Rename")


def test_no_such_library():
    path = TEMPLATES / "opinions.yaml"
    refused(lambda: load_library(path), "opinions.yaml", "opinion.yaml, review.yaml")


def test_library_that_is_no_text(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    refused(lambda: load_library(path), "mine.yaml", "UTF-8")


def _laughs(line):
    """A short text whose tenth line stands for 9 ** 9 of the first."""
    names = "abcdefghij"
    lines = [line.format(new="a", old="x")]
    lines += [
        line.format(new=new, old=", ".join(["*" + old] * 9))
        for old, new in zip(names, names[1:], strict=False)
    ]
    return "\n".join(lines)


LIBRARY_ATTACKS = {
    "aliases": (_laughs("{new}: &{new} [{old}]") + "\ndataset: *j\ntemplates: {}", "dataset"),
    "merges": (_laughs("{new}: &{new} {{<<: [{old}]}}").replace("[x]", "{k: 1}"), "merge"),
    "endless": ("task: &a [*a]\nmetrics: []\ntemplates: []", "task"),
    "deep list": ("[" * 5000, "recursion"),
    "deep mapping": ("? " * 5000, "recursion"),
    "long": ("#" * (LONGEST_LIBRARY + 1), "100,000"),
    "long text": (OWN.replace("red", "a" * (LONGEST_SOURCE + 1)), "5,000"),
    "a number in sixties": (OWN.replace("colour", "1" + ":59" * 9000, 1), "digits"),
    "a number in hex": (OWN.replace("colour", "0x" + "f" * 9000, 1), "digits"),
    "a key in hex": ("? 0x" + "f" * 9000 + "\n: 1", "digits"),
    "many digits": (OWN.replace("colour", "9" * 5000, 1), "digits"),
    "no such date": (OWN.replace("colour", "2026-99-99", 1), "month"),
    "no such number": (OWN.replace("colour", "!!int x", 1), "int"),
    "no such truth": (OWN.replace("colour", "!!bool x", 1), "x"),
    "no such time": (OWN.replace("colour", "!!timestamp x", 1), "cannot be read"),
    "python": (OWN.replace("colour", "!!python/name:os.system", 1), "line 2"),
    "a list as a key": ("? [a]\n: b", "unhashable"),
    "a line break in a name": (OWN.replace("first", '"a\\nb"') + OWN[OWN.index("  - name") :], ""),
    "a NUL": (OWN + "\0", "cannot be read"),
    "many ends": ('dataset: a\ntemplates: {1: {name: b, jinja: "' + "{%if%}" * 800 + '"}}', ""),
}


@pytest.mark.parametrize("name", LIBRARY_ATTACKS)
def test_libraries_that_attack_the_reader(tmp_path, name):
    text, word = LIBRARY_ATTACKS[name]
    path = library(tmp_path, text)
    start = time.process_time()

    def use():
        for one in load_library(path).values():
            check_template(one, COLUMNS)

    assert len(refused(use, word)) < 1000
    assert time.process_time() - start < 5


def test_refusals_are_course_errors():
    assert issubclass(TemplateError, CourseError)


# PromptSource


PROMPTSOURCE = r"""
dataset: shop
subset: reviews
templates:
  11111111-0000-0000-0000-000000000000: !Template
    answer_choices: bad ||| so-so ||| fine
    id: 11111111-0000-0000-0000-000000000000
    jinja: "{{text}} \n\nHow is it: {{ answer_choices | join(\", \") }}? ||| \n{{answer_choices[\
      label] }}"
    metadata: !TemplateMetadata
      choices_in_prompt: true
      languages: [en]
      metrics:
      - Accuracy
      original_task: true
    name: how_is_it
    reference: ''
  22222222-0000-0000-0000-000000000000: !Template
    answer_choices: "{{ first }} ||| {{ second }}"
    jinja: |
      {% if label != -1 %}
      {{ text }}
      {{ first }} or {{ second }}?
      |||
      {{ answer_choices[label] }}
      {% endif %}
    metadata: !TemplateMetadata {metrics: null}
    name: guarded
  33333333-0000-0000-0000-000000000000: !Template
    answer_choices: null
    jinja: '{% if label == 1 %}A ||| B{% else %}C ||| D{% endif %}'
    name: two_in_one
  44444444-0000-0000-0000-000000000000: !Template
    answer_choices: null
    jinja: 'Only a prompt about {{ text }}'
    name: no_answer
  55555555-0000-0000-0000-000000000000: !Template
    answer_choices: [a, b]
    jinja: >-
      {{ ["One:", "Two:", "Three:"] | choice }} {{ text }} |||
      {{ ["b", "a", "a"] | most_frequent | first }}
    name: helpers
"""


def test_promptsource_file(tmp_path):
    shop = load_library(library(tmp_path, PROMPTSOURCE))
    assert list(shop) == ["how_is_it", "guarded", "two_in_one", "no_answer", "helpers"]
    one = shop["how_is_it"]
    assert (one.task, one.choices) == ("shop/reviews", ("bad", "so-so", "fine"))
    assert one.metrics == ("Accuracy",)
    row = {"text": "It works.", "label": 2, "first": "dear", "second": "cheap", "review_id": "R7"}
    check_template(one, row)
    assert render(one, row) == Example(
        "It works. \n\nHow is it: bad, so-so, fine?", "fine", "R7", ("bad", "so-so", "fine")
    )


def test_promptsource_choices_made_from_the_row_and_a_guard(tmp_path):
    one = load_library(library(tmp_path, PROMPTSOURCE))["guarded"]
    row = {"text": "A lamp.", "label": 1, "first": "dear", "second": "cheap"}
    check_template(one, row)
    assert one.fields == {"text", "label", "first", "second"}
    assert render(one, row) == Example("A lamp.\ndear or cheap?", "cheap", "", ("dear", "cheap"))
    refused(lambda: render(one, row | {"label": -1}), "'guarded'", "empty completion")


def test_promptsource_choices_made_by_one_block(tmp_path):
    text = PROMPTSOURCE.replace(
        "bad ||| so-so ||| fine", '\'{{ [first, second, "fine"] | join("|||") }}\''
    )
    one = load_library(library(tmp_path, text))["how_is_it"]
    row = {"text": "A lamp.", "label": 0, "first": "dear", "second": "cheap"}
    assert render(one, row).choices == ("dear", "cheap", "fine")
    assert render(one, row).completion == "dear"


@pytest.mark.parametrize("name", ["two_in_one", "no_answer"])
def test_promptsource_template_without_two_halves_is_refused_by_name(tmp_path, name):
    one = load_library(library(tmp_path, PROMPTSOURCE))[name]
    refused(lambda: check_template(one, {"text", "label"}), name, "|||", "once")


def test_promptsource_filters_give_the_same_text_each_time(tmp_path):
    one = load_library(library(tmp_path, PROMPTSOURCE))["helpers"]
    rows = [{"text": f"Text {n}."} for n in range(40)]
    examples = make_examples(one, rows)
    assert examples == make_examples(one, rows)
    assert {example.completion for example in examples} == {"a"}
    assert {example.prompt.split()[0] for example in examples} == {"One:", "Two:", "Three:"}


def test_promptsource_file_without_templates(tmp_path):
    path = library(tmp_path, "dataset: shop")
    refused(lambda: load_library(path), "mine.yaml", "PromptSource", "Download")


def test_promptsource_entry_without_jinja(tmp_path):
    path = library(tmp_path, "dataset: shop\ntemplates: {1: !Template {name: x}}")
    refused(lambda: load_library(path), "mine.yaml", "jinja", "delete")


def test_a_column_tells_what_the_other_rows_with_its_value_say():
    answers = ["toys", "toys", "toys", "books", "books"]
    assert told_by(["a", "a", "a", "b", "b"], answers) == 1.0
    assert told_by([1, 1, 1, 1, 2], answers) == 3 / 5  # the fourth is outvoted, the last alone
    assert told_by([1, 2, 3, 4, 5], answers) == 0.0  # an id tells nothing of another row
