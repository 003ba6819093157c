"""Code of the coordinator's own on the page that an operator approves: whole, and not run."""

from __future__ import annotations

from pathlib import Path

import pytest

from clients.runtime import approval
from fedlite.deployment import bundle as bundles
from fedlite.guard import guardian, policy_file
from fedlite.guard.policy import DataSet, Limits, SitePolicy
from fedlite.scenario import ScenarioError, from_dict
from simulations.run import check
from tests.clients.deployed import open_deployed_site
from tests.clients.runtime.test_approval import call, home, made, wait

__all__ = ["home"]

TRAP = "open('SPRUNG', 'w')\nmake = None\n"


@pytest.mark.parametrize("key", ["model.name", "uplink.compressor", "downlink.compressor"])
def test_a_file_that_a_bundle_names_is_shown_whole_and_not_run(
    home: Path, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither by the page that an operator looks at, nor by the site's own process."""
    monkeypatch.chdir(home)
    section, name = key.split(".")
    text = TRAP + "# the \t last line"
    content = made({"own/a/trap.py": text.encode(), "own/more.py": b""},
                   **{section: {name: "own/a/trap.py:make", "options": {"x": [1]}}})  # fmt: skip
    digest = wait(home, content)
    code, output = call(home, digest[:8], "--yes")
    assert code == 1 and "--changed-code" in output and "2 are not" in output
    assert f'{key}: own/a/trap.py:make; options {{"x": [1]}}' in output
    for number, line in enumerate(text.replace("\t", "    ").splitlines(), 1):
        assert f"\n{number:5} | {line}\n" in output
    (own, _) = bundles.read(content).own.values()
    assert f"own/a/trap.py: CODE THAT IS NOT INSTALLED HERE, SHA-256 {own}" in output
    assert f"{key} name code that is not fedlite's" in " ".join(output.split())
    assert call(home, digest[:8], "--yes", "--changed-code")[0] == 0
    seen = approval.review(home, bundles.read(content), {})
    assert seen.to_dict()["own"]["own/a/trap.py"] == {"sha256": own, "text": text}
    guardian.deployed(seen.scenario, home, "0" * 16)
    assert not (home / "SPRUNG").exists()
    # A site that shuts nothing in runs none of it.
    policy_file.write(
        home / "site.toml",
        SitePolicy(data=(DataSet("digits", "digits"),), limits=Limits(sandbox=False)),
    )
    assert any(
        line.startswith("limits.sandbox: is false") and "own/a/trap.py" in line
        for line in approval.review(home, bundles.read(content), {}).refused
    )
    with pytest.raises(guardian.Decline, match=r"limits.sandbox is false, and the plan brings"):
        guardian.deployed(seen.scenario, home, "0" * 16)


@pytest.mark.parametrize("key", ["model.name", "uplink.compressor", "data.name", "data.partition"])
@pytest.mark.parametrize("name", ["TRAP:make", "os:system", "subprocess:run", "python:make"])
def test_other_code_is_refused_by_the_bundle_the_site_and_the_coordinator(
    home: Path, key: str, name: str
) -> None:
    (home / "trap.py").write_text(TRAP)
    name = name.replace("TRAP", str(home / "trap.py"))
    section, field = key.split(".")
    unit = {"privacy": {"unit": "none"}, "training": {"steps": 0}}
    content = made(**{section: {field: name}}, **unit)
    with pytest.raises(bundles.BundleError, match=key):
        bundles.read(content)
    scenario = from_dict({section: {field: name}})
    with pytest.raises(ScenarioError, match=rf"{key}: must be "):
        open_deployed_site(scenario, home, "0" * 16)
    with pytest.raises(ScenarioError, match=rf"{key}: must be "):
        check(scenario, deployed=True)
    assert not (home / "SPRUNG").exists()


def test_a_name_that_is_not_installed_here_is_told(home: Path) -> None:
    for key, name in (("model", "name"), ("uplink", "compressor")):
        seen = approval.review(home, bundles.read(made(**{key: {name: "theirs"}})), {})
        (line,) = (
            line for line in seen.refused if line.startswith(f"{key}.{name}: must be one of")
        )
        assert line.endswith("got 'theirs'")
