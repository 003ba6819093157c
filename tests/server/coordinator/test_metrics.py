"""A coordinator's figures, and what of it needs a person.

Covers server/coordinator/attention.py.
"""

from __future__ import annotations

import json
import os
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fedlite.commands.main import app
from fedlite.deployment.prometheus import text
from fedlite.reporting.record import GATHERING, RoundRecord, append_round
from fedlite.rooms import app_root
from fedlite.scenario import from_dict
from server.coordinator import attention, jobs, metrics, submit
from server.coordinator.folder import Coordinator
from server.coordinator.jobs import Job
from server.coordinator.setup import init
from tests.deployment.test_prometheus import parse
from tests.server.coordinator.test_submit import pretended

DAY = 86400


@pytest.fixture
def made(tmp_path: Path) -> Coordinator:
    return init(tmp_path / "c", "study", "h:1")


def run(made: Coordinator, name: str, state: str = jobs.RUNNING, reason: str = "") -> Job:
    settled = from_dict({"federation": {"name": name, "rounds": 9, "sites": 3}})
    with pretended(made):
        job = submit.submit(made, settled, app_root())
    job = replace(job, state=state, reason=reason)
    jobs.save(made, job)
    return job


def figures(made: Coordinator, **seen: Any) -> dict[tuple[str, ...], float]:
    return parse(text(metrics.collect(made, {**submit.overview(made), **seen})))


def test_they_are_what_the_records_say(made: Coordinator) -> None:
    made.sites.write_text(json.dumps({n: {"revoked": n == "b"} for n in "abc"}))
    one, two = run(made, "one"), run(made, "two", jobs.FINISHED)
    run(made, "three", jobs.FAILED, "no sites")
    bad = {"site-7": "bad-update", "site-8": "z" * 500, "site-9": "budget"}
    append_round(made.path / one.directory, RoundRecord(1, 2, bad, ["site-4"], bytes_up=7))
    for number in (1, 2):
        record = RoundRecord(number, 3, bytes_up=10, bytes_down=4)
        append_round(made.path / two.directory, record)
    then = time.time() - 500
    os.utime(made.path / one.directory / "rounds.jsonl", (then, then))
    found = figures(made, sites={"approved": 2, "online": 1})
    runs = {k[1][6:]: v for k, v in found.items() if k[0] == "fedlite_runs"}
    assert runs == {"running": 1, "finished": 1, "failed": 1, "stopped": 0}
    assert found["fedlite_rounds",] == 3 and found["fedlite_runs_waiting",] == 0
    updates = {k[1][8:]: v for k, v in found.items() if k[0] == "fedlite_updates"}
    assert updates == {"used": 8, "missing": 1, "bad-update": 1, "budget": 1, "other": 1}
    assert found["fedlite_bytes", "direction=up"] == 27
    assert found["fedlite_bytes", "direction=down"] == 8
    assert found["fedlite_sites_approved",] == 2 and found["fedlite_sites_online",] == 1
    assert 500 <= found["fedlite_run_silent_seconds",] < 600
    assert found["fedlite_certificate_days", "of=gateway"] == 824
    assert found["fedlite_coordinator_running",] == found["fedlite_coordinator_answers",] == 0


def test_who_is_on_line_is_left_out_where_nobody_knows(made: Coordinator) -> None:
    run(made, "one")
    found = figures(made)
    assert ("fedlite_sites_online",) not in found and found["fedlite_runs_waiting",] == 1


def test_what_sites_were_refused_is_summed(made: Coordinator) -> None:
    refused = {"a": {"push-messages too-long": 3}, "b": {"push-messages too-long": 1, "x y": 2}}
    found = figures(made, refused=refused, unknown_runs=[{}])
    assert found["fedlite_requests_refused_day", "what=push-messages too-long"] == 4
    assert found["fedlite_requests_refused_day", "what=x y"] == 2
    assert found["fedlite_runs_unknown",] == 1


def test_no_site_and_no_run_is_named(made: Coordinator) -> None:
    job = run(made, "jones-study")
    made.sites.write_text(json.dumps({"dr-jones": {"revoked": False}}))
    append_round(made.path / job.directory, RoundRecord(1, 0, {"dr-jones": "data"}, ["dr-jones"]))
    shown = CliRunner().invoke(app, ["server", "metrics", str(made.path)])
    assert shown.exit_code == 0 and parse(shown.stdout)
    assert not re.search("jones", shown.stdout)


# For cron --------------------------------------------------------------------------------------


def lines(made: Coordinator, **seen: Any) -> list[str]:
    well = {"pid": 1, "answers": True}
    return list(attention.attention(made, {**submit.overview(made), **well, **seen}))


def test_nothing_is_said_when_nothing_is_wrong(made: Coordinator) -> None:
    run(made, "one", jobs.FINISHED)
    old = run(made, "old", jobs.FAILED, "long ago")
    os.utime(made.jobs / f"{old.name}.json", (time.time() - 8 * DAY,) * 2)
    assert lines(made) == []


@pytest.mark.parametrize(
    ("seen", "line"),
    [
        ({"pid": None}, "the coordinator does not run: fedlite server start"),
        ({"answers": False}, "the coordinator does not answer: see"),
        ({"certificate_days": 8}, "the certificate ends in 8 days: restart"),
        ({"authority_days": 80}, "the authority ends in 80 days: make a new"),
        ({"refused": {"ward": {"push-messages too-long": 3}}}, "site ward was refused in the last"),
        ({"unknown_runs": [{"time": "2026-11-28T10:00:00Z"}]}, "a run of Flower that nobody has"),
    ],
)
def test_what_needs_a_person_is_a_line(made: Coordinator, seen: Any, line: str) -> None:
    (said,) = lines(made, **seen)
    assert said.startswith(line)


def test_runs_that_wait_miss_somebody_or_failed_are_lines(made: Coordinator) -> None:
    waits, misses = run(made, "waits"), run(made, "misses")
    run(made, "broke", jobs.FAILED, "fewer sites than the quorum")
    (made.path / waits.directory / GATHERING).write_text("not approved there yet: clinic")
    append_round(made.path / misses.directory, RoundRecord(1, 2, missing=["clinic"]))
    assert sorted(lines(made)) == [
        "run broke failed: fewer sites than the quorum",
        "run misses: missing in round 1: clinic",
        "run waits: not approved there yet: clinic",
    ]


def test_the_exit_code_is_for_scripts(made: Coordinator, tmp_path: Path) -> None:
    words = ["server", "status", str(made.path)]
    quiet = CliRunner().invoke(app, [*words, "--quiet"])
    assert quiet.exit_code == 1 and len(quiet.stdout.splitlines()) == 1
    assert CliRunner().invoke(app, words).exit_code == 0
    assert CliRunner().invoke(app, ["server", "status", str(tmp_path), "--quiet"]).exit_code == 2
