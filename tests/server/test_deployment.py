from __future__ import annotations

import json
from pathlib import Path

import pytest

from fedlite.scenario import from_dict
from server.deployment import Deployment, Enrolled, check_own, from_environment, write_members


def test_a_node_is_the_site_that_the_list_says_now(tmp_path: Path) -> None:
    deployment, file = Deployment(tmp_path), tmp_path / "sites.json"
    assert deployment.site(7) is None
    entry = {"node_id": 7, "ledger_key": "ab", "revoked": False}
    file.write_text(json.dumps({"a": entry}))
    assert deployment.site(7) == Enrolled("a", "ab") and deployment.site(8) is None
    file.write_text(json.dumps({"a": entry | {"revoked": True}}))
    assert deployment.site(7) is None


@pytest.mark.parametrize("text", ["", "[1]", '{"a": 3}', '{"a": {"node_id": 7}}'])
def test_a_list_that_cannot_be_read_lets_nobody_in(tmp_path: Path, text: str) -> None:
    (tmp_path / "sites.json").write_text(text)
    with pytest.raises(ValueError, match="cannot be read"):
        Deployment(tmp_path).site(7)


def test_the_environment_names_the_coordinator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FEDLITE_COORDINATOR", raising=False)
    assert from_environment() is None
    monkeypatch.setenv("FEDLITE_COORDINATOR", str(tmp_path))
    assert from_environment() == Deployment(tmp_path)


def test_a_run_for_some_sites_knows_no_others(tmp_path: Path) -> None:
    """The bundle does not say who the members are; the run directory does, since its submission."""
    entries = {
        name: {"node_id": node, "ledger_key": "ab", "revoked": name == "c"}
        for node, name in enumerate("abcd", 7)
    }
    (tmp_path / "sites.json").write_text(json.dumps(entries))
    scenario, run = from_dict({"federation": {"quorum": 2}}), tmp_path / "run"
    run.mkdir()
    everybody = Deployment(tmp_path)
    assert everybody.of_run(scenario, run) == (scenario, everybody)
    assert everybody.may_ask({7, 8, 99}) == {7, 8, 99}
    write_members(run, "@cardio", ("a", "c"))
    told, some = everybody.of_run(scenario, run)
    assert told.federation.members == "@cardio" and told.federation.quorum == 2
    assert some.may_ask({7, 8, 9, 10, 99}) == {7}
    assert some.site(7) == Enrolled("a", "ab") and some.site(8) is None
    (run / "members.json").write_text("{}")
    with pytest.raises(ValueError, match=r"members\.json: cannot be read"):
        everybody.of_run(scenario, run)


def test_a_run_imports_the_files_that_were_submitted_and_no_others(tmp_path: Path) -> None:
    run, bundle = tmp_path / "run", tmp_path / "bundle"
    for folder in (run, bundle):
        (folder / "own" / "models").mkdir(parents=True)
        (folder / "own" / "models" / "net.py").write_text("make = 1\n")
    check_own(run, bundle)
    check_own(tmp_path / "other", tmp_path / "none")
    (bundle / "own" / "more.py").write_text("")
    with pytest.raises(ValueError, match=r"own/more.py: must be the file that was submitted"):
        check_own(run, bundle)
    (bundle / "own" / "more.py").unlink()
    (bundle / "own" / "models" / "net.py").write_text("make = 2\n")
    with pytest.raises(ValueError, match=r"own/models/net.py: must be the file"):
        check_own(run, bundle)
    (bundle / "own" / "models" / "net.py").unlink()
    with pytest.raises(ValueError, match=r"own/models/net.py: must be the file"):
        check_own(run, bundle)
