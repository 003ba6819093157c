"""Whole updates under masks, by real messages: the model of plain sums, and what is written down.

Covers server/sums.py, clients/sums.py.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from fedlite.privacy.ledger import read
from tests.server.test_sums import flat, model, plainly, play, scenario

WHOLE = {"unit": "client", "noise_at": "shared", "clip": 0.5, "epsilon": 3.0}


@pytest.mark.long
def test_the_model_of_whole_updates_is_that_of_plain_sums(tmp_path: Path) -> None:
    steps = {"steps": 3, "learning_rate": 0.5}
    given = scenario(training=steps, privacy=WHOLE | {"simulate_seed": 3})
    play(tmp_path, given, [(2, None, 1)])
    plan, wanted = plainly(given, {2: {1}})
    np.testing.assert_allclose(model(tmp_path), flat(plan, wanted), rtol=2e-6, atol=1e-9)
    assert plan.shared is not None and plan.shared.divisor == 5


@pytest.mark.long
def test_whole_updates_are_summed_and_written_down_as_such(tmp_path: Path) -> None:
    from fedlite.audit import audit

    steps = {"steps": 3, "learning_rate": 0.5}
    given = scenario(seed=-1, training=steps, privacy=WHOLE)
    assert [r.accepted for r in play(tmp_path, given)] == [5, 5, 5]
    privacy = json.loads((tmp_path / "summary.json").read_text())["privacy"]
    assert "replace everything that one site hands in by zero" in privacy["adjacency"]
    (ledger,) = tmp_path.glob("sites/homes/site-01/ledgers/*.jsonl")
    rows = read(ledger)
    assert rows[0].body["plan"]["unit"] == "client-shared"
    assert [row.body["steps"] for row in rows if row.kind == "reserve"] == [1, 1, 1]
    found = audit([tmp_path, *tmp_path.glob("sites/homes/*/ledgers")])
    assert found.clean
    assert "if at least 4 of 5 members are honest" in found.statements[0].sentence
    # A server that says that records were protected, which is another claim.
    told = json.loads((tmp_path / "summary.json").read_text())
    told["privacy"]["unit"] = "record"
    (tmp_path / "summary.json").write_text(json.dumps(told))
    again = audit([tmp_path, *tmp_path.glob("sites/homes/*/ledgers")])
    assert any("committed 'client-shared'" in issue.text for issue in again.findings)
