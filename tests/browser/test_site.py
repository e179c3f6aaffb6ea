"""The site in a real browser: no barrier, no request to another host, and it fits on a phone."""

import functools
import os
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

pytest.importorskip("sphinx_book_theme", reason="needs requirements-dev.txt, as the tests have it")
pytest.importorskip("axe_playwright_python", reason="needs requirements-dev.txt")

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from tests.browser.lab import ROOT, SCREENSHOTS
from tools import book

# axe looks at these, and at all pages with COURSE_AXE=all, as weekly.yml has it: the contrast of
# colours takes ten times as long as all its other rules.
PAGES = [
    "index",
    "notebooks/00_start_here",
    "notebooks/01_prompt",
    "notebooks/04_fine_tune",
    "docs/glossary",
]
if os.environ.get("COURSE_AXE") == "all":
    found = (path.relative_to(ROOT) for pattern in book.SOURCES for path in ROOT.glob(pattern))
    PAGES = ["index", "search", *sorted(path.with_suffix("").as_posix() for path in found)]
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The address of the site, built anew and served on this machine."""
    SCREENSHOTS.mkdir(exist_ok=True)
    folder = tmp_path_factory.mktemp("book") / "site"
    assert book.build(folder) == 0
    handler = functools.partial(Quiet, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def visit(site, browser):
    """Open a page of the site; at the end, none asked another host or complained in the console."""
    complaints, contexts = [], []

    def own(url):
        return url.startswith((site, "data:"))

    def open_page(name, colours="light", viewport=DESKTOP):
        contexts.append(browser.new_context(color_scheme=colours, viewport=viewport))
        page = contexts[-1].new_page()
        page.set_default_timeout(120_000)
        page.on("console", lambda line: line.type == "error" and complaints.append(line.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: own(request.url) or complaints.append(request.url))
        page.goto(f"{site}/{name}.html", wait_until="networkidle")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not complaints


@pytest.mark.parametrize("colours", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_axe_finds_nothing_serious(visit, name, colours):
    page = visit(name, colours)
    # A script of the theme sets the colours, a moment later on a busy machine.
    expect(page.locator("html")).to_have_attribute("data-theme", colours)
    page.screenshot(path=SCREENSHOTS / f"site_{Path(name).name}_{colours}.png")
    found = serious(page)
    assert not found, "\n".join(found)


def serious(page) -> list[str]:
    """The barriers that axe finds in a page."""
    options = {"preload": False, "resultTypes": ["violations"]}
    return [
        f"{one['impact']} {one['id']}: {one['help']}: {node['html'][:200]}"
        for one in Axe().run(page, options=options).response["violations"]
        if one["impact"] in ("serious", "critical")
        for node in one["nodes"]
    ]


def every_page(page) -> list[str]:
    """The addresses of all pages of the site, as the list beside each page has them."""
    links = page.locator("nav.bd-links a").evaluate_all("links => links.map(link => link.href)")
    assert len(links) > len(list((ROOT / "notebooks").glob("*.ipynb")))
    return links


def test_a_phone_shows_every_page_without_pushing_it_aside(visit, site):
    page = visit("index", viewport=PHONE)
    wide = []
    for address in every_page(page):
        page.goto(address)
        name = Path(address.partition("#")[0]).stem
        page.screenshot(path=SCREENSHOTS / f"site_{name}_phone.png")
        if page.evaluate("document.documentElement.scrollWidth") > PHONE["width"]:
            wide.append(name)
    assert not wide


def test_the_road_and_the_search_lead_to_notebooks(visit):
    page = visit("index")
    page.get_by_role("link", name="Gradient: how each weight moves the loss").click()
    page.wait_for_url("**/notebooks/04_fine_tune.html")
    page.keyboard.press("Control+k")
    page.keyboard.type("perplexity")
    page.keyboard.press("Enter")
    page.wait_for_url("**/search.html?q=perplexity**")
    page.locator("#search-results a", has_text="Glossary").first.wait_for()
