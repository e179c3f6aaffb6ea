"""helpers/data/table.py, formats.py: the course's table, dirt of every kind, every kind of file."""

import csv
import gzip
import hashlib
import io
import json
import re
import sys
from collections import Counter
from datetime import datetime
from functools import partial
from pathlib import Path

import openpyxl
import pandas
import pytest
from datasets import Dataset, DatasetDict
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import dice

from helpers.data import formats, table
from helpers.data.formats import TableError
from helpers.data.table import (
    ACTIONS,
    SAME_TEXT,
    KnownTexts,
    group_key,
    load_table,
    longest_text,
    same_text,
    share_of_common_words,
)
from helpers.data.task import load_task
from helpers.errors import CourseError
from tests.refusals import refusal

PLANTED = json.loads((Path(__file__).parent / "planted_dirt.json").read_text("utf-8"))
KINDS = {"missing_headline": "empty_cell", "bad_star_rating": "bad_number"}  # what they are now
TASKS = ("opinion", "department", "headline", "review")

refused = partial(refusal, TableError)


def write(folder, *lines, name="table.csv", end="\n", encoding="utf-8"):
    path = folder / name
    path.write_bytes((end.join(lines) + end).encode(encoding))
    return path


def cells(dataset, *columns):
    return list(zip(*(list(dataset[column]) for column in columns), strict=True))


def of_kind(report, kind):
    return [finding for finding in report.findings if finding.kind == kind]


# The course's own table


def test_course_table_has_the_planted_dirt_and_no_other():
    report = load_task("opinion").report()
    planted = {KINDS.get(kind, kind): ids for kind, ids in PLANTED.items()}
    assert report.counts() == {kind: len(ids) for kind, ids in planted.items()}
    assert (report.rows_read, report.rows_kept, report.notes) == (1315, 1300, ())
    for kind in ("empty_cell", "html_entity", "stray_space", "bad_number"):
        assert {finding.row_id for finding in of_kind(report, kind)} == set(planted[kind])
    for kind in ("exact_duplicate", "near_duplicate"):
        # Of two equal rows the later one in the file is dropped, whichever was planted.
        pairs = {
            frozenset([finding.row_id, *re.findall(r"R\d{4}", finding.detail)])
            for finding in of_kind(report, kind)
        }
        assert pairs == {frozenset(pair) for pair in planted[kind]}


@pytest.mark.parametrize("task", TASKS)
def test_course_table_is_what_it_always_was(task):
    """The cells of all 1,300 rows, in their order, as the course's first loader gave them."""
    rows = load_task(task).load_table()
    content = [[(name, cell) for name, cell in row.items() if name != "row_id"] for row in rows]
    digest = hashlib.sha256(json.dumps(content, ensure_ascii=False).encode()).hexdigest()
    assert digest == "e65e9ac5813270c9903ee3830dd84cfa9ea6514b0564451ec6292a4b978ab3df"
    assert rows["row_id"][:] == rows["review_id"][:] and len({*rows["row_id"]}) == 1300
    assert rows.features["star_rating"].dtype == "int64"


def test_findings_name_the_line_in_the_file():
    task = load_task("opinion")
    lines = task.source.read_text("utf-8").splitlines()
    found = task.report().findings
    assert all(lines[one.line - 1].startswith(one.row_id + ",") for one in found)
    assert [one.line for one in found] == sorted(one.line for one in found)


def test_report_prints_a_short_table():
    printed = str(load_task("opinion").report())
    assert printed.startswith("reviews.csv: 1,315 rows read, 1,300 kept\n")
    assert re.search(r"12\s+exact_duplicate\s+dropped", printed)


def test_the_data_card_says_what_is_in_the_table():
    task = load_task("opinion")
    card = (task.source.parent / "README.md").read_text("utf-8")
    data = task.source.read_bytes()
    assert hashlib.sha256(data).hexdigest() in card and f"{len(data):,} bytes" in card
    raw = list(csv.DictReader(io.StringIO(data.decode("utf-8"), newline="")))
    rows, report = list(task.load_table()), task.report()
    assert f"{len(raw):,} rows, written for this course by a language model, CC0." in card
    assert f"After cleaning there are {len(rows):,} rows" in card
    for column in ("department", "star_rating"):
        before, after = (Counter(str(row[column]) for row in some) for some in (raw, rows))
        for value, n in after.items():
            assert f"| {value} | {before[value]} | {n} |" in card
    for kind, n in report.counts().items():
        assert f"| `{kind}` | {n} |" in card
    products = Counter(group_key(row["product_title"]) for row in rows)
    homes = {(group_key(row["product_title"]), row["department"]) for row in rows}
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


