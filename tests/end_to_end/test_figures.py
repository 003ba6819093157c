"""Figures of four real hospitals' tables: approved, charged, told once, and audited from files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from fedlite.data.spread import load_source
from fedlite.scenario import load
from simulations.run import scenario_path
from tests.end_to_end.test_shared_deployment import trusting

ASKED = ("heart", "--epsilon", 1, "--bins", 8, "--set", "federation.deadline_seconds=60")


@pytest.mark.faults
@pytest.mark.data("heart-disease")
def test_hospitals_tell_figures_once_and_their_ledgers_were_charged_before(
    lab: Any, hospitals: Sequence[str]
) -> None:
    lab.start()
    lab.enrol(hospitals)
    for partner in lab.partners.values():
        trusting(partner.home)
    bundle = lab.root / "question.fab"
    lab.fedlite("server", "stats", *ASKED, "--bundle", bundle, seconds=300)
    # The page says what is asked, of which columns, and what it costs whoever colludes.
    first = lab.partners[hospitals[0]]
    page = lab.fedlite("site", "approve", first.home, bundle, "--yes", seconds=300).stdout
    told = "".join(page.split())
    for part in (
        "nothing is trained: once, how many of this site's training records have a value",
        "in which of 8 bins",
        '"age" from -0.33',
        "epsilon 1 at delta 1e-05",
        "if at least 3 of the 4 are honest",
        "if all others collude with the server",
    ):
        assert "".join(part.split()) in told, (part, page)
    for partner in list(lab.partners.values())[1:]:
        lab.fedlite("site", "approve", partner.home, bundle, "--yes", seconds=300)
    for partner in lab.partners.values():
        partner.start()
    for partner in lab.partners.values():
        partner.wait_online(300)

    found = lab.json("server", "stats", *ASKED, "--wait", 300, seconds=900)
    assert found["claimed"] and found["lasting"] and found["summed"] == 4
    assert 0.98 < found["epsilon"] <= 1.0 < found["alone"] < 3
    source = load_source(load(scenario_path("heart"), []).data, settled=True, skip_wrong=True)
    error = found["error_of_counts"]
    ages = found["columns"]["age"]
    # Sites hold a fifth out, which nobody counts: about four fifths of all.
    assert abs(ages["records"]["value"] - 0.8 * len(source.train)) < 60 + 5 * error
    assert sum(ages["histogram"]) == pytest.approx(ages["present"]["value"], abs=5 * error * 8**0.5)

    for name, partner in lab.partners.items():
        rows = partner.ledger()
        kinds = [row["kind"] for row in rows]
        assert kinds.index("reserve") < kinds.index("settle") < kinds.index("release"), name
        plan = rows[0]["body"]["plan"]
        assert (plan["unit"], plan["steps"], plan["members"]) == ("record-shared", 1, 4)
        assert set(plan["group"]) == set(hospitals) and 0.9 < plan["charged"] <= 1.0
    run = lab.coordinator / "runs" / "heart-stats"
    homes = [partner.home for partner in lab.partners.values()]
    audited = json.loads(lab.fedlite("audit", "ledgers", run, *homes, "--json", seconds=300).stdout)
    assert audited["clean"], audited["findings"]
    # The same again: the coordinator says so, and so would every site.
    refused = lab.fedlite("server", "stats", *ASKED, code=2, seconds=300)
    assert "sites answer a question once" in refused.stderr
    for partner in lab.partners.values():
        assert partner.stop() == 0
