"""Files for contributors are consistent with the project."""

import re
from pathlib import Path

import pytest
import yaml

from commands import env

ROOT = Path(__file__).parents[1]
PINNED = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.M))


def test_hooks_have_the_versions_that_make_installs() -> None:
    repos = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    versions = {repo["repo"].rpartition("/")[2]: repo["rev"] for repo in repos}
    assert versions == {"ruff-pre-commit": f"v{PINNED['ruff']}", "mirrors-mypy": f"v{PINNED['mypy']}"}


def test_every_package_that_make_installs_is_pinned() -> None:
    names = {name.lower().replace("_", "-") for name in PINNED}
    wanted = {name.lower().replace("_", "-") for its in env.dependencies().values() for name in its}
    assert wanted <= names


@pytest.mark.parametrize("name", ["ISSUE_TEMPLATE/bug.yml", "ISSUE_TEMPLATE/feature.yml", "pull_request_template.md"])
def test_templates_ask_for_the_output_of_env(name: str) -> None:
    assert "`tessera env`" in (ROOT / ".github" / name).read_text()


def test_continuous_integration_runs_make_test_on_the_oldest_and_newest_python() -> None:
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text())["jobs"]
    assert jobs["test"]["strategy"]["matrix"]["python"] == ["3.11", "3.13"]
    assert {"run": "make test"} in jobs["test"]["steps"]
    assert {"run": "make test-lowest"} in jobs["test-lowest"]["steps"]


def test_the_citation_is_of_this_version() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert env._tessera().startswith(f"{cited['version']}, ")
    assert f"\n## {cited['version']}\n" in (ROOT / "CHANGELOG.md").read_text()