@pytest.mark.parametrize("rating", ["5", " 5", "5.0", "5.00", "+5"])
def test_numbers_that_are_read(tmp_path, rating):
    rows, report = load_table(write(tmp_path, "t,n", f"a,{rating}"), numbers={"n": (1, 5)})
    assert rows["n"][:] == [5] and not report.findings


@pytest.mark.parametrize("rating", ["", "0", "6", "five", "4.5", "-1", "5 stars", "nan", "55", "٤"])
def test_numbers_that_are_dropped(tmp_path, rating):
    path = write(tmp_path, "t,n", "a,4", f"b,{rating}")
    rows, report = load_table(path, numbers={"n": (1, 5)}, compare=["t"])
    (finding,) = report.findings
    assert rows["t"][:] == ["a"] and repr(rating) in finding.detail
    assert (finding.line, finding.column, finding.kind) == (3, "n", "bad_number")


@pytest.mark.parametrize(
    ("cell", "clean", "kinds"),
    [
        ("it&#39;s fine", "it's fine", ["html_entity"]),
        ("salt &amp; pepper", "salt & pepper", ["html_entity"]),
        ("it&amp;#39;s fine", "it's fine", ["html_entity"]),
        ("caf&#xE9;", "café", ["html_entity"]),
        ("  fine \xa0", "fine", ["stray_space"]),
        ("&nbsp;fine", "fine", ["html_entity", "stray_space"]),
        ('"if a &lt; b:\n    print(""a  first"")"', 'if a < b:\n    print("a  first")', None),
        ("AT&T", "AT&T", []),
        ("salt&pepper;", "salt&pepper;", []),
        ("&notit R&amp", "&notit R&amp", []),
    ],
)
def test_only_named_columns_are_cleaned_and_never_inside(tmp_path, cell, clean, kinds):
    path = write(tmp_path, "raw,text", f"{cell},{cell}")
    rows, report = load_table(path, clean=["text"])
    assert rows["text"][:] == [clean]
    assert rows["raw"][:] == [cell.strip('"').replace('""', '"') if kinds is None else cell]
    if kinds is not None:
        assert [one.kind for one in report.findings] == kinds
        assert {ACTIONS[one.kind] for one in report.findings} <= {"cleaned"}


def test_required_cells_and_empty_ones(tmp_path):
    path = write(tmp_path, "text,title,note", "a,A,", "b,,", " ,C,x")
    rows, report = load_table(path, required=["text"], compare=["text", "title"])
    assert cells(rows, "text", "title", "note") == [("a", "A", ""), ("b", "", "")]
    found = [(one.line, one.column, one.kind, ACTIONS[one.kind]) for one in report.findings]
    assert found == [(3, "title", "empty_cell", "kept"), (4, "text", "missing_value", "dropped")]


def test_a_cell_that_is_empty_once_it_is_clean(tmp_path):
    path = write(tmp_path, "text,label", "&nbsp;,x", "a,y")
    rows, report = load_table(path, clean=["text"], required=["text"])
    assert rows["label"][:] == ["y"] and report.counts()["missing_value"] == 1


def test_a_row_without_anything_for_the_prompt_is_dropped(tmp_path):
    path = write(tmp_path, "head,body,label", ",,pos", ",b,neg", "a,,pos")
    rows, report = load_table(path, prompt=["head", "body"], compare=["head", "body", "label"])
    assert len(rows) == 2
    assert report.counts() == {"empty_cell": 2, "missing_value": 1}


