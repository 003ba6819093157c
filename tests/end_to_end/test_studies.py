"""Two studies on one coordinator, in real processes: who has no part in one hears nothing of it."""

from __future__ import annotations

from typing import Any

import pytest

# Of the four hospitals of the source some take part; who else might come is waited for so long.
SETTINGS = (
    "--rounds", "2", "--set", "privacy.unit=none", "--set", "federation.deadline_seconds=20",
    "--set", "inference.home_head=false", "--set", "report.baseline_repeats=0",
)  # fmt: skip
STUDIES = {"cardio": ("cleveland", "hungary"), "neuro": ("switzerland",)}

pytestmark = pytest.mark.faults


@pytest.mark.data("heart-disease")
def test_a_site_that_has_no_part_in_a_study_gets_nothing_of_it(lab: Any) -> None:
    lab.start()
    lab.enrol([name for names in STUDIES.values() for name in names])
    for group, names in STUDIES.items():
        # Another quorum is another bundle; each site approves that of its own study alone.
        words = (*SETTINGS, "--set", f"federation.quorum={len(names)}")
        bundle = lab.bundle("heart", *words)
        for name in names:
            lab.fedlite("server", "group", name, group)
            partner = lab.partners[name]
            path = partner.home / "site.toml"
            path.write_text(path.read_text().replace('units = ["record"]', 'units = ["none"]'))
            lab.fedlite("site", "approve", partner.home, bundle, "--yes")
            partner.start()
    for partner in lab.partners.values():
        partner.wait_online()
    runs = {}
    for group, names in STUDIES.items():
        words = (*SETTINGS, "--set", f"federation.quorum={len(names)}")
        runs[group] = lab.detached("heart", *words, "--set", f"federation.members=@{group}")
    for group, names in STUDIES.items():
        assert lab.wait_end(runs[group])["state"] == "finished", lab.logs()
        rows = lab.rounds(runs[group])
        assert rows[0]["joined"] == list(names)
        assert [r["accepted"] for r in rows] == [len(names)] * 2
        assert not any(r["dropped"] or r["missing"] for r in rows)
        gathered = lab.coordinator / "runs" / runs[group] / "gathering.txt"
        assert "not approved" not in gathered.read_text()
    for partner in lab.partners.values():
        # A bundle that had come without an approval would wait here.
        assert not list((partner.home / "bundles").glob("waiting/*")), partner.log
