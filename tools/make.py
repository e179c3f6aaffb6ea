"""All that `make` does, for machines with and without make. Needs only Python's standard library.

    python tools/make.py lab            open JupyterLab on the first notebook
    python tools/make.py course         run every notebook and write executed/index.html
    python tools/make.py book           build the course as a web site, in site/
    python tools/make.py test           run the tests, and notebooks 00 to 04, 06 and 07
    python tools/make.py test-rest      what must also pass and takes longer: the other notebooks,
                                        several processes, a class to grade, a browser
    python tools/make.py test-oldest    what must also pass with the oldest versions admitted
    python tools/make.py bench          compare the speed of training and answering
    python tools/make.py check          say what this machine can run and what is missing
    python tools/make.py setup          what most of the others do first, and nothing more: make
                                        .venv, install its packages, fetch the starting model
    python tools/make.py constraints    write constraints.txt anew; with --upgrade, newest versions

For a class (teaching/README.md):

    python tools/make.py teaching       the instructors' notes; slides and a test to print
    python tools/make.py handout        the notebooks without outputs, and all exercises in one
    python tools/make.py solutions      the same, solved and run
    python tools/make.py grade FOLDER   points for the notebooks that were handed in
    python tools/make.py wheelhouse     all that `lab` installs, for a room without a network

What follows on the line goes to the step that can use it: `course 04 --publish`, or `test -k split`
to choose among the unit tests.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

OLDEST, NEWEST_TESTED = (3, 11), (3, 13)
if sys.version_info < OLDEST:  # noqa: UP036 - this file is what tells people with an older Python
    sys.exit(
        "The course needs Python 3.11 or newer, and this is Python {}.{}. Install a newer one and "
        "name it: 'make lab PYTHON=python3.12', or without make: 'python3.12 tools/make.py lab'. "
        "Nothing was changed.".format(*sys.version_info[:2])
    )

ROOT = Path(__file__).resolve().parent.parent
# weekly.yml tries the newest.
TORCH, OLDEST_TORCH = os.environ.get("COURSE_TORCH", "torch==2.13.0"), "torch==2.11.0"
# What touches transformers, datasets, evaluate or ipywidgets; tests/oldest.py also runs notebooks.
PACKAGES = "data model inference training evaluation display".split()
OLDEST_TESTS = ["tests/oldest.py"] + sorted(
    str(path.relative_to(ROOT))
    for package in PACKAGES
    for path in (ROOT / "tests").glob(f"test_{package}_*.py")
)
MORE = "base commands exercises kernel machine".split()
MORE += [f"exercises_{name}" for name in "at_work museum predictions split template".split()]
OLDEST_TESTS += [f"tests/test_{name}.py" for name in MORE]
# Two tests or two notebooks at once, with one thread each.
AT_ONCE, ONE_THREAD = ["-n2", "--dist=worksteal"], {"OMP_NUM_THREADS": "1"}
NOTEBOOKS_AT_ONCE = ["-n2", "--dist=loadfile", "--no-loadscope-reorder"]
MAKERS = "04_fine_tune 01_prompt 03_split 02_template 00_start_here".split()
USERS = ["06_test", "07_instruct_model"]  # they load what 04 and 01 have made
# They train several models each.
LONGEST = ["05_validate", "08_forgetting"]
# The results of tests: a learner's own must not help the notebooks through.
RESULTS = ROOT / "runs" / "test"
TEST_ENVIRONMENT = {"COURSE_PROFILE": "quick", "COURSE_RUNS": str(RESULTS), "HF_HUB_OFFLINE": "1"}
TEST_ENVIRONMENT |= ONE_THREAD
NO_TESTS = 5  # pytest's status when `-k split` chose none


class SetupError(Exception):
    """A set-up that cannot go on: what happened and what to do."""


def python_of(name: str) -> str:
    """The interpreter of the environment with this folder name."""
    return str(ROOT / name / ("Scripts/python.exe" if os.name == "nt" else "bin/python"))


PYTHON, OLDEST_PYTHON = python_of(".venv"), python_of(".venv-oldest")


def set_up(requirements: str) -> None:
    """Make .venv and bring its packages up to `requirements`; no work where all is there."""
    version = "import pip, sys; print(*sys.version_info[:2])"
    if output(PYTHON, "-c", version).split() != [str(number) for number in sys.version_info[:2]]:
        print("== Making .venv, once. This takes some minutes.", flush=True)
        run(sys.executable, "-m", "venv", "--clear", ".venv")
    if not output(PYTHON, "-m", "uv", "--version"):
        run(PYTHON, "-m", "pip", "install", "--quiet", "uv>=0.7.14,<1")
    pinned = ["-c", "constraints.txt"] if sys.version_info[:2] <= NEWEST_TESTED else []
    install(PYTHON, TORCH, "-r", requirements, *pinned)


def install(python: str, torch: str, *rest: str) -> None:
    """Install torch and the rest with uv.

    On Linux the package index's own torch brings several GB of GPU libraries. So uv first asks
    PyTorch's index for the build that fits this machine; some networks cannot reach that one.
    """
    uv = [PYTHON, "-m", "uv", "pip", "install", "--python", python]
    quiet = {"env": pip_settings() | {"UV_HTTP_RETRIES": "1"}, "stderr": subprocess.DEVNULL}
    fitting = [*uv, "--no-deps", "--torch-backend=auto", torch]
    if subprocess.run(fitting, cwd=ROOT, **quiet).returncode != 0:
        run(*uv, "--no-deps", torch)
    run(*uv, *rest)


def use_wheelhouse() -> None:
    """Have pip and uv take everything from a folder of wheels, if there is one, and ask no network.

    The folder is COURSE_WHEELHOUSE or wheelhouse/; `make wheelhouse` fills it.
    """
    named = os.environ.get("COURSE_WHEELHOUSE")
    folder = Path(named or ROOT / "wheelhouse").absolute()
    if folder.is_dir():
        print(f"== Installing from {folder} alone.", flush=True)
        # As an address, since pip takes a space for the end of a path. uv gets it in pip_settings.
        os.environ.pop("UV_FIND_LINKS", None)
        os.environ |= {"PIP_FIND_LINKS": folder.as_uri(), "PIP_NO_INDEX": "1", "UV_OFFLINE": "1"}
    elif named:
        raise SetupError(f"COURSE_WHEELHOUSE names {folder}, and there is no such folder.")


def pip_settings() -> dict[str, str]:
    """The environment for uv, which does not read what pip has been told about mirrors, proxies and
    certificates."""
    names = {"index-url": "UV_DEFAULT_INDEX", "find-links": "UV_FIND_LINKS"}
    names |= {"proxy": "ALL_PROXY", "cert": "SSL_CERT_FILE"}
    environment = {}
    lines = output(PYTHON, "-m", "pip", "config", "list").splitlines()
    for line in sorted(lines, key=lambda line: line.startswith(":env:")):  # these count most
        key, _, value = line.partition("=")
        if (name := names.get(key.rpartition(".")[2])) is not None:
            environment[name] = ",".join(value.strip("'\"").split())
    return environment | os.environ


def lab_command(arguments: list[str]) -> list[str]:
    """The command that opens JupyterLab on the first notebook."""
    command = [PYTHON, "-m", "jupyterlab", "--ServerApp.root_dir=."]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        command.append("--allow-root")  # in a container, root is the only user there is
    return [*command, "notebooks/00_start_here.ipynb", *arguments]


def lab_environment() -> dict[str, str]:
    """The environment for it: it neither asks about news nor looks for updates in the network."""
    asked = [str(ROOT / "tools" / "jupyter"), os.environ.get("JUPYTER_CONFIG_PATH", "")]
    return os.environ | {"JUPYTER_CONFIG_PATH": os.pathsep.join(filter(None, asked))}


def lab(arguments: list[str]) -> int:
    """Open JupyterLab on the first notebook; ends when JupyterLab does."""
    server = subprocess.Popen(lab_command(arguments), cwd=ROOT, env=lab_environment())
    while True:
        try:
            return server.wait()
        except KeyboardInterrupt:
            continue  # JupyterLab got it as well, and asks whether to stop


def test(arguments: list[str]) -> int:
    """What every change must pass: ruff, the unit tests, and every cell of the road's notebooks but
    the two longest."""
    shutil.rmtree(RESULTS, ignore_errors=True)
    return (
        status(PYTHON, "-m", "ruff", "check", ".")
        or unit_tests("-m", "not slow", *arguments)
        or notebook_tests(MAKERS)
        or notebook_tests(USERS)
    )


def test_rest(arguments: list[str]) -> int:
    """What takes longer: slow unit tests, the other notebooks, a browser.

    05 goes on from what `test` has trained, if it ran before. The notebooks beside the road
    run at `smoke`; weekly.yml runs them with the real model, on a small machine.
    """
    found = {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")}
    others = sorted(found - {*MAKERS, *USERS, *LONGEST}, reverse=True)  # 09 is the shortest
    return (
        unit_tests("-m", "slow", *arguments)
        or notebook_tests(LONGEST)
        or notebook_tests(others, COURSE_PROFILE="smoke")
        or browser_tests()
    )


def unit_tests(*arguments: str) -> int:
    found = status(PYTHON, "-m", "pytest", *AT_ONCE, *arguments, **TEST_ENVIRONMENT)
    return 0 if found == NO_TESTS else found


def notebook_tests(names: Iterable[str], **environment: str) -> int:
    """Run every cell of these notebooks. environment: what is to differ from TEST_ENVIRONMENT."""
    nbval = ["--nbval-lax", "--nbval-current-env", "-x"]
    nbval += ["--nbval-cell-timeout=1800", "--nbval-kernel-startup-timeout=300"]
    paths = [f"notebooks/{name}.ipynb" for name in names]
    command = [PYTHON, "-m", "pytest", *nbval, *NOTEBOOKS_AT_ONCE, "--durations=15", *paths]
    return status(*command, **TEST_ENVIRONMENT | environment)


def browser_tests() -> int:
    """The notebooks and the site in a browser. What fails is tried once more, by itself: a click
    can come too early on a busy machine."""
    shutil.rmtree(ROOT / "test-screenshots", ignore_errors=True)  # those of former runs
    command = [PYTHON, "-m", "pytest", "tests/browser", "-rs", "--durations=15"]
    first = status(*command, *AT_ONCE, **TEST_ENVIRONMENT)
    return first and status(*command, "--last-failed", **TEST_ENVIRONMENT)


def test_oldest(arguments: list[str]) -> int:
    """Convert the starting model, run tests and notebooks with the oldest versions admitted."""
    run(PYTHON, "-m", "uv", "venv", "-q", "--clear", "--seed", "--python", PYTHON, ".venv-oldest")
    lowest = ["--resolution=lowest-direct", "-r", "requirements-oldest.txt"]
    install(OLDEST_PYTHON, OLDEST_TORCH, *lowest)
    shutil.rmtree(RESULTS, ignore_errors=True)
    environment = {"COURSE_CACHE": str(RESULTS / "cache"), "COURSE_PROFILE": "smoke"}
    return status(OLDEST_PYTHON, "-m", "helpers.model", **environment) or status(
        OLDEST_PYTHON,
        "-m",
        "pytest",
        *AT_ONCE,
        *(arguments or ["-m", "not slow", *OLDEST_TESTS]),
        "--durations=15",
        **environment,
        **ONE_THREAD,
    )


def program(*words: str) -> Callable[[list[str]], int]:
    """A target that another program does."""
    return lambda arguments: status(PYTHON, *words, *arguments)


def bench(arguments: list[str]) -> int:
    """Compare training and answering with the usual ways; `bench answers` does only one of them."""
    names = arguments or ["loop", "answers"]
    return max(status(PYTHON, "-m", f"benchmarks.{name}") for name in names)


def constraints(arguments: list[str]) -> int:
    """Write constraints.txt: what uv chooses for requirements-dev.txt, for each system and each
    Python that is admitted. Versions in it stay; `constraints --upgrade` takes the newest.

    Left out are GPU libraries, which depend on the build of torch, and the names of local builds.
    """
    path = ROOT / "constraints.txt"
    command = [PYTHON, "-m", "uv", "pip", "compile", "-q", "--no-annotate", "--no-header"]
    command += ["--universal", "--python-version", "{}.{}".format(*OLDEST), "-o", path.name]
    asked = (ROOT / "requirements-dev.txt").read_text(encoding="utf-8") + TORCH
    options = {"cwd": ROOT, "env": pip_settings(), "input": asked, "text": True, "check": True}
    subprocess.run([*command, *arguments, "-"], stdout=subprocess.DEVNULL, **options)
    gpu = ("nvidia-", "cuda-", "triton")
    compiled = path.read_text(encoding="utf-8").splitlines()
    lines = [re.sub(r"\+[\w.]+", "", line) for line in compiled if not line.startswith(gpu)]
    header = "# requirements-dev.txt in the versions tested together. Generated: make constraints"
    path.write_text("\n".join([header, *lines, ""]), encoding="utf-8", newline="\n")
    return 0


def output(*command: str) -> str:
    """What a command printed; "" when there is no such command or it failed."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return ""