def test_duplicates_are_judged_by_the_columns_in_use(tmp_path):
    path = write(tmp_path, "id,text,label,day", "1,a,x,mo", "2,a,x,tu", "3,a,y,we", "4,b,x,mo")
    rows, report = load_table(
        path, id="id", compare=["text", "label"], prompt=["text"], answer=["label"]
    )
    assert rows["row_id"][:] == ["1", "3", "4"]
    found = [(one.row_id, one.kind, ACTIONS[one.kind]) for one in report.findings]
    assert found == [("2", "exact_duplicate", "dropped"), ("3", "two_answers", "kept")]
    assert "'y'" in report.findings[1].detail and "'x' in 1" in report.findings[1].detail
    # Nothing is said to be in use: all columns but the id are.
    assert len(load_table(path, id="id")[0]) == 4
    with path.open(encoding="utf-8") as file:
        theirs = pandas.read_csv(file).duplicated(["text", "label"])
    assert theirs.tolist() == [False, True, False, False]


def test_duplicates_of_lists_and_after_cleaning(tmp_path):
    path = write(tmp_path, '{"m": [{"a": 1}]}', '{"m": [{"a": 1}]}', '{"m": []}', name="t.jsonl")
    assert load_table(path)[1].counts() == {"exact_duplicate": 1, "empty_cell": 1}
    path = write(tmp_path, "t", "a", " a")
    assert load_table(path, clean=["t"])[1].rows_kept == 1


def test_a_repost_counts_within_its_group(tmp_path):
    text = "My dog likes this toy a lot"
    path = write(
        tmp_path, "t,g", f"{text}.,Rope", f"{text}!!,rope ", f"my dog {text},Ball", f"{text}?,Cup"
    )
    near = of_kind(load_table(path, text=["t"], group="g")[1], "near_duplicate")
    # Line 4 has more words, of another group; line 5 has the very same words.
    assert [(one.line, one.detail[-16:]) for one in near] == [
        (3, "table.csv line 2"),
        (5, "table.csv line 2"),
    ]
    everywhere = of_kind(load_table(path, text=["t"])[1], "near_duplicate")
    assert [one.line for one in everywhere] == [3, 4, 5]


def test_a_large_table_is_searched_for_the_same_words_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(table, "MOST_PAIRS", 2)
    path = write(tmp_path, "t", "a b c d", "a b c d e", "D c b a")
    report = load_table(path, text=["t"])[1]
    assert [one.line for one in of_kind(report, "near_duplicate")] == [4]
    assert "3 pairs" in report.notes[0] and "same words" in str(report)


def test_findings_stay_short(tmp_path):
    dirt = "".join(f"&#{n};" for n in range(200, 9000))
    path = write(tmp_path, "t,n", f"{dirt},1", f"{'9' * 9000},{'9' * 9000}")
    report = load_table(path, clean=["t"], numbers={"n": (1, 5)}, compare=["t"])[1]
    assert {one.kind for one in report.findings} >= {"html_entity", "bad_number"}
    assert all(len(one.detail) < 1000 for one in report.findings)


# Types and ids


def test_types_of_a_csv(tmp_path):
    path = write(
        tmp_path,
        "label,stars,good,zip,word,big,gap,none",
        "-1,4,True,01,true,1,3,NA",
        "0,0,False,10,false,99999999999999999999,,None",
        "1,5,True,22,yes,2,5,null",
    )
    rows, _ = load_table(path)
    assert [rows[name][:] for name in ("label", "stars", "gap")] == [
        [-1, 0, 1],
        [4, 0, 5],
        [3, None, 5],
    ]
    assert rows["good"][:] == [True, False, True]
    assert rows["zip"][:] == ["01", "10", "22"] and rows["word"][:] == ["true", "false", "yes"]
    assert rows["big"][1] == "9" * 20 and rows["none"][:] == ["NA", "None", "null"]


def test_decimal_numbers_of_a_csv_are_numbers_if_they_print_as_they_stand(tmp_path):
    lines = "score,price,mix,gap", "3.8,9.90,1,0.5", "-0.25,1.5,2.5,", "5.0,2.0,3,1.0"
    path = write(tmp_path, *lines)
    rows, _ = load_table(path)
    assert rows["score"][:] == [3.8, -0.25, 5.0] and rows["gap"][:] == ["0.5", "", "1.0"]
    assert rows["price"][:] == ["9.90", "1.5", "2.0"] and rows["mix"][:] == ["1", "2.5", "3"]


