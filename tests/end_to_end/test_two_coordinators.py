"""One site and two coordinators, as real processes: one budget, in parallel, under kills."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.conftest import Lab

pytestmark = pytest.mark.faults
KILLS = 2 if os.environ.get("FEDLITE_FAULTS") == "short" else 20
CEILING = 3.0
ASKED = 2.0
SETTINGS = (
    "--rounds", 12,
    "--set", "federation.sites=1", "--set", "federation.quorum=1",
    "--set", "data.name=digits", "--set", "data.partition=iid",
    "--set", "privacy.unit=record", "--set", f"privacy.epsilon={ASKED}",
    "--set", "training.steps=2", "--set", "report.baseline_repeats=0",
)  # fmt: skip


@pytest.fixture
def labs(tmp_path: Path, needs_nginx: None) -> Iterator[list[Lab]]:
    """Return two coordinators that run."""
    made = []
    try:
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            lab = Lab(tmp_path / name)
            lab.environment["FEDLITE_REGISTER"] = str(tmp_path / "register")
            made.append(lab)
            lab.init(name)
            lab.start()
        yield made
    finally:
        for lab in made:
            lab.close()


def worker_of(home: Path, place: Path) -> int | None:
    """Return the number of the site's process for one coordinator."""
    try:
        return int(json.loads((home / place / "status.json").read_bytes())["pid"])
    except (OSError, ValueError, KeyError):
        return None


def test_two_coordinators_spend_from_one_budget(labs: list[Lab], wait: Callable[..., Any]) -> None:
    one, two = labs
    partner = one.add("a", data="digits")
    partner.wait_online = lambda *_: None  # type: ignore[method-assign]
    path = partner.home / "site.toml"
    path.write_text(path.read_text().replace("epsilon = 20.0", f"epsilon = {CEILING}"))
    joined = two.json(
        "site", "join", partner.home, two.invitation, "--fingerprint", two.fingerprint
    )
    two.fedlite("server", "approve", joined["request"], "--fingerprint", joined["node_key"])
    for lab in labs:
        lab.fedlite("site", "approve", partner.home, lab.bundle("quickstart", *SETTINGS), "--yes")

    partner.start()
    places = [Path("."), Path(joined["request"]).parent.relative_to(partner.home)]

    def online() -> bool:
        told = lab.json("site", "status", partner.home)["coordinators"]
        return [row["state"] for row in told] == ["connected"] * 2

    wait("both connections", online)
    names = [lab.detached("quickstart", *SETTINGS) for lab in labs]
    rng = random.Random(1)
    for number in range(KILLS):
        wait("a round", lambda: any(lab.rounds(n) for lab, n in zip(labs, names, strict=True)))
        time.sleep(rng.random() * 2)
        pid = worker_of(partner.home, places[number % 2])
        if pid is not None:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
    jobs = [lab.wait_end(name) for lab, name in zip(labs, names, strict=True)]
    assert partner.process is not None and partner.process.poll() is None, partner.log

    told = one.json("site", "status", partner.home)
    (budget,) = told["budget"]
    assert budget["plans"] == 2 and budget["spent"] <= CEILING < 2 * ASKED
    assert "finished" in [job["state"] for job in jobs], (jobs, one.logs(), two.logs())
    # The auditor has either run, or both, and the site's one ledger.
    runs = [lab.coordinator / "runs" / name for lab, name in zip(labs, names, strict=True)]
    for files in ([runs[0]], [runs[1]], runs):
        audit = one.json("audit", "ledgers", *files, partner.home / "ledgers")
        assert audit["clean"], audit
    assert partner.stop() == 0
    left = subprocess.run(["pgrep", "-f", str(partner.home)], capture_output=True, text=True)
    assert left.stdout.split() == [], "nothing of the site outlives it"
