"""Templates: rendering, what is refused, leaks, PromptSource's files, the shipped libraries."""

import math
from functools import partial

import jinja2
import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from helpers.data.task import load_task
from helpers.data.templates import (
    LIBRARIES,
    NoExample,
    Template,
    TemplateError,
    load_templates,
    read_templates,
)
from helpers.errors import CourseError
from tests.refusals import refusal

ROW = {
    "row_id": "R1",
    "department": "pets",
    "star_rating": 4,
    "review_headline": "Nice toy",
    "review_body": "My dog likes it.",
}
WORDS = ["terrible", "poor", "okay", "good", "excellent"]
STARS = "{{ choices[star_rating - 1] }}"
TASKS = {name: load_task(name) for name in ("opinion", "department", "headline", "review")}
ALL = [(task, template) for task in TASKS.values() for template in task.templates.values()]

refused = partial(refusal, TemplateError)


def template(prompt="{{ review_body }}\nRating:", completion=STARS, **more):
    return Template("mine", prompt, completion, **more)


def answer(completion, row, choices=()):
    """What a completion gives for a row; the prompt is a column of its own."""
    one = Template("mine", "{{ memo }}:", completion)
    return one.render({"memo": "A memo", "row_id": "R7"} | row, choices)["answer"]


def library(folder, text):
    path = folder / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return path


# Rendering


def test_render():
    one = template('{{ review_body }}\n({{ choices[:-1] | join(", ") }} or {{ choices[-1] }}):')
    assert one.render(ROW, WORDS) == {
        "prompt": "My dog likes it.\n(terrible, poor, okay, good or excellent):",
        "completion": " good",
        "answer": "good",
        "choices": WORDS,
    }
    assert one.prompt_fields == {"review_body"}
    assert one.completion_fields == {"star_rating"}
    assert one.fields == {"review_body", "star_rating"}


def test_free_text_has_no_choices_and_white_space_is_separator_enough():
    one = template("{{ review_body }}\n{{ '\\n' }}", "{{ review_headline }}")
    row = dict(ROW)
    assert one.render(row) == {
        "prompt": "My dog likes it.\n\n",
        "completion": "Nice toy",
        "answer": "Nice toy",
    }
    assert row == ROW


def test_both_names_of_the_choices_are_known():
    assert answer("{{ answer_choices[label] }}", {"label": 1}, ["no", "yes"]) == "yes"
    assert answer("{{ choices[label] }}", {"label": 1}, ["no", "yes"]) == "yes"
    # A column of that name is read where the task has no choices.
    one = Template("mine", "{{ q }} {{ choices | join(' ') }}:", "{{ a }}")
    assert one.render({"q": "Which?", "choices": ["x", "y"], "a": "x"})["prompt"] == "Which? x y:"


def test_choices_may_be_jinja_and_a_template_may_bring_its_own():
    one = template("{{ review_body }}:", "{{ choices[label] }}", choices=("{{ first }}", "other"))
    rendered = one.render(ROW | {"label": 0, "first": "dear"}, WORDS)
    assert (rendered["answer"], rendered["choices"]) == ("dear", ["dear", "other"])
    assert one.fields == {"review_body", "label", "first"}
    assert answer("{{ choices[label] }}", {"label": 1, "c": "x"}, ["a", "{{ c }}"]) == "x"


def test_a_missing_headline_leaves_no_gap():
    for one in TASKS["opinion"].templates.values():
        prompt = one.render(ROW | {"review_headline": ""}, WORDS)["prompt"]
        assert "\n\n\n" not in prompt and not prompt.startswith("\n")


