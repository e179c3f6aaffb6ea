"""helpers/table.py: the course's table, dirt of every kind, and files that cannot be read."""

import csv
import hashlib
import io
import json
import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.errors import CourseError
from helpers.table import (
    COLUMNS,
    REVIEWS,
    TableError,
    product_of,
    read_table,
    same_text,
    share_of_common_words,
)
from helpers.widgets import answers_table

HEADER = ",".join(COLUMNS)
GOOD = "R1,pets,Rope Toy,4,Nice toy,My dog likes this toy a lot."
PLANTED = json.loads((Path(__file__).parent / "planted_dirt.json").read_text("utf-8"))


def write(folder, *lines, end="\n"):
    path = folder / "table.csv"
    path.write_bytes((end.join(lines) + end).encode())
    return path


def refused(path, *words, columns=COLUMNS):
    """The message with which the table is refused; it names the file and these words."""
    with pytest.raises(TableError) as caught:
        read_table(path, columns)
    message = str(caught.value)
    for word in (path.name, *words):
        assert word in message
    assert "\n" not in message
    return message


# The course's own table


def test_course_table_has_the_planted_dirt_and_no_other():
    _, report = read_table(REVIEWS)
    assert report.counts() == {kind: len(ids) for kind, ids in PLANTED.items()}
    for kind in ("missing_headline", "html_entity", "stray_space", "bad_star_rating"):
        assert {finding.row_id for finding in report.of_kind(kind)} == set(PLANTED[kind])
    for kind in ("exact_duplicate", "near_duplicate"):
        # Of two equal rows the later one in the file is dropped, whichever was planted.
        pairs = {
            frozenset([finding.row_id, *re.findall(r"R\d{4}", finding.detail)])
            for finding in report.of_kind(kind)
        }
        assert pairs == {frozenset(pair) for pair in PLANTED[kind]}


def test_course_table_rows_are_clean():
    rows, report = read_table(REVIEWS)
    assert (report.rows_read, report.rows_kept, len(rows)) == (1315, 1300, 1300)
    assert len({row["review_id"] for row in rows}) == 1300
    for row in rows:
        assert tuple(row) == COLUMNS
        assert row["star_rating"] in {1, 2, 3, 4, 5}
        for name in COLUMNS:
            text = str(row[name])
            assert text == text.strip() and "  " not in text and "&#" not in text
            assert text or name == "review_headline"


def test_findings_name_the_line_in_the_file():
    _, report = read_table(REVIEWS)
    lines = REVIEWS.read_text("utf-8").splitlines()
    for finding in report.findings:
        assert lines[finding.line - 1].startswith(finding.row_id + ",")
    assert [f.line for f in report.findings] == sorted(f.line for f in report.findings)


def test_report_prints_a_short_table():
    printed = str(read_table(REVIEWS)[1])
    assert "1,315 rows read, 1,300 kept" in printed
    assert re.search(r"12\s+exact_duplicate\s+dropped", printed)


def test_the_data_card_says_what_is_in_the_table():
    card = (REVIEWS.parent / "README.md").read_text("utf-8")
    data = REVIEWS.read_bytes()
    assert hashlib.sha256(data).hexdigest() in card and f"{len(data):,} bytes" in card
    raw = list(csv.DictReader(io.StringIO(data.decode("utf-8"), newline="")))
    rows, report = read_table(REVIEWS)
    assert f"{len(raw):,} rows, written for this course by a language model, CC0." in card
    assert f"After cleaning there are {len(rows):,} rows" in card
    for column in ("department", "star_rating"):
        before, after = (Counter(str(row[column]) for row in some) for some in (raw, rows))
        for value, n in after.items():
            assert f"| {value} | {before[value]} | {n} |" in card
    for kind, n in report.counts().items():
        assert f"| `{kind}` | {n} |" in card
    products = Counter(map(product_of, rows))
    homes = {(product_of(row), row["department"]) for row in rows}
    assert f"{len(products)} products, each in one department" in card
    assert len(homes) == len(products)
    sizes = Counter(products.values())
    assert f"has {min(sizes)} to {max(sizes)} rows after cleaning, most often" in card
    assert f"most often {sizes.most_common(1)[0][0]}." in card
    for column in ("review_headline", "review_body"):
        words = [len(str(row[column]).split()) for row in rows if row[column]]
        mean = round(sum(words) / len(words))
        assert f"{min(words)} to {max(words)} words, {mean} on average" in card


