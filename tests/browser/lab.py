"""JupyterLab, and a notebook in it as a learner sees and touches it."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlparse

import psutil

from tools import make

ROOT = Path(__file__).resolve().parents[2]
SCREENSHOTS = ROOT / "test-screenshots"
NOT_THE_COURSE = shutil.ignore_patterns(".*", "runs", "executed", "test-screenshots", "__pycache__")
SECONDS = 900  # for the longest notebook, on a busy machine

# Functions for the page. JupyterLab gives the cells' ids to nobody, so they are written to the DOM.
SCRIPT = """
window.course = {
    panel: () => window.jupyterapp.shell.currentWidget,
    cells: () => [...course.panel().content.widgets].filter(cell => cell.model.type === 'code'),
    label: () => course.panel().content.widgets.forEach(c => c.node.dataset.cell = c.model.id),
    counts: () => course.cells().map(cell => cell.model.executionCount),
    outputs: cell => cell.model.outputs.toJSON(),
    errors: () => course.cells().flatMap(cell => course.outputs(cell)
        .filter(one => one.output_type === 'error' || one.name === 'stderr')
        .map(one => `${cell.model.id}: ${one.ename || 'stderr'}: ${one.evalue || one.text}`)),
    failed: () => course.cells().some(
        cell => course.outputs(cell).some(one => one.output_type === 'error')),
    showScreen: number => {  // true: it was the last
        const all = document.querySelector('.jp-WindowedPanel-outer');
        all.scrollTop = number * (all.clientHeight - 60);
        const last = course.panel().content.widgets.at(-1).node;
        return last.getBoundingClientRect().bottom <= all.getBoundingClientRect().bottom;
    },
    kernel: () => course.panel()?.sessionContext?.session?.kernel?.status,
    idle: () => course.kernel() === 'idle'
        && course.cells().every(cell => cell.model.executionState !== 'running'),
    ran: () => course.idle() && (course.failed()
        || !course.counts().includes(null)),
};
"""


def finished_run(profile: str) -> list[Path]:
    """The files of 04's run, where COURSE_RUNS has it: `make test` has run it before."""
    folder = Path(os.environ.get("COURSE_RUNS") or "nowhere") / profile / "opinion"
    files = [folder / "best.pt", folder / "history.json"]
    return files if all(path.exists() for path in files) else []


class Lab:
    """A server: the command of `make lab`, with what a user could add to it."""

    def __init__(self, folder: Path, profile: str) -> None:
        self.profile = profile
        self.course = folder / "course"  # so that nothing that happens here is saved in ours
        shutil.copytree(ROOT, self.course, ignore=NOT_THE_COURSE)
        runs = folder / "runs"
        for path in finished_run(profile):
            (runs / profile / "opinion").mkdir(parents=True, exist_ok=True)
            shutil.copy(path, runs / profile / "opinion")
        no_settings = {name: str(folder / name) for name in ("JUPYTER_CONFIG_DIR", "IPYTHONDIR")}
        environment = make.lab_environment() | no_settings
        environment |= {"COURSE_PROFILE": profile, "COURSE_RUNS": str(runs), "HF_HUB_OFFLINE": "1"}
        environment |= {"JUPYTER_RUNTIME_DIR": str(folder / "runtime")}
        # Notebooks have to find the helpers by themselves, as they do on a learner's machine.
        environment.pop("PYTHONPATH", None)
        added = ["--no-browser", "--port=0", "--LabApp.expose_app_in_browser=True"]
        command = [sys.executable, *make.lab_command(added)[1:]]
        with (folder / "log").open("w") as log:
            self._server = subprocess.Popen(
                command, cwd=self.course, env=environment, stdout=log, stderr=log
            )
        self.url, self.token = self._address(folder)

    def _address(self, folder: Path) -> tuple[str, str]:
        """The server's own note about itself says on which port it listens."""
        end = time.monotonic() + 300
        while time.monotonic() < end and self._server.poll() is None:
            for path in (folder / "runtime").glob("jpserver-*.json"):
                try:
                    note = json.loads(path.read_text(encoding="utf-8"))
                except ValueError:  # not yet written to its end
                    continue
                return note["url"], note["token"]
            time.sleep(0.2)
        raise RuntimeError("JupyterLab did not start:\n" + (folder / "log").read_text())

    def put_back(self, name: str) -> None:
        """The notebook as the course has it: JupyterLab saves what ran, and buttons that no kernel
        stands behind come back as errors."""
        shutil.copy(ROOT / "notebooks" / f"{name}.ipynb", self.course / "notebooks")

    def stop(self) -> None:
        """End the server and its kernels, which on a busy machine takes a while."""
        server = psutil.Process(self._server.pid)
        processes = [*server.children(recursive=True), server]
        self._server.terminate()
        _, alive = psutil.wait_procs(processes, timeout=60)
        for process in alive:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._server.wait()