@pytest.mark.parametrize(
    ("prompt", "completion"),
    [
        ("{% for w in review_body.split() %}{{ loop.index }} {{ w }}\n{% endfor %}?", STARS),
        (
            "{% set x = star %}{{ x | upper }} {{ review_body | truncate(9) }}:",
            "{{ 7 * 6 }}{{ n }}",
        ),
        ("{{ [review_body, star] | join('/') }} {{ review_body[:3] }}\n\n", "{{ n | abs }}"),
        ("{% raw %}{{ raw }}{% endraw %}{# no #}{{ review_body }}{{ {1: 'a'}[1] }}:", "{{ star }}"),
    ],
)
def test_what_is_rendered_is_what_jinja_renders(prompt, completion):
    row = ROW | {"star": "one star", "n": 5}
    rendered = template(prompt, completion).render(row, WORDS if completion == STARS else ())
    plain = jinja2.Environment(undefined=jinja2.StrictUndefined)
    assert rendered["prompt"] == plain.from_string(prompt).render(row)
    assert rendered["answer"] == plain.from_string(completion).render(row, choices=WORDS)


@pytest.mark.parametrize("name", TASKS)
def test_the_tasks_templates_render_every_row(name):
    task = TASKS[name]
    rows = [row for row in task.load_table() if row["review_headline"]]
    for one in task.templates.values():
        assert not one.prompt_fields & one.completion_fields
        for row in rows:
            rendered = one.render(row, task.choices)
            prompt = rendered["prompt"]
            assert prompt == prompt.strip() and "{" not in prompt and "  " not in prompt
            answers = {
                "opinion": WORDS[row["star_rating"] - 1],
                "department": row["department"],
                "headline": row["review_headline"],
                "review": row["review_body"],
            }
            assert rendered["answer"] == answers[name]
            assert rendered["completion"] == " " + answers[name]
            # What the model reads is the review itself, whole.
            if name != "review":
                assert row["review_body"] in prompt


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
    rendered = one.render(row, WORDS)
    assert rendered["prompt"] == f"<{text}> {'/'.join(WORDS)}:"
    assert rendered["answer"] == WORDS[stars - 1]
    # No leak: another answer, and the prompt is the same.
    other = one.render(row | {"star_rating": stars % 5 + 1}, WORDS)
    assert other["prompt"] == rendered["prompt"]
    # The same in PromptSource's form.
    whole = Template("mine", "<{{ review_body }}> ||| {{ answer_choices[star_rating - 1] }}")
    rendered = whole.render(row, WORDS)
    assert (rendered["prompt"], rendered["answer"]) == (f"<{text}>", WORDS[stars - 1])


_jinja = st.lists(
    st.sampled_from(
        "{{ }} {% %} {# #} if else endif for in set endfor filter endfilter raw endraw macro trim "
        "review_body star_rating choices loop 'a' 1 -7 ( ) [ ] | ~ + * // % / - . , : == = join "
        "replace lower round int first choice most_frequent __class__ ||| \n".split(" ")
    ),
    max_size=20,
).map(" ".join)


@given(_jinja, _jinja)
def test_any_template_renders_or_is_refused_in_one_paragraph(prompt, completion):
    try:
        rendered = template("{{ review_body }}" + prompt, completion).render(ROW, WORDS)
    except TemplateError as error:
        assert "'mine'" in str(error) and "\n" not in str(error) and len(str(error)) < 1000
    else:
        assert rendered["prompt"].strip() and rendered["answer"] in WORDS


def test_a_column_may_have_the_name_of_a_function_of_jinja():
    one = Template("mine", "{{ zip }} {{ range(2) | join }}:", "{{ dict }}")
    assert one.fields == {"zip", "dict"}
    assert one.render({"zip": "10115", "dict": "Berlin"})["prompt"] == "10115 01:"
    refused(lambda: one.check({"zip"}), "the field dict")


# What is refused when a template meets a table


def test_unknown_field():
    one = template("{{ review_bdy }}\nRating:")
    words = ("'mine'", "review_bdy", "review_body", "Correct the name")
    refused(lambda: one.check(ROW), *words)
    refused(lambda: one.render(ROW, WORDS), *words)
    refused(lambda: template(choices=("{{ colour }}", "b")).check(ROW), "colour", "'mine'")