def test_types_of_json(tmp_path):
    lines = [
        '{"t": "a", "n": 1, "f": 0.5, "b": true, "mix": 1, "odd": {"x": [1]}, "l": ["a", "b"]}',
        '{"t": null, "n": null, "f": NaN, "b": false, "mix": "2", "odd": 3, "l": null}',
    ]
    rows, report = load_table(write(tmp_path, *lines, name="t.jsonl"), compare=["t", "mix"])
    assert rows["t"][:] == ["a", ""] and rows["n"][:] == [1, None] and rows["f"][:] == [0.5, None]
    assert rows["b"][:] == [True, False] and rows["mix"][:] == ["1", "2"]
    assert rows["odd"][:] == ['{"x": [1]}', "3"] and rows["l"][:] == [["a", "b"], None]
    assert "mix" in report.notes[0]


def test_whole_and_decimal_numbers_of_json_print_as_a_dataset_stores_them(tmp_path):
    path = write(tmp_path, '{"t": "a", "n": 4}', '{"t": "b", "n": 4.5}', name="t.jsonl")
    assert [str(n) for n in formats.read_raw(path).frame["n"]] == ["4.0", "4.5"]
    assert [str(n) for n in load_table(path)[0]["n"]] == ["4.0", "4.5"]


def test_lists_among_texts_are_dropped_where_the_column_is_in_use(tmp_path):
    lines = ['{"q": "a", "a": "x"}', '{"q": "b", "a": ["x", "y"]}', '{"q": null, "a": "z"}']
    path = write(tmp_path, *lines, name="t.jsonl")
    rows, report = load_table(path, prompt=["q"], compare=["q", "a"])
    assert cells(rows, "q", "a") == [("a", "x")]
    assert [(one.line, one.kind) for one in report.findings] == [
        (2, "not_text"),
        (3, "missing_value"),
    ]


def test_row_ids_are_unique_across_files(tmp_path):
    names = []
    for name in ("train.csv", "test.csv"):
        names += load_table(write(tmp_path, "t", "a", "b", name=name))[0]["row_id"][:]
    assert names == [f"{n}.csv line {line}" for n in ("train", "test") for line in (2, 3)]
    path = write(tmp_path, "id,t", "7,a", "7,b", ",c")
    rows, report = load_table(path, id="id")
    assert rows["row_id"][:] == ["7", "7 (table.csv line 3)", "table.csv line 4"]
    assert "1 rows have the id" in report.notes[0]
    path = write(tmp_path, "row_id,t", "x,a")
    assert load_table(path)[0]["row_id"][:] == ["x"]


# Copies of a text


@given(st.text(max_size=60), st.text(max_size=60))
def test_same_text_is_symmetric(a, b):
    assert same_text(a, b) == same_text(b, a)
    assert same_text(a, b) == (share_of_common_words(a, b) >= SAME_TEXT)


@given(st.text(max_size=60))
def test_a_text_is_the_same_as_itself(text):
    assert same_text(text, text) == bool(re.findall(r"\w", re.sub("['’]", "", text)))


def test_same_text_examples():
    text = "The lid leaks and I can't use it."
    assert same_text(text, "the lid laeks and i cant use it")
    assert same_text(text, "Update: still the same. " + text)
    assert not same_text(text, "The lid is fine and I use it daily.")
    assert not same_text("", "") and share_of_common_words("a a b", "a c") == 0.4


def test_share_of_common_words_is_the_dice_coefficient():
    a, b = "red green blue black", "Green, red! yellow"
    words = re.findall(r"\w+", f"{a} {b}".lower())
    sets = [[word in text for word in {*words}] for text in (a, b.lower())]
    assert share_of_common_words(a, b) == pytest.approx(1 - dice(*sets))


def test_known_texts_find_emoji_and_other_scripts():
    known = KnownTexts(pairs=10)
    for number, text in enumerate(("👍👍", "مرحبا يا صديقي العزيز", "Чай хороший и вкусный")):
        known.add(text, str(number))
    assert [known.find("👍👍"), known.find("👎"), known.find(" ")] == ["0", None, None]
    assert known.find("مرحبا يا صديقي") == "1" and known.find("чай хороший и ВКУСНЫЙ!") == "2"


