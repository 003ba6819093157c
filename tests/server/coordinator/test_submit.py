from __future__ import annotations

import io
import json
import os
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from fedlite.commands.main import app
from fedlite.deployment import bundle as bundles
from fedlite.reporting.record import GATHERING, RoundRecord, append_round
from fedlite.rooms import app_root
from fedlite.scenario import Scenario, from_dict, from_run_config, load, with_values
from server.coordinator import jobs, submit, superlink
from server.coordinator.folder import Coordinator
from server.coordinator.refusals import Refusals
from server.coordinator.setup import init

ROOT = app_root()
SCENARIO = from_dict({"federation": {"name": "demo", "rounds": 3, "sites": 2}})


@pytest.fixture
def coordinator(tmp_path: Path) -> Coordinator:
    return init(tmp_path / "c", "study", "h:1")


@contextmanager
def pretended(coordinator: Coordinator) -> Iterator[None]:
    """Hold the lock of a coordinator that runs, without one."""
    with superlink._lock(coordinator) as file:
        file.write(b"%d\n" % os.getpid())
        file.flush()
        yield


def call(coordinator: Coordinator, *words: object) -> Result:
    chosen = ["--coordinator", str(coordinator.path)]
    return CliRunner().invoke(app, ["server", *(str(word) for word in words), *chosen])


# The bundle -------------------------------------------------------------------------------------


def test_a_bundle_is_the_same_bytes_for_the_same_input_and_only_then() -> None:
    first = submit.build(SCENARIO, ROOT)
    assert first == submit.build(SCENARIO, ROOT)
    assert first != submit.build(with_values(SCENARIO, "federation", rounds=4), ROOT)


def test_its_settings_are_the_whole_scenario() -> None:
    scenario = from_dict(
        {"simulation": {"sites": "/home/x", "ceiling": 3.0}, "training": {"epochs": 7}}
    )
    read = bundles.read(submit.build(scenario, ROOT))
    found = from_run_config(read.settings)
    assert found == replace(scenario, simulation=Scenario().simulation)
    assert read.settings.keys() == (
        scenario.to_run_config().keys() | {"run.id", "run.directory", "run.quiet", "run.wait"}
    )


def test_it_holds_the_app_and_nothing_that_stays_at_home() -> None:
    content = submit.build(SCENARIO, ROOT)
    names = set(zipfile.ZipFile(io.BytesIO(content)).namelist())
    assert {"server/app.py", "clients/app.py", "strategies/__init__.py"} <= names
    folders = {name.rpartition("/")[0] for name in names}
    assert folders == {"", ".info", "clients", "server", "strategies"}


def test_who_the_members_are_stays_with_the_coordinator(coordinator: Coordinator) -> None:
    """No site learns it from the bundle, which is the same for any; the run directory keeps it."""
    named = with_values(SCENARIO, "federation", members="b, a")
    assert submit.build(named, ROOT) == submit.build(SCENARIO, ROOT)
    keys = {"node_key": "k", "ledger_key": "ab", "approved": "now"}
    coordinator.sites.write_text(
        json.dumps({name: {"node_id": n, **keys} for n, name in enumerate("abc")})
    )
    with pretended(coordinator):
        job = submit.submit(coordinator, named, ROOT)
        wrong = with_values(SCENARIO, "federation", members="a, d")
        with pytest.raises(ValueError, match="must be approved sites, got d; those here: a, b, c"):
            submit.submit(coordinator, wrong, ROOT)
        everybody = submit.submit(coordinator, SCENARIO, ROOT)
        # The same sites once more would spend twice, however they are written.
        for members in ("b, a", "a, b", ""):
            second = with_values(SCENARIO, "federation", members=members)
            with pytest.raises(ValueError, match="submitted already"):
                submit.submit(coordinator, second, ROOT)
    said = json.loads((coordinator.path / job.directory / "members.json").read_bytes())
    assert said == {"members": "b, a", "sites": ["a", "b"]}
    assert not (coordinator.path / everybody.directory / "members.json").exists()
    assert {one.stem for one in coordinator.jobs.glob("*.json")} == {job.name, everybody.name}


def test_a_plan_that_is_not_settled_is_refused() -> None:
    scenario = from_dict(
        {
            "privacy": {"unit": "record"},
            "training": {"steps": 1},
            "uplink": {"compressor": "topk", "density": 0.1},
        }
    )
    with pytest.raises(ValueError, match="expected_batch: must be settled"):
        submit.build(scenario, ROOT)


