from __future__ import annotations

import json
from pathlib import Path

import pytest

from server.deployment import Deployment, Enrolled, from_environment


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