class Notebook:
    """A notebook in a tab of the browser.

    trouble: what went wrong in the page so far: errors in its console, requests to other hosts.
    """

    def __init__(self, page, lab: Lab, name: str) -> None:
        self.page, self.lab, self.name, self.trouble = page, lab, name, []
        page.set_default_timeout(120_000)
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.trouble.append(f"page: {error}"))
        page.route(lambda url: urlparse(url).hostname not in ("127.0.0.1", "localhost"), self._away)
        page.add_init_script(SCRIPT)
        page.goto(f"{lab.url}lab/tree/notebooks/{name}.ipynb?reset&token={lab.token}")
        page.wait_for_selector(".jp-Notebook .jp-CodeCell")
        page.wait_for_function("() => window.course.idle()")
        page.evaluate("() => course.label()")

    def _console(self, message) -> None:
        if message.type == "error":
            self.trouble.append(f"console: {message.text}")

    def _away(self, route) -> None:
        self.trouble.append(f"request to {route.request.url}")
        route.abort()

    def close(self) -> None:
        """Close the tab and end its kernel."""
        self.page.evaluate("() => course.panel().sessionContext.shutdown()")
        self.page.close()

    # ---- what a learner does

    def run_all(self) -> None:
        """Run, Run All Cells; returns when all have run, or one has failed."""
        self.start_all()
        self.wait_until_ran()

    def start_all(self) -> None:
        """Run, Run All Cells; does not wait."""
        self.page.bring_to_front()
        self.page.get_by_role("menuitem", name="Run", exact=True).click()
        self.page.locator(".lm-Menu-itemLabel", has_text=re.compile("^Run All Cells$")).click()
        self.page.wait_for_function("() => course.counts().includes(null)")

    def press_toolbar(self, button: str) -> None:
        self.page.locator(f'.jp-NotebookPanel-toolbar [data-jp-item-name="{button}"]').click()

    def run(self, cell: str) -> None:
        """Click into a cell and press Shift and Enter; does not wait."""
        self.cell(cell).locator(".cm-content").click()
        self.page.keyboard.press("Shift+Enter")

    def write(self, cell: str, text: str) -> None:
        """Click into a cell and type this in the place of all that it holds."""
        self.cell(cell).locator(".cm-content").click()
        self.page.keyboard.press("ControlOrMeta+a")
        self.page.keyboard.insert_text(text)

    # ---- what a learner sees

    def cell(self, id_: str):
        return self.page.locator(f'.jp-Cell[data-cell="{id_}"]')

    def output(self, id_: str):
        return self.cell(id_).locator(".jp-OutputArea").first

    def with_source(self, text: str) -> str:
        """The id of the one code cell whose source holds this."""
        find = "text => course.cells().filter(cell => cell.model.sharedModel.getSource()"
        (found,) = self.page.evaluate(find + ".includes(text)).map(cell => cell.model.id)", text)
        return found

    def source(self, id_: str) -> str:
        find = "id => course.cells().find(cell => cell.model.id === id)"
        return self.page.evaluate(find + ".model.sharedModel.getSource()", id_)

    def after(self, id_: str) -> str:
        """The id of the next code cell."""
        ids = self.page.evaluate("() => course.cells().map(cell => cell.model.id)")
        return ids[ids.index(id_) + 1]

    def errors(self) -> list[str]:
        """Error outputs, and what was written to stderr."""
        return self.page.evaluate("() => course.errors()")

    def wait_until_ran(self) -> None:
        self.page.wait_for_function("() => course.ran()", timeout=SECONDS * 1000)

    def counts(self) -> list[int]:
        """The numbers that stand before the code cells."""
        return self.page.evaluate("() => course.counts()")

    def screenshot(self, what: str) -> None:
        SCREENSHOTS.mkdir(exist_ok=True)
        path = SCREENSHOTS / f"{self.name}-{self.lab.profile}-{what}.jpg"
        self.page.screenshot(path=path, quality=80)  # JPEG: there are hundreds

    def screenshots(self, what: str) -> None:
        """The whole notebook, screen by screen."""
        number, end = 0, False
        while not end:
            end = self.page.evaluate("number => course.showScreen(number)", number)
            self.screenshot(f"{what}-{number:02}")
            number += 1