# Dirt, one kind at a time


@pytest.mark.parametrize("rating", ["5", " 5", "5.0", "5.00"])
def test_ratings_that_are_read(tmp_path, rating):
    rows, report = read_table(write(tmp_path, HEADER, f"R1,pets,Toy,{rating},Nice,A nice toy."))
    assert rows[0]["star_rating"] == 5 and "bad_star_rating" not in report.counts()


@pytest.mark.parametrize("rating", ["", "0", "6", "five", "4.5", "-1", "5 stars", "nan", "55", "٤"])
def test_ratings_that_are_dropped(tmp_path, rating):
    rows, report = read_table(write(tmp_path, HEADER, GOOD, f"R2,pets,Toy,{rating},Nice,Good."))
    (finding,) = report.findings
    assert [row["review_id"] for row in rows] == ["R1"]
    assert (finding.line, finding.column, finding.action) == (3, "star_rating", "dropped")
    assert repr(rating) in finding.detail


@pytest.mark.parametrize(
    ("cell", "clean"),
    [
        ("it&#39;s fine", "it's fine"),
        ("salt &amp; pepper", "salt & pepper"),
        ("it&amp;#39;s fine", "it's fine"),
        ("caf&#xE9;", "café"),
    ],
)
def test_entities_are_mended(tmp_path, cell, clean):
    rows, report = read_table(write(tmp_path, HEADER, f"R1,pets,Toy,4,Nice,{cell}"))
    assert rows[0]["review_body"] == clean
    assert [(f.kind, f.action) for f in report.findings] == [("html_entity", "mended")]


@pytest.mark.parametrize("cell", ["AT&T", "salt&pepper;", "a &ampere; b", "&notit", "R&amp"])
def test_an_ampersand_is_no_entity(tmp_path, cell):
    rows, report = read_table(write(tmp_path, HEADER, f"R1,pets,Toy,4,Nice,{cell}"))
    assert rows[0]["review_body"] == cell and not report.findings


def test_space_is_mended_and_line_breaks_stay(tmp_path):
    body = '" One  two \xa0\r\n three\t"'
    rows, report = read_table(write(tmp_path, HEADER, f"R1,pets,Toy,4,Nice,{body}"))
    assert rows[0]["review_body"] == "One two\nthree"
    assert [f.kind for f in report.findings] == ["stray_space"]


def test_missing_headline_is_kept_and_a_missing_body_is_dropped(tmp_path):
    path = write(tmp_path, HEADER, GOOD, "R2,pets,Toy,4,,Good.", "R3,pets,Toy,4,Good, ")
    rows, report = read_table(path)
    assert [(row["review_id"], row["review_headline"]) for row in rows] == [
        ("R1", "Nice toy"),
        ("R2", ""),
    ]
    assert report.counts()["missing_headline"] == report.counts()["missing_value"] == 1
    assert report.of_kind("missing_value")[0].column == "review_body"


def test_exact_duplicates_are_compared_after_mending(tmp_path):
    path = write(tmp_path, HEADER, GOOD, GOOD.replace("R1", "R2").replace("Nice toy", " Nice toy"))
    rows, report = read_table(path)
    assert [row["review_id"] for row in rows] == ["R1"]
    assert "R1" in report.of_kind("exact_duplicate")[0].detail


def test_rows_that_differ_in_a_column_not_asked_for_are_no_duplicates(tmp_path):
    path = write(tmp_path, "colour,day", "red,1", "red,2", "red,2")
    rows, report = read_table(path, columns=["colour"])
    assert len(rows) == 2 and report.counts() == {"exact_duplicate": 1}


def test_a_repost_counts_within_its_product_only(tmp_path):
    repost = "R2,pets,rope  toy,4,Nice toy,my dog likes this toy a lot!!"
    other = repost.replace("R2,pets,rope  toy", "R3,pets,Ball")
    rows, report = read_table(write(tmp_path, HEADER, GOOD, repost, other))
    (finding,) = report.of_kind("near_duplicate")
    assert (finding.row_id, finding.action, len(rows)) == ("R2", "kept", 3)
    assert "R1" in finding.detail
    assert product_of(rows[0]) == product_of(rows[1]) == "rope toy"