@pytest.mark.parametrize(
    "prompt",
    ["{{ star_rating }} stars: {{ review_body }}:", "{% if star_rating > 3 %}:){% endif %}:"],
)
def test_leak(prompt):
    words = ("'mine'", "leaks", "star_rating", "Take it out", "may_copy")
    refused(lambda: template(prompt).check(ROW), *words)
    refused(lambda: template(prompt).render(ROW, WORDS), *words)
    template("{{ choices | join(' ') }} {{ review_body }}:").check(ROW)  # choices are no leak


def test_a_field_that_may_be_copied_is_no_leak():
    one = template("Correct: {{ review_body }}\n", "{{ review_body | upper }}")
    refused(lambda: one.check(ROW), "leaks", "review_body")
    one = template(one.prompt, one.completion, may_copy=("review_body",))
    assert one.render(ROW)["answer"] == "MY DOG LIKES IT."
    one = template(
        "{{ department }} {{ review_body }}:",
        "{{ review_body }} {{ department }}",
        may_copy=("review_body",),
    )
    refused(lambda: one.check(ROW), "leaks", "field department decides")


@pytest.mark.parametrize(
    "prompt", ["{payee}: which?", "{}", "Which?", "{% raw %}{{ payee }}{% endraw %}"]
)
def test_a_prompt_without_a_field_is_refused(prompt):
    row = {"payee": "Store", "category": "Food"}
    one = Template("mine", prompt, "{{ category }}")
    refused(
        lambda: one.render(row),
        "'mine'",
        "its prompt ",
        "the same for every row",
        "category, payee",
    )


def test_a_field_in_pythons_braces_is_refused_and_json_is_not():
    row = {"payee": "Store", "memo": "Milk", "category": "Food"}
    words = ("its prompt has {payee} in single braces", "double braces: {{ payee }}")
    refused(lambda: Template("mine", "{{ memo }} {payee}:", "{{ category }}").render(row), *words)
    words = ("its completion has {category}", "{{ category }}")
    refused(lambda: Template("mine", "{{ memo }}:", "{category}").render(row), *words)
    refused(
        lambda: Template("mine", "{{ memo }}:", "Food").render(row), "completion uses no column"
    )
    one = Template("mine", '{"memo": "{{ memo }}", "x": {}}', "{{ category }}")
    assert one.render(row)["prompt"] == '{"memo": "Milk", "x": {}}'


@pytest.mark.parametrize("completion", ["", "  "])
def test_template_without_a_completion(completion):
    one = template(completion=completion)
    refused(lambda: one.check(ROW), "'mine'", "no completion", "|||")


def test_jinja_that_cannot_be_read():
    one = template("Review:\n{{ review_body }\nRating:")
    refused(lambda: one.check(ROW), "'mine'", "prompt", "line 2", "braces")
    refused(lambda: template("{{ review_body | shout }}:").check(ROW), "'mine'", "shout")


# What is refused when a template meets a row


def test_empty_completion_names_the_row():
    one = template(completion="{{ review_headline }}")
    words = ("'mine'", "row R1", "review_headline", "Leave out")
    assert issubclass(NoExample, TemplateError)
    refusal(NoExample, lambda: one.render(ROW | {"review_headline": ""}), *words)


def test_empty_prompt():
    row = ROW | {"review_body": ""}
    one = template("{{ review_body }}")
    refused(lambda: one.render(row, WORDS), "row R1", "empty prompt", "review_body")


@pytest.mark.parametrize(
    "prompt", ["{{ review_body }} ", "{{ review_body }}:\t", "{{ review_body }}\xa0"]
)
def test_prompt_that_ends_in_a_space(prompt):
    refused(
        lambda: template(prompt).render(ROW, WORDS), "'mine'", "R1", "ends in a space", "Delete"
    )


def test_completion_with_space_around_it():
    words = ("row R1", "space around it", "' good'", "Delete", "trim")
    refused(lambda: template(completion=" " + STARS).render(ROW, WORDS), *words)


def test_space_inside_an_answer_stays():
    code = "for i in range(3):\n    if  i &lt; 2:\n        print(i)"
    assert answer("{{ code }}", {"code": code}) == code
    assert answer("{{ code | trim }}", {"code": code + "\n"}) == code


