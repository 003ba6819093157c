"""Four hospitals that share their noise, as real processes, one of which is killed in every phase.

What approves, masks, opens and audits is the product; only the moment of a kill is the test's.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

SHARED = (
    "--rounds", 40, "--set", "privacy.noise_at=shared", "--set", "privacy.honest=3",
    "--set", "federation.quorum=3", "--set", "federation.deadline_seconds=40",
    "--set", "federation.deliver=true", "--set", "uplink.compressor=randk",
)  # fmt: skip
# A site that dies, as by a power cut, before it answers a step: the first of it from a round on.
DYING = """\
#!{python}
import os, signal, sys
from pathlib import Path
from clients.runtime.masking import Masking
from fedlite.cli import main
from fedlite.secure.messages import Note

place = Path({place!r})

def dies(step, number):
    if place.exists() and (told := place.read_text().split()) and told[0] == step:
        if number >= int(told[1]):
            place.write_text("died " + str(number))
            os.kill(os.getpid(), signal.SIGKILL)

def before(work, step_of):
    def instead(self, *given):
        dies(*step_of(given))
        return work(self, *given)
    return instead

def asked(given):
    note = Note.decode(given[0])
    return note.step.name, note.round

Masking.step = before(Masking.step, asked)
masked = Masking.masked

def after(self, given, frame):
    made = masked(self, given, frame)
    dies("MASKED", given.round)
    return made