def test_a_table_of_ones_own(tmp_path):
    path = write(tmp_path, "question,answer,extra", 'What is "blue"?,A colour,1'.replace('"', ""))
    rows, report = read_table(path, columns=["answer", "question"])
    assert rows == [{"answer": "A colour", "question": "What is blue?", "review_id": "line 2"}]
    assert not report.findings


# same_text


@given(st.text(max_size=60), st.text(max_size=60))
def test_same_text_is_symmetric(a, b):
    assert same_text(a, b) == same_text(b, a)


@given(st.text(max_size=60))
def test_a_text_is_the_same_as_itself_in_capitals(text):
    words = re.findall(r"\w", text.replace("'", "").replace("’", ""))
    assert same_text(text, text) == bool(words)


def test_same_text_examples():
    text = "The lid leaks and I can't use it."
    assert same_text(text, "the lid laeks and i cant use it")
    assert same_text(text, "Update: still the same. " + text)
    assert not same_text(text, "The lid is fine and I use it daily.")
    assert not same_text("", "")


# How a file may be written


def test_line_numbers_count_lines_and_not_rows(tmp_path):
    broken = '"Two\nlines,\n""three"""'
    path = write(tmp_path, HEADER, f"R1,pets,Toy,4,Nice,{broken}", "", GOOD.replace(",4,", ",9,"))
    rows, report = read_table(path)
    assert rows[0]["review_body"] == 'Two\nlines,\n"three"'
    assert report.findings[0].line == 6


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_every_line_end_is_read(tmp_path, end):
    rows, report = read_table(write(tmp_path, HEADER, GOOD, GOOD.replace(",4,", ",9,"), end=end))
    assert len(rows) == 1 and report.findings[0].line == 3


def test_byte_order_mark_and_other_order_of_columns(tmp_path):
    path = tmp_path / "table.csv"
    names = [*reversed(COLUMNS), "more"]
    path.write_text(",".join(names) + "\nBody,Head,3,Toy,pets,R1,x\n", encoding="utf-8-sig")
    rows, _ = read_table(path)
    assert tuple(rows[0]) == COLUMNS and rows[0]["review_body"] == "Body"


# What is refused


def test_no_such_file(tmp_path):
    refused(tmp_path / "absent.csv", "There is no table", "Check the name")


def test_a_folder_is_no_table(tmp_path):
    refused(tmp_path, "cannot be read", "Name a CSV file")


@pytest.mark.parametrize("content", ["", "\n\n", "\ufeff"])
def test_empty_file(tmp_path, content):
    path = tmp_path / "table.csv"
    path.write_text(content, encoding="utf-8")
    refused(path, "is empty", "header")


def test_header_alone(tmp_path):
    refused(write(tmp_path, HEADER), "line 1", "no row", "Add rows")


def test_no_usable_row(tmp_path):
    refused(write(tmp_path, HEADER, GOOD.replace(",4,", ",9,")), "line 2", "star_rating", "Mend")


def test_missing_column(tmp_path):
    path = write(tmp_path, HEADER.replace("review_body", "text"), GOOD)
    refused(path, "lacks the column review_body", "line 1", "text", "Rename")


def test_missing_id_column(tmp_path):
    path = write(tmp_path, HEADER.removeprefix("review_id,"), GOOD.removeprefix("R1,"))
    refused(path, "lacks the column review_id")


def test_semicolons(tmp_path):
    refused(write(tmp_path, HEADER.replace(",", ";"), GOOD), "semicolons", "save it with commas")


def test_doubled_column(tmp_path):
    refused(write(tmp_path, HEADER + ",department", GOOD + ",x"), "more than one column department")


def test_too_few_cells(tmp_path):
    path = write(tmp_path, HEADER, GOOD, "R2,pets,Toy,4,Nice")
    refused(path, "line 3", "5 cells", "review_body", "Add the missing")


def test_too_many_cells(tmp_path):
    path = write(tmp_path, HEADER, GOOD, GOOD + " Really, it does.")
    refused(path, "line 3", "7 cells", "review_body", "' it does.'", "double quotes")


def test_nul(tmp_path):
    refused(write(tmp_path, HEADER, GOOD.replace("Nice", "Ni\0ce")), "line 2", "review_headline")


def test_wrong_encoding_names_line_and_column(tmp_path):
    path = tmp_path / "table.csv"
    lines = [HEADER, 'R0,pets,Toy,4,"Two\nlines",Fine', GOOD.replace("Nice", "Très")]
    path.write_bytes("\n".join(lines).encode("latin-1"))
    refused(path, "not UTF-8", "line 4", "column review_headline", "0xe8", "CSV UTF-8")