def test_completion_that_is_no_choice():
    one = template(completion="{{ department }}")
    refused(lambda: one.render(ROW, WORDS), "row R1", "'pets'", "none of its choices", "terrible")


def test_choice_beyond_the_list_and_choice_counted_with_text():
    refused(lambda: template().render(ROW | {"star_rating": 9}, WORDS), "row R1", "Count from 0")
    one = template(completion="{{ choices[star_rating] }}")
    refused(lambda: one.render(ROW | {"star_rating": "3"}, WORDS), "field | int")
    refused(lambda: template().render(ROW), "'choices' is undefined")


@pytest.mark.parametrize(
    ("completion", "value"),
    [
        ("{{ choices[label] }}", -1),
        ("{{ choices[label - 1] }}", 0),
        ("{{ choices[label | int] }}", "-1"),
        ("{{ answer_choices[label] }}", -2),
        ("{{ choices[-label] }}", 1),
        ("{% set place = label - 1 %}{{ choices[place] }}", 0),
        ("{% set words = choices %}{{ words[label] }}", -1),
        ("{{ ['no', 'yes'][label] }}", -1),
        ("{{ 'ny'[label] }}", -1),
    ],
)
def test_a_negative_number_picks_no_choice(completion, value):
    call = partial(answer, completion, {"label": value}, ["no", "yes", "n", "y"])
    refused(call, "'mine'", "row R7", "position", "without a label")


@pytest.mark.parametrize(
    ("completion", "label", "expected"),
    [
        ("{{ choices[label] }}", 0, "no"),
        ("{{ choices[label] }}", False, "no"),
        ("{{ choices[label] }}", True, "yes"),
        ("{{ choices[label | int] }}", True, "yes"),
        ("{{ choices[label | int] }}", "1", "yes"),
        ("{{ choices[label | float | int] }}", "1.0", "yes"),
        ("{{ choices[-1] if label else choices[0] }}", True, "yes"),
        ("{{ {-1: 'no', 1: 'yes'}[label] }}", -1, "no"),
        ("{{ choices[label | int(default=0)] }}", "none", "no"),
    ],
)
def test_numbers_and_booleans_that_do_pick_a_choice(completion, label, expected):
    assert answer(completion, {"label": label}, ["no", "yes"]) == expected


@pytest.mark.parametrize("kind", ["int", "float"])
@pytest.mark.parametrize("value", ["True", "False", "yes", "", "NA", None, math.nan, [1]])
def test_what_is_no_number_is_not_taken_for_zero(kind, value):
    call = partial(
        answer, f"{{{{ choices[label | {kind} | int] }}}}", {"label": value}, ["no", "yes"]
    )
    refused(call, "'mine'", "row R7", "not a number", "Compare instead")


@pytest.mark.parametrize("value", [None, math.nan, ["a", "b"], [], {"a": 1}, ("a",)])
def test_an_answer_is_never_what_python_prints_for_nothing_or_for_a_list(value):
    refused(lambda: answer("{{ label }}", {"label": value}), "'mine'", "row R7", "it prints a")
    one = Template("mine", "{{ label }} {{ text }}:", "{{ text | upper }}", may_copy=("text",))
    refused(lambda: one.render({"label": value, "text": "A"}), "its prompt fails: it prints a")


@pytest.mark.parametrize("value", ["None", "nan", "NA", "null", 0, 0.5, True, "['a']"])
def test_texts_that_look_like_nothing_are_texts(value):
    assert answer("{{ label }}", {"label": value}) == str(value)


@pytest.mark.parametrize(
    "attack",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ ''['__cla' + 'ss__'].__mro__ }}",
        "{{ review_body | attr('__class__') }}",
        "{{ '{0.__class__}'.format(review_body) }}",
        "{{ lipsum.__globals__['os'].popen('id').read() }}",
        "{% include '/etc/passwd' %}",
        "{{ range(10 ** 9) | list }}",
    ],
)
def test_jinjas_sandbox_is_in_force(attack):
    refused(lambda: template(attack + "{{ review_body }}:").render(ROW, WORDS), "'mine'")
    attack = attack.replace("review_body", "department")
    message = refused(lambda: template(completion=attack + STARS).render(ROW, WORDS), "'mine'")
    assert "fails" in message or "field lipsum" in message