def test_group_key_and_longest_text():
    assert group_key(" Rope  TOY ") == group_key("rope toy") and group_key(None) == ""
    rows = [{"a": "long text", "b": "x", "n": 123456789012}]
    for made in (Dataset.from_list(rows), pandas.DataFrame(rows)):
        assert longest_text(made, ["b", "a", "n"]) == "a" and longest_text(made, ["n"]) is None


# How a file may be written

LINES = ("text,label", '"Tea, hot",pos', '"Two\nlines",neg', '"He said ""no""",pos')
READ = [("Tea, hot", "pos"), ("Two\nlines", "neg"), ('He said "no"', "pos")]


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_separators_and_encodings(tmp_path, separator, encoding):
    buffer = io.StringIO()
    csv.writer(buffer, delimiter=separator).writerows([("text", "label"), *READ])
    path = tmp_path / "table.csv"
    path.write_bytes(buffer.getvalue().encode(encoding))
    rows, report = load_table(path)
    assert cells(rows, "text", "label") == READ
    said = {"utf-16": ["UTF-16"], "utf-8-sig": ["byte order mark"]}.get(encoding, [])
    said += {",": [], ";": ["semicolons"], "\t": ["tabs"], "|": ["bars"]}[separator]
    assert len(report.notes) == len(said)
    assert all(word in note for word, note in zip(said, report.notes, strict=True))


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_every_line_end_is_read(tmp_path, end):
    path = write(tmp_path, "t,n", "a,4", "", "b,9", end=end)
    rows, report = load_table(path, numbers={"n": (1, 5)})
    assert len(rows) == 1 and report.findings[0].line == 4


def test_line_numbers_count_lines_and_not_rows(tmp_path):
    path = write(tmp_path, *LINES, "", "x,")
    report = load_table(path, required=["label"])[1]
    assert report.findings[0].line == 7


@pytest.mark.parametrize(
    "text",
    ["مرحبا 👋🏽", "שלום, עולם", "Чай — хороший", "茶がおいしい", "=1+1", "None", "{x} {{ y }}"],
)
@pytest.mark.parametrize("form", ["csv", "tsv", "json", "jsonl", "parquet", "csv.gz", "jsonl.gz"])
def test_any_text_in_any_format(tmp_path, text, form):
    frame = pandas.DataFrame({"text": [text, "b"], "n": [1, 2]})
    path = tmp_path / f"täble 1.{form}"
    if "parquet" in form:
        frame.to_parquet(path, index=False)
    elif "json" in form:
        frame.to_json(path, orient="records", lines="jsonl" in form, force_ascii=False)
    else:
        frame.to_csv(path, index=False, sep="\t" if form == "tsv" else ",")
    rows, report = load_table(path)
    assert cells(rows, "text", "n") == [(text, 1), ("b", 2)] and not report.findings
    assert rows["row_id"][0].startswith(f"täble 1.{form} ")


def test_cp1252_is_read_and_said(tmp_path):
    path = write(tmp_path, "n,text", "1,plain", "2,Café “gut” – 5 €", encoding="cp1252")
    rows, report = load_table(path)
    assert rows["text"][1] == "Café “gut” – 5 €"
    assert all(word in report.notes[0] for word in ("cp1252", "line 3, character 6,", "0xe9"))


@pytest.mark.parametrize("orient", ["records", "columns", "list", "data"])
def test_ways_to_write_json(tmp_path, orient):
    frame = pandas.DataFrame({"q": ["a", "b"], "n": [1, 2]})
    content = {
        "list": lambda: json.dumps(frame.to_dict("list"), indent=1),
        "data": lambda: json.dumps({"version": "1", "data": frame.to_dict("records")}),
    }.get(orient, lambda: frame.to_json(orient=orient))()
    assert cells(load_table(write(tmp_path, content, name="t.json"))[0], "q", "n") == [
        ("a", 1),
        ("b", 2),
    ]


