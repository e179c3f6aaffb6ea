"""The site: built once, whole, and read as files. tests/browser/test_site.py looks at it."""

import hashlib
import json
import re
from binascii import a2b_base64
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from bs4 import BeautifulSoup

pytest.importorskip("sphinx_book_theme", reason="needs requirements-book.txt, as the tests have it")
pytest.importorskip("myst_nb", reason="needs requirements-book.txt, as the tests have it")

from helpers.display.diagrams import STAGES
from tools import book

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
GITHUB = "https://github.com/first-fine-tune/first-fine-tune"
PAGES = {"README.md": "index.md", "notebooks/01_a.ipynb": "notebooks/01_a.ipynb"}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("book") / "site"
    assert book.build(folder) == 0, "Sphinx's messages above say what it warns of"
    return folder


@pytest.fixture(scope="module")
def pages(site):
    """Path in the site → the page, parsed."""
    return {
        path.relative_to(site).as_posix(): BeautifulSoup(path.read_bytes(), "html.parser")
        for path in site.rglob("*.html")
        if "_static" not in path.parts  # the theme's own templates
    }


def test_every_notebook_and_page_is_there(pages):
    assert {f"notebooks/{name}.html" for name in NOTEBOOKS} < set(pages)
    assert {"index.html", "search.html", "docs/glossary.html"} < set(pages)


def test_every_link_and_anchor_inside_the_site_resolves(site, pages):
    broken = []
    for name, page in pages.items():
        for link in page.find_all(href=True):
            parts = urlsplit(link["href"])
            if parts.scheme or parts.netloc:
                continue
            path = (site / name).parent / unquote(parts.path) if parts.path else site / name
            path = path.resolve()
            anchor = unquote(parts.fragment)
            if not path.is_file():
                broken.append(f"{name}: {link['href']}")
            elif anchor:
                target = pages[path.relative_to(site.resolve()).as_posix()]
                if not target.find(id=anchor):
                    broken.append(f"{name}: {link['href']}")
    assert not broken


def test_no_page_loads_anything_from_another_host(site, pages):
    asked = [
        f"{name}: {element[attribute]}"
        for name, page in pages.items()
        for attribute in ("src", "srcset", "data", "poster", "href")
        for element in page.find_all(True, {attribute: re.compile("^(https?:)?//")})
        if element.name != "a"
    ]
    styles = {f"{name}: style": str(tag) for name, page in pages.items() for tag in page("style")}
    styles |= {path.name: path.read_text(encoding="utf-8") for path in site.rglob("*.css")}
    outside = re.compile(r"""(url\(|@import)\s*["']?(https?:)?//""")
    assert not asked + [name for name, style in styles.items() if outside.search(style)]


def test_every_image_has_an_alternative_in_words(pages):
    images = [(name, image) for name, page in pages.items() for image in page("img")]
    assert len(images) > 50
    for name, image in images:
        alt = image.get("alt", "")
        assert " " in alt, f"{name}: {alt or image['src'][:60]!r}"


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_the_alternative_of_a_picture_is_that_of_its_own_output(pages, name):
    notebook = json.loads((ROOT / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8"))
    stored = []
    for output in (one for cell in notebook["cells"] for one in cell.get("outputs", [])):
        if picture := output.get("data", {}).get("image/png"):
            file = hashlib.sha256(a2b_base64("".join(picture))).hexdigest()
            stored.append((f"{file}.png", output["metadata"]["image/png"]["alt"]))
    shown = pages[f"notebooks/{name}.html"].select(".cell_output img[src*=_images]")
    assert [(Path(image["src"]).name, image["alt"]) for image in shown] == stored


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_leads_on_back_and_into_a_running_one(pages, name):
    page = pages[f"notebooks/{name}.html"]
    assert page.select_one("a.left-prev") and page.select_one("a.right-next")
    links = [link["href"] for link in page.select("article a[href]")]
    assert [link for link in links if "colab.research" in link and link.endswith(f"{name}.ipynb")]
    assert [link for link in links if "mybinder.org" in link and link.endswith(f"{name}.ipynb")]
    assert len(page.select("details.hide")) >= 1, "the set-up is folded"


def test_the_road_leads_to_the_notebooks(site, pages):
    road = pages["index.html"].select_one(".road svg")
    boxes = road.select("a")
    titles = [title for _, _, _, title, *_ in STAGES.values()]
    assert [box["aria-label"].partition(":")[0] for box in boxes] == titles
    assert road["role"] == "group" and not road.select("desc")
    for box in boxes:
        assert (site / box["href"]).is_file()
        assert len(box.select("text")) >= 2 and len(box.select("rect")) >= 1


def test_formulas_are_written_without_a_script(pages):
    page = pages["notebooks/04_fine_tune.html"]
    assert len(page("math")) > 3
    assert not [script for script in page("script") if "mathjax" in str(script).lower()]


def test_links_are_turned_to_where_they_hold():
    def staged(text, name="notebooks/01_a.ipynb"):
        return book.staged_text(text, name, PAGES)

    assert staged("[a](01_a.ipynb#part)") == "[a](01_a.ipynb#part)"
    assert staged("[a](../README.md)") == "[a](../index.md)"
    assert staged("[a](notebooks/01_a.ipynb)", "README.md") == "[a](notebooks/01_a.ipynb)"
    assert staged("[a](../data/tasks/)") == f"[a]({GITHUB}/tree/main/data/tasks)"
    assert staged("[a](../Makefile)") == f"[a]({GITHUB}/blob/main/Makefile)"
    assert staged("`x[0](y)` [a](https://b.c/d) [a](#e)") == "`x[0](y)` [a](https://b.c/d) [a](#e)"


def test_hidden_code_is_folded():
    cell = {"cell_type": "code", "source": [], "outputs": []}
    cell["metadata"] = {"jupyter": {"source_hidden": True}, "tags": ["mine"]}
    plain = {"cell_type": "code", "source": [], "outputs": [], "metadata": {}}
    metadata = {"language_info": {"name": "python"}}
    text = json.dumps({"cells": [cell, plain], "metadata": metadata})
    first, second = json.loads(book.staged_notebook(text, "notebooks/01_a.ipynb", PAGES))["cells"]
    assert first["metadata"]["tags"] == ["mine", "hide-input"]
    assert second["metadata"] == {}
