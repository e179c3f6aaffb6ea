"""A real browser, and JupyterLab as `make lab` starts it.

Screenshots of what the tests saw are kept in test-screenshots/.
"""

import os
import shutil

import pytest

from tests.browser.lab import Lab, Notebook

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.parent.name == "browser":
            item.add_marker("browser")


@pytest.fixture(scope="session")
def browser():
    """The machine's own Chromium or Chrome, without a window.

    Where there is none the tests are skipped, unless COURSE_BROWSER=required: then they fail.
    """
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        missing = f"No browser: none of {', '.join(BROWSERS)} is installed."
        if os.environ.get("COURSE_BROWSER") == "required":
            pytest.fail(missing)
        pytest.skip(missing)
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=60_000)  # a busy machine answers a click late
    with sync_playwright() as playwright:
        # Chromium's own sandbox does not work for root, who is the only user in most containers.
        chromium = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def labs(browser, tmp_path_factory):
    """Profile → JupyterLab in a copy of the course, where that profile is in force."""
    running: dict[str, Lab] = {}

    def lab(profile: str) -> Lab:
        if profile not in running:
            running[profile] = Lab(tmp_path_factory.mktemp(profile), profile)
        return running[profile]

    yield lab
    for one in running.values():
        one.stop()


@pytest.fixture
def open_notebook(browser, labs):
    """Open a notebook in a new tab: of the same window as the tab `beside`, if that is given."""
    opened: list[Notebook] = []

    def opens(name: str, profile: str = "smoke", beside: Notebook | None = None) -> Notebook:
        # As wide as a laptop's screen, and high: a screenshot shows what fits on the screen.
        size = {"width": 1280, "height": 1400}
        context = beside.page.context if beside else browser.new_context(viewport=size)
        lab = labs(profile)
        if not any(one.name == name for one in opened):
            lab.put_back(name)
        opened.append(Notebook(context.new_page(), lab, name))
        return opened[-1]

    yield opens
    for notebook in opened:
        notebook.close()