def test_the_bundle_of_a_private_scenario_has_its_batch(
    coordinator: Coordinator, tmp_path: Path
) -> None:
    out = tmp_path / "b.fab"
    result = call(coordinator, "bundle", "quickstart", "--out", out, "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    read = bundles.read(out)
    assert told["sha256"] == read.sha256
    found = from_run_config(read.settings)
    asked = load(ROOT / "simulations" / "scenarios" / "quickstart.toml")
    assert asked.privacy.expected_batch == 0 < found.privacy.expected_batch
    again = submit.build(found, ROOT)
    assert again == out.read_bytes()


# Submitting -------------------------------------------------------------------------------------


def test_nothing_is_submitted_to_a_coordinator_that_does_not_run(coordinator: Coordinator) -> None:
    with pytest.raises(ConnectionError, match="fedlite server start"):
        submit.submit(coordinator, SCENARIO, ROOT)
    assert not list(coordinator.jobs.iterdir())


def test_each_submission_is_a_run_of_its_own(coordinator: Coordinator) -> None:
    with pretended(coordinator):
        one, two = (submit.submit(coordinator, SCENARIO, ROOT, again=True) for _ in range(2))
        with pytest.raises(ValueError, match=r"federation\.name"):
            submit.submit(coordinator, with_values(SCENARIO, "federation", name=".."), ROOT)
    assert (one.name, two.name) == ("demo", "demo-2") and one.run_id != two.run_id
    assert jobs.load(coordinator, "demo") == one
    sha256 = bundles.read(coordinator.path / one.bundle).sha256
    assert one.bundle == f"bundles/demo-{sha256[:8]}.fab"
    assert (coordinator.path / one.directory).is_dir()


@pytest.mark.parametrize(
    ("state", "mend"),
    [
        ("running", "--follow demo"),
        ("finished", "its result is in"),
        ("failed", "--resume demo"),
        ("stopped", "--resume demo"),
    ],
)
def test_the_same_scenario_is_not_submitted_twice_by_mistake(
    coordinator: Coordinator, state: str, mend: str
) -> None:
    with pretended(coordinator):
        job = submit.submit(coordinator, SCENARIO, ROOT)
        jobs.save(coordinator, replace(job, state=state))
        with pytest.raises(ValueError, match=f"as run demo, which is {state}, .*{mend}.*--again"):
            submit.submit(coordinator, SCENARIO, ROOT)
        assert len(jobs.load_all(coordinator)) == 1
        other = submit.submit(coordinator, with_values(SCENARIO, "federation", rounds=4), ROOT)
        assert other.name == "demo-2"
        assert submit.submit(coordinator, SCENARIO, ROOT, again=True).name == "demo-3"


def test_the_command_refuses_a_second_submission_as_wrong_use(coordinator: Coordinator) -> None:
    words = ("submit", "quickstart", "--detach", "--json")
    with pretended(coordinator):
        assert call(coordinator, *words).exit_code == 0
        second = call(coordinator, *words)
        assert second.exit_code == 2 and "spends budget" in second.stderr
        assert len(jobs.load_all(coordinator)) == 1
        assert call(coordinator, *words, "--again").exit_code == 0


def test_a_run_that_goes_on_may_wait_for_another_time(coordinator: Coordinator) -> None:
    with pretended(coordinator):
        submit.submit(coordinator, SCENARIO, ROOT, wait=5.0)
    for given, waits in ((), 5.0), (("--wait", 90), 90.0), (("--wait", 0), 0.0):
        jobs.stop(coordinator, "demo", None)
        words = ("submit", "--resume", "demo", *given, "--detach", "--json")
        assert json.loads(call(coordinator, *words).stdout)["wait"] == waits


# Following --------------------------------------------------------------------------------------


@pytest.mark.long
def test_following_shows_every_round_and_the_end(
    coordinator: Coordinator, capsys: pytest.CaptureFixture[str]
) -> None:
    with pretended(coordinator):
        job = submit.submit(coordinator, SCENARIO, ROOT)
        directory = coordinator.path / job.directory
        (directory / GATHERING).write_text("1 of 2 sites ready")

        def run() -> None:
            time.sleep(0.5)
            for number in (1, 2, 3):
                append_round(directory, RoundRecord(number, 2, bytes_up=10, bytes_down=10))
                time.sleep(0.3)
            with jobs.locked(coordinator):
                jobs.save(coordinator, replace(job, state="failed", reason="no more sites"))

        thread = threading.Thread(target=run)
        thread.start()
        result = call(coordinator, "submit", "--follow", "demo")
        thread.join()
    assert result.exit_code == 1
    assert "demo: failed: no more sites" in result.stderr
    for line in ("the coordinator is starting", "round 1/3", "round 2/3", "round 3/3"):
        assert result.stderr.count(line) == 1


def test_an_interrupt_ends_the_showing_only(
    coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pretended(coordinator):
        submit.submit(coordinator, SCENARIO, ROOT)

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(submit, "follow", interrupted)
    result = call(coordinator, "submit", "--follow", "demo")
    assert result.exit_code == 130
    assert "fedlite server submit --follow demo" in result.stderr
    assert jobs.load(coordinator, "demo").state == "running"


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["quickstart", "--follow", "demo"],
        ["--follow", "demo", "--rounds", 3],
        ["--follow", "demo", "--wait", 3],
        ["--resume", "demo", "--again"],
    ],
)
def test_a_wrong_call_is_wrong_use(coordinator: Coordinator, words: list[object]) -> None:
    assert call(coordinator, "submit", *words).exit_code == 2