# Files


OWN = """
- name: first
  prompt: |-
    {{ text }}
    Colour:
  completion: "{{ choices[number] }}"
- name: second
  prompt: "Correct: {{ text }}"
  completion: "{{ text }}"
  choices: [1, 2, "{{ three }}"]
  may_copy: [text]
"""


def test_own_format(tmp_path):
    first, second = load_templates(library(tmp_path, OWN)).values()
    assert first == Template("first", "{{ text }}\nColour:", "{{ choices[number] }}")
    assert second.choices == ("1", "2", "{{ three }}") and second.may_copy == ("text",)
    inside = "name: colour\ntemplates:" + OWN.replace("\n", "\n  ")
    assert load_templates(library(tmp_path, inside)) == {"first": first, "second": second}


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("prompt: |-", "promt: |-", ("template 1", "promt", "name, prompt and completion")),
        ("name: second", "name: first", ("two templates named 'first'", "Rename")),
        ('"{{ text }}"', "{{ text }}", ("mine.yaml", "line 9", "cannot be read", "quotes")),
        ("name: second", "name: !!python/object/apply:os.getcwd []", ("template 2", "texts name")),
        ("may_copy: [text]", "may_copy: text", ("template 2", "lists choices and may_copy")),
    ],
)
def test_faults_of_a_file_are_named(tmp_path, old, new, words):
    assert old in OWN
    path = library(tmp_path, OWN.replace(old, new))
    refused(lambda: load_templates(path), "mine.yaml", *words)


@pytest.mark.parametrize("text", ["", "just words", "[]", "[a]", "name: a", "templates: []"])
def test_files_without_templates(tmp_path, text):
    refused(
        lambda: load_templates(library(tmp_path, text)), "mine.yaml", "name, prompt and completion"
    )


def test_no_such_file_and_no_text(tmp_path):
    refused(lambda: load_templates("alpaka"), "alpaka", "alpaca.yaml", "messages.yaml")
    refused(lambda: load_templates(library(tmp_path, OWN).with_name("a.yaml")), "mine")
    path = tmp_path / "mine.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    refused(lambda: load_templates(path), "mine.yaml", "UTF-8")


def test_read_templates_takes_the_list_of_a_task_file():
    entry = {"name": "a", "prompt": "{{ b }}:", "completion": "{{ c }}"}
    assert read_templates([entry], "task.yaml") == {"a": Template("a", "{{ b }}:", "{{ c }}")}
    refused(lambda: read_templates("b", "task.yaml"), "task.yaml", "list")


def test_refusals_are_course_errors():
    assert issubclass(TemplateError, CourseError)


# Shipped libraries


def test_alpaca_takes_rows_with_and_without_input():
    assert set(load_templates("alpaca")) == {"plain", "alpaca"}
    code = "for i in range(3):\n    print(i)"
    for one in load_templates("alpaca").values():
        for empty in ("", None):
            row = {"instruction": "Count.\n", "input": empty, "output": code + "\n"}
            without = one.render(row)
            assert without["answer"] == code
            assert "Input" not in without["prompt"] and "\n\n\n" not in without["prompt"]
        prompt = one.render(row | {"input": "To two."})["prompt"]
        assert "Count.\n\n" in prompt and "\nTo two.\n\n" in prompt
    # The words of https://github.com/tatsu-lab/stanford_alpaca#data-release
    assert prompt.endswith(
        "Write a response that appropriately completes the request.\n\n### Instruction:\nCount."
        "\n\n### Input:\nTo two.\n\n### Response:"
    )