@pytest.mark.parametrize("indent", [None, 1, 4])
@pytest.mark.parametrize("name", ["t.json", "t.txt", "t.csv"])
def test_json_is_known_by_its_content(tmp_path, indent, name):
    rows = [{"q": "a", "n": 1}, {"q": "b", "n": 2}]
    for content in (rows, {"data": rows}):
        path = write(tmp_path, json.dumps(content, indent=indent), name=name)
        assert cells(load_table(path)[0], "q", "n") == [("a", 1), ("b", 2)]
    # Before, the first was refused as a file without rows, and the second read as two rows.
    for row in ({"q": "a", "n": 1}, {"q": "a", "n": [1, 2]}):
        path = write(tmp_path, json.dumps(row, indent=indent), name=name)
        assert load_table(path)[0].remove_columns("row_id").to_list() == [row]


def test_a_csv_with_json_in_its_name_is_a_csv(tmp_path):
    path = write(tmp_path, "q,n", "a,1", name="from_json.csv")
    assert cells(load_table(path)[0], "q", "n") == [("a", 1)]


def test_json_lines_of_chats_in_a_file_of_any_name(tmp_path):
    line = '{"messages": [{"role": "user", "content": "Hi"}, {"role": "bot", "content": "a"}]}'
    for name in ("two.jsonl", "t.json", "t.txt"):
        rows = load_table(write(tmp_path, line, line.replace("Hi", "Ho"), name=name))[0]
        assert [row["messages"][0]["content"] for row in rows] == ["Hi", "Ho"]
    rows = load_table(write(tmp_path, line, name="one.jsonl"))[0]
    assert rows[0]["messages"][1]["content"] == "a"


def test_the_index_of_pandas_hides_nothing(tmp_path):
    frame = pandas.DataFrame({"text": ["a", "b", "a"], "label": ["x", "y", "x"]})
    frame.to_csv(tmp_path / "once.csv")
    pandas.read_csv(tmp_path / "once.csv").to_csv(tmp_path / "twice.csv")
    frame[frame.index >= 0].to_parquet(tmp_path / "t.parquet", index=True)
    for name in ("once.csv", "twice.csv", "t.parquet"):
        rows, report = load_table(tmp_path / name)
        assert rows.column_names == ["text", "label", "row_id"]
        assert report.counts() == {"exact_duplicate": 1}
        assert len(report.notes) == {"once.csv": 1, "twice.csv": 2}.get(name, len(report.notes))


def test_tabs_without_quotes_and_without_header(tmp_path):
    lines = ['ham\t"Tea is hot', 'spam\tsaid "no', 'ham\tthe end"', "ham\tx"]
    path = write(tmp_path, *lines, name="t.tsv")
    rows, report = load_table(path, names=["label", "text"])
    assert cells(rows, "label", "text") == [tuple(line.split("\t")) for line in lines]
    assert rows["row_id"][0] == "t.tsv line 1" and "quotation marks" in report.notes[0]
    refused(
        lambda: load_table(path, needed=["text"]), "lacks the column text", "columns: [label, text]"
    )
    refused(lambda: load_table(path, names=["a", "b", "c"]), "line 1", "2 cells", "column c")
    with_header = write(tmp_path, "label,text", "a,b")
    assert len(load_table(with_header, names=["label", "text"])[0]) == 1


def workbook(path, *sheets):
    book = openpyxl.Workbook()
    book.remove(book.active)
    for number, rows in enumerate(sheets, start=1):
        sheet = book.create_sheet(f"Part {number}")
        for row in rows:
            sheet.append(row)
    book.save(path)
    return path