def test_wrong_encoding_in_the_header(tmp_path):
    path = tmp_path / "table.csv"
    path.write_bytes(HEADER.encode("utf-16"))
    refused(path, "not UTF-8", "line 1")


def test_open_quote(tmp_path):
    path = write(tmp_path, HEADER, GOOD, 'R2,pets,Toy,4,Nice,"It never ends', GOOD)
    refused(path, "line 3", "quotation mark")


def test_quote_inside_a_quoted_cell(tmp_path):
    refused(write(tmp_path, HEADER, 'R2,pets,Toy,4,Nice,"A "big" toy"'), "line 2", "not doubled")


def test_cell_beyond_the_limit(tmp_path):
    path = write(tmp_path, HEADER, GOOD, GOOD + "x" * 10_000_000)
    refused(path, "line 3", "column review_body", "131,072 characters")


FORMULAS = ["=cmd|' /C calc'!A0", "+1+1", "-2+3", "@SUM(A1)", "=HYPERLINK(1)", "<img src=x>"]


@pytest.mark.parametrize("text", FORMULAS)
def test_a_formula_is_text_like_any_other(tmp_path, text):
    rows, report = read_table(write(tmp_path, HEADER, f"{text},{text},{text},4,{text},{text}"))
    assert rows == [dict.fromkeys(COLUMNS, text) | {"star_rating": 4}]
    assert not report.findings
    # Where it is shown as HTML it is text as well.
    assert "<img" not in answers_table(["review"], [[text]])


def _wide(n):
    return ",".join(f"column {i}" for i in range(n))


