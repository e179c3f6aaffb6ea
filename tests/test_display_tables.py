"""Tables: HTML that shows markup as text, and a plain-text twin."""

from html.parser import HTMLParser

from helpers.display import show_table, tables
from helpers.display.tables import table_output


class Cells(HTMLParser):
    """Reads the cells of a table back, as a browser would."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.inside, self.tags = False, set()
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td"):
            self.rows[-1].append("")
            self.inside = True

    def handle_endtag(self, tag):
        self.inside = self.inside and tag not in ("th", "td")

    def handle_data(self, data):
        if self.inside:
            self.rows[-1][-1] += data


def test_a_table_shows_markup_as_text(monkeypatch):
    shown = []
    monkeypatch.setattr(tables, "display", lambda data, **_: shown.append(data))
    show_table(["token", "id"], [["<b>", 7], ["longer", 12]])
    assert "<b>" not in shown[0]["text/html"] and "&lt;b&gt;" in shown[0]["text/html"]
    assert shown[0]["text/plain"].splitlines() == ["token   id", "<b>     7", "longer  12"]


def test_every_cell_is_shown_whole_and_as_it_is():
    header = ["text & <i>more</i>", "value", "value"]
    rows = [
        ["a &lt; b\nnext <td>line</td>", 0.1234567891, None],
        ["x" * 300, "nan", True],
        ["", 1e-12, "001"],
        *([f"row {i}", i, i] for i in range(120)),
    ]
    page = Cells(table_output(header, rows)["text/html"])
    assert page.rows == [header, *([str(cell) for cell in row] for row in rows)]
    assert page.tags == {"table", "thead", "tbody", "tr", "th", "td"}


def test_a_table_without_rows_has_its_header():
    output = table_output(["a", "b"], [])
    assert Cells(output["text/html"]).rows == [["a", "b"]]
    assert output["text/plain"] == "a  b"