def test_messages_ask_for_the_last_turn():
    (one,) = load_templates("messages").values()
    talk = [
        {"role": "system", "content": "You sort."},
        {"role": "user", "content": "A lamp."},
        {"role": "assistant", "content": "home"},
        {"role": "user", "content": "A rake."},
        {"role": "assistant", "content": "garden"},
    ]
    for messages, expected in ((talk[:3], "home"), (talk, "garden"), (talk[1:3], "home")):
        # As a row of a Dataset has it.
        rendered = one.render(Dataset.from_list([{"messages": messages}])[0])
        before = [f"{turn['role'].capitalize()}: {turn['content']}" for turn in messages[:-1]]
        assert rendered["prompt"] == "\n".join([*before, "Assistant:"])
        assert rendered["answer"] == expected
    refusal(NoExample, lambda: one.render({"messages": talk[:4], "row_id": "R2"}), "row R2")
    silent = [*talk[:2], {"role": "assistant", "content": None}]  # it only called a tool
    refusal(NoExample, lambda: one.render({"messages": silent, "row_id": "R3"}), "row R3")
    assert "None" not in one.render({"messages": [*silent, *talk[1:3]], "row_id": "R4"})["prompt"]


@pytest.mark.parametrize(
    "asks",
    ["x | trim", "x | lower", "x | title", "z ~ ' ' ~ x", "[z, x] | join(', ')", "[z] | trim"],
)
def test_an_empty_cell_is_refused_behind_a_filter_too(asks):
    template = Template("t", f"{{{{ {asks} }}}}?", "{{ answer }}")
    row = {"x": "b", "z": "a", "answer": "yes", "row_id": "R1"}
    if "[z] | trim" not in asks:
        assert template.render(row)["answer"] == "yes"
    refused(lambda: template.render(row | {"x": None}), "row R1", "it prints a")


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
      {%- if label == 0 %}
      {{ first }}
      {% else %}{{ second }}{% endif %}
      {% endif %}
    metadata: !TemplateMetadata {metrics: null}
    name: guarded
  33333333-0000-0000-0000-000000000000: !Template
    answer_choices: null
    jinja: '{% if label == 1 %}{{ text }} A ||| B{% else %}{{ text }} C ||| D{% endif %}'
    name: two_in_one
  44444444-0000-0000-0000-000000000000: !Template
    answer_choices: ~
    jinja: 'Only a prompt about {{ text }}'
    name: no_answer
  55555555-0000-0000-0000-000000000000: !Template
    answer_choices: '{{ choices.text | join("|||") }}'
    jinja: >-
      {% set found = [] %}{% for word in words %}{{ found.append(word) | default("", True) }}
      {% endfor %}{{ ["One:", "Two:", "Three:"] | choice }} {{ text }} {{ found | join("+") }} |||
      {{ choices.text[ choices.label.index(key) ] }}
    name: own_choices
  66666666-0000-0000-0000-000000000000: !Template
    answer_choices: a ||| b
    jinja: >-
      {{ text }} {{ range(1, 9) | choice }} {% for x, y in zip(words, words[1:]) %}{{ x }}{{ y }}
      {% endfor %} ||| {{ ["b", "a", "a"] | most_frequent | first }}
    name: helpers