# File by file: what is wrong with it, and the words that its refusal must have.
BAD_FILES = {
    "UTF-16": ((HEADER + "\n" + GOOD).encode("utf-16"), ("not UTF-8", "line 1", "CSV UTF-8")),
    "UTF-16 without mark": (HEADER.encode("utf-16-le"), ("not UTF-8", "line 1", "UTF-16")),
    "UTF-16, big end first": (HEADER.encode("utf-16-be"), ("not UTF-8", "line 1", "UTF-16")),
    "UTF-32": (HEADER.encode("utf-32"), ("not UTF-8", "line 1")),
    "picture": (b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 40, ("not UTF-8", "line 1", "0x89")),
    "half a character": (f"{HEADER}\n{GOOD}".encode() + b"\xe2\x82", ("line 2", "review_body")),
    "surrogate": (f"{HEADER}\n{GOOD}".encode() + b"\xed\xa0\x80", ("line 2", "review_body")),
    "tabs": ((HEADER + "\n" + GOOD).replace(",", "\t"), ("tabs", "save it with commas")),
    "bars": ((HEADER + "\n" + GOOD).replace(",", "|"), ("bars", "save it with commas")),
    "10 MB in a cell": (f"{HEADER}\n{GOOD}{'x' * 10**7}", ("line 2", "review_body", "131,072")),
    "10 MB in quotes": (
        f'{HEADER}\n{GOOD}\nR2,pets,"{"x" * 10**7}",4,Nice,Good',
        ("line 3", "product_title", "10,000,000"),
    ),
    "10 MB in the header": ("x" * 10**7 + "\n" + GOOD, ("line 1", "lacks the column")),
    "100,000 columns": (_wide(100_000) + "\n1", ("line 1", "99,980 more")),
    "a cell short of 100,000": (f"{HEADER},{_wide(10**5)}\n{GOOD}", ("line 2", "column 0")),
    "open quote": (f'{HEADER}\n"{GOOD}' + f"\n{GOOD}" * 10_000, ("line 2", "quotation mark")),
    "line break in a name": (f'"a\nb",{HEADER}\n{GOOD}', ("line 3", "review_body")),
    "line break in two names": (f'"a\nb","a\nb",{HEADER}\n{GOOD}', ("more than one column a b",)),
    "NUL below a strange name": (f'"a\nb",{HEADER}\n\0,{GOOD}', ("line 3", "column a b", "NUL")),
    "escape in a name": ("\x1b[31mred\n1", ("line 1", "\ufffd[31mred")),
    "names without letters": (",,,\n1,2,3,4", ("line 1", "lacks the column")),
    "every rating wrong": (
        f"{HEADER}\n{GOOD.replace(',4,', ',' + '9' * 9000 + ',')}",
        ("line 2", "star_rating", "Mend"),
    ),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_files_that_are_damaged_or_hostile(tmp_path, name):
    content, words = BAD_FILES[name]
    path = tmp_path / "table.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    assert len(refused(path, *words)) < 1000


def test_another_library_may_have_changed_the_limit_of_a_cell(tmp_path):
    before = csv.field_size_limit(10)
    try:
        assert len(read_table(REVIEWS)[0]) == 1300
        assert csv.field_size_limit() == 10
    finally:
        csv.field_size_limit(before)


def test_findings_stay_short(tmp_path):
    dirt = "".join(f"&#{n};" for n in range(200, 9000))
    long = f"R2,pets,Toy,{'9' * 9000},Nice,Good"
    _, report = read_table(write(tmp_path, HEADER, f"R1,pets,Toy,4,Nice,{dirt}", long))
    assert {finding.kind for finding in report.findings} >= {"html_entity", "bad_star_rating"}
    assert all(len(finding.detail) < 1000 for finding in report.findings)


_cell = st.one_of(
    st.text(max_size=12),
    st.text(',;"\n\r\t\0 =&#39;', max_size=12),
    st.sampled_from(["1", "5.0", "-1", "=1+1", "&amp;", "\ufeff", "a good toy", "A good  toy."]),
)


@given(st.lists(st.lists(_cell, min_size=6, max_size=6), max_size=8))
def test_any_cells_give_clean_rows_or_a_refusal(tmp_path_factory, cells):
    path = tmp_path_factory.mktemp("any") / "table.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *cells])
    try:
        rows, report = read_table(path)
    except TableError as error:
        assert str(path) in str(error) and "\n" not in str(error)
        return
    assert 0 < len(rows) == report.rows_kept <= report.rows_read <= len(cells)
    assert 1 <= len(cells) - len({f.line for f in report.findings if f.action == "dropped"})
    for row in rows:
        assert tuple(row) == COLUMNS and row["star_rating"] in range(1, 6)
        assert all(str(row[name]) for name in ("department", "product_title", "review_body"))
        for name in COLUMNS:
            assert str(row[name]) == str(row[name]).strip() and "\0" not in str(row[name])


@given(st.text(max_size=200))
def test_any_text_is_a_table_of_its_own_or_refused(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("any") / "table.csv"
    path.write_text("a,b\n" + text, encoding="utf-8", newline="")
    try:
        rows, _ = read_table(path, ["b", "a"])
    except TableError as error:
        assert str(path) in str(error) and "\n" not in str(error)
    else:
        assert rows and all(set(row) == {"a", "b", "review_id"} for row in rows)


@given(
    st.lists(
        st.tuples(st.sampled_from(["Toy", "Ball"]), st.text("ab c", min_size=1, max_size=30)),
        min_size=1,
        max_size=12,
    )
)
def test_near_duplicates_are_those_of_comparing_every_pair(tmp_path_factory, table):
    path = tmp_path_factory.mktemp("any") / "table.csv"
    lines = [f"R{n},pets,{title},4,Head {n},.{body}." for n, (title, body) in enumerate(table)]
    path.write_text("\n".join([HEADER, *lines]), encoding="utf-8")
    rows, report = read_table(path)
    expected = {}
    for place, row in enumerate(rows):
        for other in rows[:place]:
            if product_of(row) == product_of(other) and same_text(
                row["review_body"], other["review_body"]
            ):
                expected.setdefault(row["review_id"], other["review_id"])
    found = {f.row_id: f.detail.split()[4].rstrip(",") for f in report.of_kind("near_duplicate")}
    assert found == expected


def test_refusals_are_course_errors():
    assert issubclass(TableError, CourseError)


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("any") / "table.csv"
    path.write_bytes(HEADER.encode() + b"\n" + data)
    try:
        rows, report = read_table(path)
    except TableError as error:
        assert str(path) in str(error)
    else:
        assert len(rows) == report.rows_kept > 0


def test_share_of_common_words_counts_repeated_words_and_no_case():
    assert share_of_common_words("Very, very good", "good: very bad") == 4 / 6
    assert share_of_common_words("It broke.", "broke IT") == 1.0
    assert share_of_common_words("", "") == 0.0
