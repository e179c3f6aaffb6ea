"""The workflows of GitHub Actions, read as files."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_actions_are_pinned_by_hash_and_jobs_end(path):
    text = path.read_text(encoding="utf-8")
    for line in re.findall(r"uses: (.+)", text):
        assert re.fullmatch(r"[\w.-]+/[\w.-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line), line
    for name, job in yaml.safe_load(text)["jobs"].items():
        assert "timeout-minutes" in job, name


def test_an_action_has_the_same_hash_everywhere():
    uses = re.findall(r"uses: ([^@\s]+)@(\w+)", "".join(p.read_text("utf-8") for p in WORKFLOWS))
    assert len(set(uses)) == len({name for name, _ in uses})


def jobs() -> dict[str, dict]:
    """Name → job, of all workflows."""
    read = [yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"] for path in WORKFLOWS]
    return {name: job for one in read for name, job in one.items()}


def test_no_workflow_skips_the_browser_and_what_it_showed_is_kept():
    opens_one = re.compile(r"\.ci/run|test-rest|tests/browser")
    with_browser = {}
    for name, job in jobs().items():
        for step in job["steps"]:
            if opens_one.search(step.get("run", "")):
                with_browser[name] = step["env"]["COURSE_BROWSER"]
                (kept,) = [one for one in job["steps"] if "upload-artifact" in one.get("uses", "")]
                assert kept["if"] == "always()" and kept["with"]["path"] == "test-screenshots"
    assert with_browser == dict.fromkeys(["test", "newest", "whole"], "required")


def test_what_takes_too_long_for_each_change_is_done_weekly():
    text = (ROOT / ".github" / "workflows" / "weekly.yml").read_text(encoding="utf-8")
    weekly = yaml.safe_load(text)["jobs"]
    assert "cron:" in text and {"newest", "binder", "offline", "whole", "links"} <= weekly.keys()
    assert "--no-browser" in str(jobs()["offline"]) and "/api/status" in str(jobs()["offline"])
    steps = jobs()["whole"]["steps"]
    assert {"make solutions", "make grade"} < {step.get("run") for step in steps}
    (site,) = [step for step in steps if "test_site.py" in step.get("run", "")]
    assert site["env"]["COURSE_AXE"] == "all"


def test_binder_is_tried_with_what_it_is_built_from():
    steps = jobs()["binder"]["steps"]
    (python,) = [one["with"]["python-version"] for one in steps if "setup-python" in str(one)]
    assert f"python-{python}" == (ROOT / "binder" / "runtime.txt").read_text("utf-8").strip()
    runs = "\n".join(one.get("run", "") for one in steps)
    assert "binder/postBuild" in runs and "make setup" not in runs


def test_links_are_looked_at_in_every_text():
    checked = str(jobs()["links"])
    texts = [path.relative_to(ROOT) for path in ROOT.glob("[!.]*/*.md")]
    assert texts and '"./*.md"' in checked and '"./notebooks/*.ipynb"' in checked
    for path in texts:
        assert f"./{path.parent}/*.md" in checked


def test_set_up_and_tests_run_on_the_systems_of_learners():
    text = (ROOT / ".github" / "workflows" / "systems.yml").read_text(encoding="utf-8")
    job = yaml.safe_load(text)["jobs"]["systems"]
    runs = "\n".join(step.get("run", "") for step in job["steps"])
    for command in ("tools/make.py setup", "-m pytest", "tools/run_course.py 00"):
        assert command in runs
    systems = {name.partition("-")[0] for name in job["strategy"]["matrix"]["system"]}
    assert systems == {"ubuntu", "windows", "macos"}