Masking.masked = after
main()
"""


class Deaths:
    """Who dies where, and what its ledger says then."""

    def __init__(self, lab: Any, wait: Callable[..., Any]) -> None:
        self.lab, self.wait = lab, wait
        for name, partner in lab.partners.items():
            partner.program = lab.root / f"dying-{name}"
            text = DYING.format(python=sys.executable, place=str(self.place(name)))
            partner.program.write_text(text)
            partner.program.chmod(0o755)

    def place(self, name: str) -> Path:
        return Path(self.lab.root) / f"dies-{name}"

    def at(self, name: str, step: str, number: int) -> None:
        self.place(name).write_text(f"{step} {number}")

    def happened(self, name: str) -> int:
        """Wait until a site has died, and return in which round."""

        def dead() -> tuple[int] | None:
            # Empty for the moment in which it is written.
            told = self.place(name).read_text().split()
            return (int(told[1]),) if len(told) == 2 and told[0] == "died" else None

        (number,) = self.wait(f"the death of {name}", dead)
        self.lab.partners[name].process.wait(60)
        return int(number)

    def back(self, name: str) -> None:
        self.lab.partners[name].start()
        self.lab.partners[name].wait_online(240)


def used(lab: Any, wait: Callable[..., Any], run: str, count: int, after: int = 0) -> int:
    """Wait for a round after number `after` in which so many were used; return it."""

    def found() -> int | None:
        rows = [row for row in lab.rounds(run)[after:] if row["accepted"] == count]
        assert rows or lab.job(run)["state"] == "running", lab.logs()
        return int(rows[0]["round"]) if rows else None

    return int(wait(f"a round of {count} after {after}", found))


def trusting(home: Path) -> None:
    path, text = home / "site.toml", (home / "site.toml").read_text()
    for old, new in (
        ('units = ["record"]', 'units = ["record-shared"]'),
        ("\nhonest = 0\n", "\nhonest = 2\n"),
        ("\nalone = 0.0\n", "\nalone = 9.0\n"),
        ("\nepsilon = 20.0\n", "\nepsilon = 5.0\n"),
    ):
        assert old in text
        text = text.replace(old, new)
    path.write_text(text)


def of_round(rows: list[dict[str, Any]], number: int) -> tuple[int, int]:
    """Return how often a ledger reserved a round, and how often it released it."""
    reserved = {r["seq"] for r in rows if r["kind"] == "reserve" and r["body"]["round"] == number}
    return len(reserved), sum(r["kind"] == "release" and r["body"]["of"] in reserved for r in rows)


@pytest.mark.faults
@pytest.mark.data("heart-disease")
def test_hospitals_share_noise_and_one_is_killed_in_every_phase(
    lab: Any, hospitals: Sequence[str], wait: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    begun = time.monotonic()
    lab.start()
    lab.enrol(hospitals)
    bundle = lab.bundle("heart", *SHARED)
    # Local noise only is the default, and the page says what is asked beyond it.
    first = lab.partners[hospitals[0]]
    refused = lab.fedlite("site", "approve", first.home, bundle, "--yes", code=1)
    assert "budget.units: must hold 'record-shared'" in refused.stderr
    assert "budget.honest: trusts 0 others, and the plan takes 2" in refused.stderr
    for partner in lab.partners.values():
        trusting(partner.home)
    ledger_keys = {
        name: json.loads((partner.home / "request.json").read_text())["ledger_key"]
        for name, partner in lab.partners.items()
    }
    lab.approve(bundle)
    deaths = Deaths(lab, wait)
    killed: dict[str, int] = {}

    # Keys: it dies before it tells its card. Nobody has a group, and nothing is spent.
    a, b, c, d = hospitals
    deaths.at(a, "CARD", 0)
    for partner in lab.partners.values():
        partner.start()
    for partner in lab.partners.values():
        partner.wait_online(240)
    run = lab.detached("heart", *SHARED, "--wait", 300)
    deaths.happened(a)
    job = lab.wait_end(run)
    assert job["state"] == "failed" and "all 4 sites make the group" in job["reason"], job
    assert f"{a}: members: it has not answered" in job["reason"]
    assert all(partner.ledger() == [] for partner in lab.partners.values())
    deaths.back(a)

    # Keys again: it has told its card, and dies when it is shown the group. Three go on.
    deaths.at(b, "JOIN", 0)
    lab.fedlite("server", "submit", "--resume", run, "--wait", 300, "--detach")
    deaths.happened(b)
    done = used(lab, wait, run, 3)
    assert lab.partners[b].ledger() == []
    deaths.back(b)
    done = used(lab, wait, run, 4, done)

    # Masked vector: reserved and masked, not sent. That round is spent, and masked only once.
    deaths.at(c, "MASKED", done + 2)
    killed["masked"] = deaths.happened(c)
    before = lab.partners[c].ledger()
    assert of_round(before, killed["masked"]) == (1, 0)
    lab.wait_round(run, killed["masked"], 240)
    deaths.back(c)
    done = used(lab, wait, run, 4, killed["masked"])
    assert lab.rounds(run)[killed["masked"] - 1]["accepted"] == 3, lab.logs()

    # Consistency: its vector is there, it signs nothing. Unmasking: it has signed, and is silent;
    # the others' shares open what it masked.
    for step, name in (("SIGN", d), ("OPEN", a)):
        deaths.at(name, step, done + 2)
        killed[step] = deaths.happened(name)
        assert of_round(lab.partners[name].ledger(), killed[step]) == (1, 1)
        lab.wait_round(run, killed[step], 240)
        deaths.back(name)
        done = used(lab, wait, run, 4, killed[step])
        assert lab.rounds(run)[killed[step] - 1]["accepted"] == 4, lab.logs()

    # Two at once are more than the quorum allows: that round is given up, and opens nothing.
    deaths.at(b, "MASKED", done + 2)
    deaths.at(c, "SEEDS", done + 2)
    killed["two"] = deaths.happened(b)
    assert deaths.happened(c) == killed["two"]
    deaths.back(b)
    deaths.back(c)
    lab.wait_round(run, killed["two"], 240)
    assert lab.rounds(run)[killed["two"] - 1]["accepted"] == 0
    if lab.wait_end(run, 900)["state"] == "failed":
        # Three rounds in a row were void before both were back: a person lets it go on.
        lab.fedlite("server", "submit", "--resume", run, "--wait", 300, "--detach")
    assert lab.wait_end(run, 900)["state"] == "finished", lab.logs()

    rounds = lab.rounds(run)
    assert rounds[-1]["accepted"] == 4
    ledgers = {name: partner.ledger() for name, partner in lab.partners.items()}
    for name, rows in ledgers.items():
        (plan,) = [r["body"]["plan"] for r in rows if isinstance(r["body"].get("plan"), dict)]
        assert plan["group"] == ledger_keys and (plan["members"], plan["honest"]) == (4, 3)
        assert plan["steps"] == plan["asked"] == 40, "charged whole, before the first step"
        assert plan["charged"] <= 3.0 < plan["alone"] <= 9.0
        for number in range(1, 41):
            reserved, released = of_round(rows, number)
            assert released <= reserved <= 1, (name, number)
    # What was masked and lost is spent all the same, and is not masked again.
    assert of_round(ledgers[c], killed["masked"]) == (1, 0)
    for partner in lab.partners.values():
        assert not list((partner.home / "sums").rglob("*.json")), "the run's keys are forgotten"
    told = lab.json("site", "status", first.home)["budget"][0]
    assert told["honest"] == 2 and told["collusion"] == 9.0 and told["alone"] > told["spent"]

    where = lab.coordinator / "runs" / run
    homes = [partner.home / "ledgers" for partner in lab.partners.values()]
    audit = lab.json("audit", "ledgers", where, *homes)
    assert audit["clean"], audit
    with capsys.disabled():
        took = sorted(r["seconds"] for r in rounds if r["accepted"] == 4)
        print(
            f"\n4 hospitals that share noise: {time.monotonic() - begun:.0f} s with six deaths, "
            f"median of an undisturbed round {took[len(took) // 2]:.2f} s"
        )
