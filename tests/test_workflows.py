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


def test_set_up_and_tests_run_on_the_systems_of_learners():
    text = (ROOT / ".github" / "workflows" / "systems.yml").read_text(encoding="utf-8")
    job = yaml.safe_load(text)["jobs"]["systems"]
    systems = {name.partition("-")[0] for name in job["strategy"]["matrix"]["system"]}
    assert systems == {"ubuntu", "windows", "macos"}
