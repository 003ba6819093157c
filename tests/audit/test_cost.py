"""Accountants that are missing or disagree are said."""

from __future__ import annotations

from typing import Any

import pytest

from fedlite.audit import audit, cost as audit_cost
from tests.audit.findings import found
from tests.privacy.federation import World


def test_a_missing_prv_library_is_said(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: Any, **__: Any) -> float:
        raise ImportError("no prv")

    monkeypatch.setattr(audit_cost, "compose_prv", missing)
    result = audit([world.run])
    assert result.clean and "not-computed" in {issue.rule for issue in result.notes}
    assert result.statements[0].as_dict()["epsilon"]["spent"]["prv"] is None


@pytest.mark.parametrize(("name", "by"), [("compose_rdp", 0.5), ("compose_prv", 1.1)])
def test_accountants_that_disagree_are_found(
    world: World, monkeypatch: pytest.MonkeyPatch, name: str, by: float
) -> None:
    real = getattr(audit_cost, name)
    monkeypatch.setattr(audit_cost, name, lambda *a, **k: by * real(*a, **k))
    assert "accountants-disagree" in found(world.sites[0].path)
