"""What `fedlite site clean` removes, and what it must never touch."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from clients.runtime import cleaning, lock, setup
from clients.state import exclusive
from fedlite.commands.main import app
from fedlite.deployment import journal
from fedlite.guard import policy, policy_file
from fedlite.guard.policy import DataSet
from tests.deployment.test_retention import age

APPROVED, REVOKED = "ab" * 32, "cd" * 32
RUN, NOW = "1" * 16, "2" * 16


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Return a site that has seen runs; everything in it is 40 days old but for run NOW."""
    made = tmp_path / "home"
    setup.init(made, "site-01", data=DataSet("digits", "digits"))
    policy_file.approve(made / "site.toml", policy.ApprovedBundle(APPROVED, "heart"))
    for run in (RUN, NOW):
        with exclusive(made / "state" / run / "state.safetensors"):
            (made / "state" / run / "state.safetensors").write_bytes(bytes(5000))
    for digest in (APPROVED, REVOKED):
        (made / "bundles" / digest / "clients").mkdir(parents=True)
        (made / "bundles" / digest / "clients" / "app.py").write_text("# code")
        (made / "bundles" / digest).chmod(0o555)
    (made / "bundles" / f".{APPROVED[:16]}-x1").mkdir()
    (made / "bundles" / "waiting" / f"{'ef' * 32}.fab").write_bytes(b"x")
    (made / "logs").mkdir()
    for name in ("worker.log", "worker.old", "worker.log.1"):
        (made / "logs" / name).write_text("x")
    (made / "ledgers" / "digits.jsonl").write_text("{}\n")
    (made / "inflight" / "message").write_bytes(b"x")
    age(made, 40)
    os.utime(made / "state" / NOW / "state.safetensors")
    return made


GO = {
    f"state/{RUN}",
    f"bundles/{APPROVED}",
    f"bundles/{REVOKED}",
    f"bundles/.{APPROVED[:16]}-x1",
    f"bundles/waiting/{'ef' * 32}.fab",
    "logs/worker.old",
    "logs/worker.log.1",
}


def files(home: Path) -> dict[str, bytes]:
    return {str(p.relative_to(home)): p.read_bytes() for p in home.rglob("*") if p.is_file()}


def names(home: Path, *words: object) -> set[str]:
    result = CliRunner().invoke(app, ["site", "clean", str(home), *map(str, words), "--json"])
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["bytes"] == sum(one["bytes"] for one in told["removed"])
    return {str(Path(one["path"]).relative_to(home)) for one in told["removed"]}


def test_what_nothing_needs_goes_and_nothing_else(home: Path) -> None:
    before = files(home)
    assert names(home, "--dry-run") == GO and files(home) == before
    assert names(home) == GO
    after = files(home)
    gone = {name for name in before if any(name.startswith(f"{one}") for one in GO)}
    (line,) = [row for row in journal.read(home / "audit") if row["action"] == "clean"]
    assert line["removed"] == len(GO) and line["keep_days"] == 30 and RUN in line["what"]
    written = {name for name in after if name.startswith("audit/")}
    kept = before.keys() - gone - written
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    assert after.keys() - before.keys() <= written | {"node.lock"}
    assert {"ledgers/digits.jsonl", "inflight/message", "site.toml", "keys/node.pem"} <= kept
    assert names(home) == set()


def test_an_approval_outlives_its_unpacked_files(home: Path) -> None:
    names(home)
    assert policy.load(home / "site.toml").bundle(APPROVED) is not None


def test_a_younger_run_is_kept_and_a_longer_rule_keeps_more(home: Path) -> None:
    assert names(home, "--keep-days", 41) == {f"bundles/{REVOKED}", f"bundles/.{APPROVED[:16]}-x1"}
    assert (home / "state" / RUN).is_dir()


def test_a_site_that_runs_keeps_what_its_worker_may_read(home: Path) -> None:
    told = {"pid": os.getpid(), "state": "connected", "run": RUN, "rounds": []}
    (home / "status.json").write_text(json.dumps(told))
    with lock.hold(home):
        removed, kept = cleaning.clean(home)
    assert {str(one.path.relative_to(home)) for one in removed} == GO - {
        f"state/{RUN}",  # the run that it answers
        f"bundles/{APPROVED}",
    }
    assert len(kept) == 1 and "the site runs" in kept[0]


def test_a_state_that_is_held_stays(home: Path) -> None:
    found = list(cleaning.leftovers(home, 30))
    with exclusive(home / "state" / RUN / "state.safetensors"):
        _, kept = cleaning.remove(found)
    assert [line for line in kept if "a worker uses it now" in line]
    assert (home / "state" / RUN / "state.safetensors").exists()


def test_a_run_that_asks_again_meanwhile_is_kept(home: Path) -> None:
    found = list(cleaning.leftovers(home, 30))
    (home / "state" / RUN / "state.safetensors").write_bytes(b"new")
    _, kept = cleaning.remove(found)
    assert [line for line in kept if "asked meanwhile" in line]
    assert (home / "state" / RUN / "state.safetensors").read_bytes() == b"new"


def test_what_runs_of_another_coordinator_left_goes_too(home: Path) -> None:
    seat = home / "coordinators" / "other"
    (seat / "state" / RUN).mkdir(parents=True)
    (seat / "logs").mkdir()
    (seat / "logs" / "worker.old").write_text("x")
    (seat / "coordinator.json").write_text("{}")
    age(seat, 40)
    more = {f"coordinators/other/state/{RUN}", "coordinators/other/logs/worker.old"}
    with lock.hold(seat):
        assert names(home) == (GO | more) - {f"bundles/{APPROVED}"}
    assert (seat / "coordinator.json").exists() and names(home) == {f"bundles/{APPROVED}"}


def test_a_policy_that_is_not_understood_lets_nothing_go(home: Path) -> None:
    (home / "site.toml").write_text("nonsense")
    result = CliRunner().invoke(app, ["site", "clean", str(home)])
    assert result.exit_code == 2 and (home / "bundles" / REVOKED).is_dir()
    assert CliRunner().invoke(app, ["site", "clean", str(home), "--keep-days", "0"]).exit_code == 2