def test_a_workbook_gives_the_rows_of_the_same_table_as_csv(tmp_path):
    day = datetime(2026, 1, 11)
    header = ["text", "stars", "score", "good", "day", "code", "gap"]
    one = ["Café – 5 €\nFine", 5.0, 3.8, True, day, "007", 4]
    two = [" b ", 1, -0.25, False, day.replace(hour=9), "12", None]
    path = workbook(tmp_path / "t.xlsx", [[], header, one, [], two], [["other"]])
    lines = [",".join(header), '"Café – 5 €\nFine",5,3.8,True,2026-01-11,007,4']
    lines.append(" b ,1,-0.25,False,2026-01-11T09:00:00,12,")
    rows, report = load_table(path)
    expected = load_table(write(tmp_path, *lines))[0].remove_columns("row_id")
    assert rows.remove_columns("row_id").to_list() == expected.to_list()
    assert rows.features["stars"].dtype == rows.features["gap"].dtype == "int64"
    assert rows["row_id"][:] == ["t.xlsx line 3", "t.xlsx line 5"]
    assert report.notes == ("Of 2 sheets, the first is read: 'Part 1'.",)
    numbers = [5.0, 19.989999999999998, 1e5, 0.1 + 0.2]  # as Excel and Google Sheets store them
    assert [formats._as_text(number) for number in numbers] == ["5", "19.99", "100000", "0.3"]
    path = workbook(tmp_path / "t.xlsx", [["a", "b"], ["c", "d"]])
    assert cells(load_table(path, names=["x", "y"])[0], "x", "y") == [("a", "b"), ("c", "d")]


def test_workbooks_that_cannot_be_read(tmp_path, monkeypatch):
    path = workbook(tmp_path / "t.xlsx", [], [["text"], ["a"]])
    refused(lambda: load_table(path), "t.xlsx", "nothing in its first sheet, 'Part 1'")
    path.write_bytes(path.read_bytes()[:-40])
    refused(lambda: load_table(path), "t.xlsx", "damaged Excel workbook")
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    refused(lambda: load_table(path), "t.xlsx", "needs the package openpyxl", "pip install")


def test_a_dataset_of_the_hub(monkeypatch):
    asked = []

    def load(name, configuration):
        asked.append((name, configuration))
        part = Dataset.from_dict({"t": ["a", None], "n": [0, 1]})
        return DatasetDict({"x": part, "train": part})

    monkeypatch.setattr(formats.datasets, "load_dataset", load)
    rows, report = load_table("hub:owner/name:config")
    assert rows[1] == {"t": "", "n": 1, "row_id": "owner/name train row 2"}
    assert asked == [("owner/name", "config")] and "'train'" in report.notes[0]
    assert str(report).startswith("hub:owner/name:config: 2 rows read")


def test_a_hub_that_does_not_answer(monkeypatch):
    def fail(name, configuration):
        raise ConnectionError("Couldn't reach\nthe Hub.")

    monkeypatch.setattr(formats.datasets, "load_dataset", fail)
    refused(lambda: load_table("hub:owner/name"), "hub:owner/name", "Couldn't reach the Hub.")


# What is refused