def status(*command: str, **environment: str) -> int:
    """Run one command from the repository's root and return its exit status."""
    # Notebooks have to find the helpers by themselves, as they do on a learner's machine.
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(command, cwd=ROOT, env=inherited | environment).returncode


def run(*command: str) -> None:
    """Run one command of the set-up. Raises SetupError when it fails."""
    if status(*command, **pip_settings()) != 0:
        raise SetupError(
            "The set-up could not go on; the message above says why. It needs a network and 3 GB "
            f"of space in {ROOT}, and on Debian and Ubuntu the package python3-venv. Mend what is "
            "missing and type the command again: finished downloads are kept. If it fails in the "
            "same way, delete the folder .venv first."
        )


TARGETS = {"lab": lab, "test": test, "test-rest": test_rest, "test-oldest": test_oldest}
TARGETS |= {"bench": bench, "setup": lambda _: 0, "constraints": constraints}
# In an interpreter that may have nothing installed.
TARGETS |= {"check": lambda _: status(sys.executable, "tools/check.py")}
TARGETS |= {"course": program("tools/run_course.py"), "book": program("tools/book.py")}
TARGETS |= {"teaching": program("-m", "tools.teaching")}
TARGETS |= {
    name: program("-m", "tools.classroom", name)
    for name in ("handout", "solutions", "grade", "wheelhouse")
}
REQUIREMENTS = dict.fromkeys(["test", "test-rest", "grade"], "requirements-dev.txt")
REQUIREMENTS |= {"book": "requirements-book.txt"}
FROM_THE_NETWORK = [*REQUIREMENTS, "test-oldest", "constraints", "wheelhouse"]


def main(arguments: list[str]) -> int:
    if not arguments or arguments[0] not in TARGETS:
        print(__doc__)
        return 2
    target, rest = arguments[0], arguments[1:]
    # Many containers set this. Then each process compiles all that it imports anew, and for PyTorch
    # that takes longer than the import itself.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    if target == "check":  # before any set-up, too
        return TARGETS[target](rest)
    try:
        if target not in FROM_THE_NETWORK:
            use_wheelhouse()
        set_up(REQUIREMENTS.get(target, "requirements-work.txt"))
        if target in ("book", "test-oldest", "constraints"):  # they need no starting model
            return TARGETS[target](rest)
        # helpers/model explains by itself what fails.
        return status(PYTHON, "-m", "helpers.model") or TARGETS[target](rest)
    except SetupError as problem:
        print(f"\n{problem}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit("\nInterrupted. Type the same command again to go on.")