"""
SHOP = {"text": "A lamp.", "label": 1, "first": "dear", "second": "cheap", "row_id": "R7"}


@pytest.fixture
def shop(tmp_path):
    return load_templates(library(tmp_path, PROMPTSOURCE))


def test_promptsource_file(shop):
    assert list(shop)[:4] == ["how_is_it", "guarded", "two_in_one", "no_answer"]
    one = shop["how_is_it"]
    assert one.choices == ("bad", "so-so", "fine")
    assert (one.prompt_fields, one.completion_fields) == ({"text"}, {"label"})
    assert one.render(SHOP | {"label": 2}) == {
        "prompt": "A lamp. \n\nHow is it: bad, so-so, fine?",
        "completion": " fine",
        "answer": "fine",
        "choices": ["bad", "so-so", "fine"],
    }


def test_promptsource_choices_made_from_the_row_and_a_guard(shop):
    one = shop["guarded"]
    assert one.fields == {"text", "label", "first", "second"}
    rendered = one.render(SHOP)
    assert rendered["prompt"] == "A lamp.\ndear or cheap?"
    assert (rendered["answer"], rendered["choices"]) == ("cheap", ["dear", "cheap"])
    words = ("'guarded'", "row R7", "leaves this row out")
    refusal(NoExample, lambda: one.render(SHOP | {"label": -1}), *words)


def test_promptsource_is_rendered_whole_and_then_split(shop):
    rendered = [shop["two_in_one"].render(SHOP | {"label": label}) for label in (0, 1)]
    pairs = [(one["prompt"], one["answer"]) for one in rendered]
    assert pairs == [("A lamp. C", "D"), ("A lamp. A", "B")]
    refused(lambda: shop["no_answer"].render(SHOP), "'no_answer'", "no completion", "|||")
    three = Template("three", "{{ text }} ||| a ||| b")
    refused(lambda: three.render(SHOP), "'three'", "3 parts", "once")


def test_promptsource_a_column_may_be_called_choices_and_lists_may_be_filled(shop):
    one = shop["own_choices"]
    choices = {"text": ["red", "blue|||green"], "label": ["A", "B"]}
    row = {"text": "Sky?", "words": ["a", "b"], "choices": choices, "key": "A"}
    rendered = one.render(row)
    assert rendered["answer"] == "red" and rendered["choices"] == ["red", "blue|||green"]
    assert rendered["prompt"].endswith(": Sky? a+b")
    assert row["words"] == ["a", "b"]
    assert one.fields == {"text", "words", "choices", "key"}


def test_promptsource_helpers_give_the_same_text_each_time(shop):
    rows = [{"text": f"Text {n}.", "words": ["u", "v", "w"]} for n in range(40)]
    rendered = [shop["helpers"].render(row) for row in rows]
    # Columns that the template does not use change nothing.
    assert rendered == [shop["helpers"].render({"row_id": "R1"} | row) for row in rows]
    assert {one["answer"] for one in rendered} == {"a"}
    assert {one["prompt"].split()[2] for one in rendered} == set("12345678")
    assert all("uv" in one["prompt"] and "vw" in one["prompt"] for one in rendered)


def test_promptsource_refusals(shop, tmp_path):
    one = shop["how_is_it"]
    refused(lambda: one.render(SHOP | {"label": -1}), "row R7", "without a label")
    refused(lambda: one.check({"text"}), "'how_is_it'", "label")
    refused(lambda: one.render(SHOP | {"text": None}), "'how_is_it'", "empty (None or NaN)")
    path = library(tmp_path, "dataset: shop\ntemplates: {1: !Template {name: x}}")
    refused(lambda: load_templates(path), "mine.yaml", "jinja")
    path = library(tmp_path, "dataset: shop")
    refused(lambda: load_templates(path), "mine.yaml", "templates")


def test_shipped_libraries_are_all_tested():
    assert {path.stem for path in LIBRARIES.glob("*.yaml")} >= {"alpaca", "messages"}


@pytest.mark.parametrize("task", ["opinion", "department", "headline", "review", "dialogue"])
def test_the_question_is_the_prompt_of_the_example_without_the_answers_column(task):
    task = load_task(task)
    rows = task.drop_empty(task.load_table()).select(range(20))
    for template in task.templates.values():
        for row in rows:
            example = template.render(row, task.choices)
            asked = {k: v for k, v in row.items() if k not in template.completion_fields}
            question = template.question(asked, task.choices)
            assert question["prompt"] == example["prompt"]
            assert question.get("choices") == example.get("choices")


def test_a_question_without_its_columns_or_text_is_refused():
    template = Template("a", "{{ text }}", "{{ label }}")
    refusal(TemplateError, lambda: template.question({"txt": "x"}), "uses the field text", "txt")
    refusal(TemplateError, lambda: template.question({"text": " "}), "empty prompt")
    whole = Template("b", "{{ text }} Good or bad? ||| {{ choices[label] }}")
    refusal(TemplateError, lambda: whole.question({"text": "x"}), "uses the field choices, label")