NUL = b"text,label\na,b\n\0,c"
PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 40
REFUSED = {
    "empty": (b"", "is empty"),
    "blank": (b"\xef\xbb\xbf\n\n", "is empty"),
    "header alone": (b"text,label\n", "has no rows", "Add rows"),
    "too few cells": (b"text,label\na,b\nc", "line 3", "1 cells", "column label"),
    "too many cells": (b"text,label\na,b\nc,d, e", "line 3", "3 cells", "double quotes"),
    "doubled column": (b"text,label,text\na,b,c", "line 1, column text", "twice"),
    "missing column": (b"txt,label\na,b", "lacks the column text", "txt, label", "Correct"),
    "open quote": (b'text,label\na,b\n"c,d\n' + b"e,f\n" * 9999, "line 3", "quotation mark"),
    "quote in a quote": (b'text,label\n"a "b" c",d', "line 2", "double it"),
    "NUL": (NUL, "line 3, character 1,", "not text"),
    "picture": (PNG, "line 1, character 1,", "not text"),
    "damaged UTF-8": (
        "text,label\né,b\né,".encode() + b"\xe9",
        "line 3, character 3,",
        "not text",
    ),
    "half of UTF-16": ("text,label\na,b".encode("utf-16")[:-1], "line 2,", "not text"),
    "no byte of cp1252": (b"text,label\na,\x81", "line 2,", "not text"),
    "Cyrillic": ("text,label\nЧай хороший,да".encode("cp1251"), "line 2,", "CSV UTF-8"),
    "xlsx": (b"PK\x03\x04 and so on", "Excel", "CSV UTF-8"),
    "xls": (b"\xd0\xcf\x11\xe0 and so on", "old Excel workbook", "Save it as .xlsx"),
    "parquet": (b"PAR1 and so on", "Parquet", "damaged"),
    "half of gzip": (gzip.compress(b"text,label\na,b")[:-9], "cannot be read"),
    "JSON lines": (
        b'{"text": "a", "label": "b"}\n{"text": "a"',
        "line 2, character 13,",
        "not valid JSON",
    ),
    "JSON list": (b'[{"text": "a"},\n {"text": }]', "line 2, character 11,", "not valid JSON"),
    "indented JSON": (b'[\n {\n  "text": }\n]', "line 3, character 11,", "not valid JSON"),
    "JSON columns": (b'{"text": [1, 2], "label": [2]}', "holds no table", "Write each row as"),
    "JSON of lists": (
        b'[{"text": [1], "label": 1}, {"text": [2], "label": 1}, {"text": [{}], "label": 1}]',
        "line 3, column text,",
        "differ in form",
    ),
    "JSON of a long number": (b'{"text": "a", "label": %d}' % 2**70, "line 1, column label,"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_files_that_cannot_be_read(tmp_path, name):
    content, *words = REFUSED[name]
    path = tmp_path / "table.csv"
    path.write_bytes(content)
    message = refused(lambda: load_table(path, needed=["text", "label"]), "table.csv", *words)
    assert len(message) < 1000


def test_other_refusals(tmp_path):
    refused(lambda: load_table(tmp_path / "absent.csv"), "absent.csv", "There is no table")
    refused(lambda: load_table(tmp_path), "cannot be read")
    path = write(tmp_path, "t,n", "a,9", "b,8")
    words = ("2 rows", "line 2, column n", "'9' is not a whole number from 1 to 5")
    refused(lambda: load_table(path, numbers={"n": (1, 5)}), *words)
    assert issubclass(TableError, CourseError)


_cell = st.one_of(
    st.text(max_size=12),
    st.text(',;"\n\r\t\0 =&#39;', max_size=12),
    st.sampled_from(["1", "5.0", "-1", "=1+1", "&amp;", "\ufeff", "a good toy", "A good  toy."]),
)


@given(st.lists(st.tuples(_cell, _cell), min_size=1, max_size=8))
def test_any_cells_come_back_or_are_refused(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("any") / "table.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("t", "n"), *rows])
    try:
        read, report = load_table(path, clean=["n"], compare=["t", "n"])
    except TableError as error:
        assert "\n" not in str(error) and len(str(error)) < 1000
        assert any("\0" in cell for row in rows for cell in row)
        return
    lost = [one for one in report.findings if ACTIONS[one.kind] == "dropped"]
    assert report.rows_read == len(rows) and len(read) + len(lost) == len(rows)
    written = {re.sub("\r\n?", "\n", row[0]) for row in rows}
    assert {str(cell) for cell in read["t"] if cell is not None} <= written | {"None"}


def test_what_excel_and_cut_texts_leave_behind_is_read_or_refused(tmp_path):
    path = write(tmp_path, ";;", "text;label;n", "a;b;1")
    assert list(formats.read_raw(path).frame) == ["text", "label", "n"]
    nameless = write(tmp_path, '[{"Unnamed: 0": 1}, {"Unnamed: 0": 2}]', name="t.json")
    refused(lambda: formats.read_raw(nameless), "no column with a name")
    half = write(tmp_path, '[{"text": "nice \\ud83d"}, {"text": "\\ud83d\\ude00"}]', name="t.json")
    assert formats.read_raw(half).frame["text"].tolist() == ["nice ?", "\U0001f600"]
    for line in ("null", "5", "[1, 2]"):
        stray = write(tmp_path, '{"text": "a"}', line, name="t.jsonl")
        refused(lambda path=stray: formats.read_raw(path), "holds no table")
    packed = gzip.compress(b"text,label\n" + b"a,b\n" * 50)
    damaged = tmp_path / "t.csv.gz"
    damaged.write_bytes(packed[:14] + b"\xff\xff" + packed[16:])
    refused(lambda: formats.read_raw(damaged), "cannot be read")
