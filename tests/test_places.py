"""The files for ready-made places agree with the rest of the repository."""

import json
import re
import tomllib
from pathlib import Path

import yaml

from tools import make, sync_notebooks

ROOT = Path(__file__).resolve().parent.parent


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_container_and_codespace_use_a_python_that_is_admitted_and_our_set_up():
    image = json.loads(read(".devcontainer/devcontainer.json"))
    assert image["postCreateCommand"] == "python tools/make.py setup"
    versions = re.findall(r"python:3\.(\d+)", read("Dockerfile") + image["image"])
    assert len(versions) == 2
    for version in versions:
        assert make.OLDEST[1] <= int(version) <= make.NEWEST_TESTED[1]
    assert "RUN python tools/make.py setup" in read("Dockerfile")


def test_the_learner_makes_the_folder_of_the_container_in_which_the_set_up_makes_venv():
    lines = [line for line in read("Dockerfile").splitlines() if not line.startswith("#")]
    as_root, as_learner = "\n".join(lines).split("\nUSER learner\n")
    folder = re.search(r"^WORKDIR (\S+)$", as_learner, re.MULTILINE)[1]
    # What root makes, be it only on the way to runs/, stays root's.
    assert folder not in as_root
    assert as_learner.startswith(f"RUN mkdir -p {folder}/runs\n")


def test_the_container_gets_nothing_that_git_ignores():
    ignored = [line.rstrip("/") for line in read(".gitignore").splitlines()]
    # For git a name without a slash counts in every folder, for docker only in the first.
    patterns = [line if "/" in line else f"**/{line}" for line in ignored]
    assert read(".dockerignore").splitlines() == [".git", *patterns]


def test_binder_has_what_make_lab_installs():
    assert "-r requirements-work.txt -c constraints.txt" in read("binder/postBuild")


def test_citation_and_changelog_name_this_version():
    version = tomllib.loads(read("pyproject.toml"))["project"]["version"]
    citation = yaml.safe_load(read("CITATION.cff"))
    assert citation["version"] == version and f"## {version}" in read("CHANGELOG.md")
    assert citation["repository-code"] == sync_notebooks.address()


def test_hooks_call_programs_of_this_repository():
    for hook in yaml.safe_load(read(".pre-commit-config.yaml"))["repos"][0]["hooks"]:
        paths = re.findall(r"(?:tools|tests)/\w+\.py", hook["entry"])
        assert all((ROOT / path).exists() for path in paths)
        assert paths or "ruff" in hook["entry"]


def test_issue_templates_are_valid_yaml_with_a_question():
    paths = [*(ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml")]
    assert paths
    for path in paths:
        template = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert {"name", "description", "body"} <= template.keys()
        assert any(one["type"] == "textarea" for one in template["body"])