def test_a_wrong_scenario_is_wrong_use_before_anything_is_written(coordinator: Coordinator) -> None:
    with pretended(coordinator):
        result = call(coordinator, "submit", "quickstart", "--set", "federation.rounds=0")
    assert result.exit_code == 2 and "federation.rounds" in result.stderr
    assert not list(coordinator.jobs.iterdir())


# Status and stop --------------------------------------------------------------------------------


def test_status_says_what_there_is(coordinator: Coordinator) -> None:
    sites = {"a": {"revoked": False}, "b": {"revoked": True}}
    coordinator.sites.write_text(json.dumps(sites))
    with pretended(coordinator):
        job = submit.submit(coordinator, SCENARIO, ROOT)
        append_round(coordinator.path / job.directory, RoundRecord(1, 2, bytes_up=7, bytes_down=9))
        told = json.loads(call(coordinator, "status", "--json").stdout)
    assert told["pid"] == os.getpid() and told["answers"] is False
    assert told["certificate_days"] == 824
    assert told["sites"] == {"approved": 1, "online": None}
    (run,) = told["runs"]
    assert {k: run[k] for k in ("round", "rounds", "bytes_up", "bytes_down", "state")} == {
        "round": 1,
        "rounds": 3,
        "bytes_up": 7,
        "bytes_down": 9,
        "state": "running",
    }
    text = call(coordinator, "status").stdout
    assert "not running" in text and "1 approved" in text and "1/3" in text


def test_the_status_names_whom_something_was_refused_and_runs_of_nobody(
    coordinator: Coordinator,
) -> None:
    told = json.loads(call(coordinator, "status", "--json").stdout)
    assert told["refused"] == {} and told["unknown_runs"] == []
    made = Refusals(coordinator.refusals, lambda: time.time() - 3600)
    made.add("hospital", "push-messages", "too-long", 4_000_000)
    Refusals(coordinator.refusals, lambda: time.time() - 25 * 3600).add("b", "get-fab", "x", 0)
    coordinator.journal.write(jobs.UNKNOWN_RUN, flower_run=77, status="running")
    text = call(coordinator, "status").stdout
    assert "refused       hospital, in 24 hours: 1 x push-messages too-long" in text
    assert "unknown run   77 of Flower, ended at 20" in text and "get-fab" not in text


def test_no_name_is_cut_where_the_page_is_narrow(
    coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    long = "a-very-long-name-of-a-run-" * 2
    with pretended(coordinator):
        job = submit.submit(coordinator, with_values(SCENARIO, "federation", name=long), ROOT)
    jobs.save(coordinator, replace(job, state="failed", reason="no more sites than one " * 3))
    text = call(coordinator, "status").stdout
    assert f"{long}  failed  0/3    0 bytes  0 bytes" in text.splitlines()
    assert f"{long}: {'no more sites than one ' * 3}" in text.splitlines()


def test_status_names_who_is_asked_less_and_a_model_that_may_be_spoilt(
    coordinator: Coordinator,
) -> None:
    """Also of a run that is over: it is not finished without a word."""
    coordinator.sites.write_text("{}")
    with pretended(coordinator):
        job = submit.submit(coordinator, SCENARIO, ROOT)
        for row in (
            RoundRecord(1, 2, joined=["a", "b"], cut={"b": 9e12}, jump=3e12),
            RoundRecord(2, 1, missing=["a"], out={"b": "resting"}),
        ):
            append_round(coordinator.path / job.directory, row)
        with jobs.locked(coordinator):
            running = submit.overview(coordinator)["runs"][0]["reason"]
            jobs.save(coordinator, replace(job, state=jobs.FINISHED))
        over = submit.overview(coordinator)["runs"][0]["reason"]
    spoilt = "the model may be spoilt: round 1 moved it 3e+12 times as far as usual"
    cut = "updates longer than any honest one, and cut: b"
    assert running == f"{spoilt}; {cut}; missing in round 2: a; asked less, after 3 strikes: b"
    assert over == f"{spoilt}; {cut}; asked less, after 3 strikes: b"


def test_a_run_is_stopped_and_resumed_by_name(coordinator: Coordinator) -> None:
    with pretended(coordinator):
        submit.submit(coordinator, SCENARIO, ROOT)
    assert call(coordinator, "stop", "--run", "demo").exit_code == 0
    assert jobs.load(coordinator, "demo").state == "stopped"
    assert call(coordinator, "stop", "--run", "demo").exit_code == 2
    told = json.loads(call(coordinator, "submit", "--resume", "demo", "--detach", "--json").stdout)
    assert told["state"] == "running" and told["flower_run"] is None


def test_a_folder_that_is_none_is_told_with_the_mend(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["server", "status", str(tmp_path)])
    assert result.exit_code == 2 and f"fedlite server init {tmp_path}" in result.stderr
