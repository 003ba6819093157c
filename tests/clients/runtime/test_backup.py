"""A site in one file, and back. Covers fedlite/commands/safekeeping.py.

The ledgers are real; what a copy may spend is asked of the guardian, and of a server's receipt.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from clients.runtime import approval, backup as backups, lock, seats, setup
from fedlite.commands.main import app
from fedlite.deployment import archive, bundle as bundles, journal
from fedlite.guard import guardian, keeping, policy
from fedlite.guard.folder import Home
from fedlite.guard.guardian import Decline
from fedlite.guard.policy import DataSet
from fedlite.guard.register import Register
from fedlite.identity import keys
from fedlite.messages import Code, Instruction, Receipt, site_id
from fedlite.privacy.ledger import Ledger, forget, read
from fedlite.privacy.ledger.rows import witness_message
from fedlite.scenario import from_dict
from tests.clients.runtime.test_approval import made
from tests.clients.runtime.test_setup import content, invitation, invite

RUN = "ab" * 8
PLAN = {
    "federation": {"rounds": 9, "sites": 2},
    "training": {"steps": 1},
    "privacy": {"unit": "record", "epsilon": 2.0, "expected_batch": 20, "sampling_rate": 1.0},
}


def run(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["site", *map(str, words)])
    return result.exit_code, result.output


def unlocked(home: Path) -> dict[str, bytes]:
    """Return all files but those that only say who works here."""
    return {name: data for name, data in content(home).items() if not name.endswith(".lock")}


def spend(home: Path, round: int, receipt: Receipt | None = None) -> None:
    """Answer a round as the site does, without the training."""
    guard = guardian.deployed(from_dict(PLAN), home, RUN)
    instruction = Instruction(
        bytes.fromhex(RUN), round, site_id("site-01"), 0, bytes(8), (), receipt
    )
    guard.reserve(instruction)
    guard.release(instruction, b"frame of round %d" % round)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Return a site with two coordinators, an approved bundle, and two rounds answered."""
    home = tmp_path / "home"
    setup.init(home, "site-01", data=DataSet("digits", "digits"))
    for one in (invitation(), invitation("others", witness="cd" * 32)):
        setup.join(home, invite(tmp_path, one), fingerprint=one.fingerprint)
    seen = approval.review(home, bundles.read(made()), {})
    approval.approve(home, seen, "me")
    for number in (1, 2):
        spend(home, number)
    for seat in seats.every(home):
        for name in ("state/run/state.safetensors", "inflight/message", "logs/worker.log",
                     "status.json"):  # fmt: skip
            (seat / name).parent.mkdir(parents=True, exist_ok=True)
            (seat / name).write_text("stale")
    (home / "own.csv").write_text("a,b\n")
    return home


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Return what makes this another machine, whose register knows nothing."""

    def moved() -> None:
        monkeypatch.setenv("FEDLITE_REGISTER", str(tmp_path / "other-register"))

    return moved


def test_a_site_that_burnt_down_goes_on_from_its_backup(home: Path, tmp_path: Path) -> None:
    out, before = tmp_path / "site.tar", content(home)
    kept = {Path(path).relative_to(home).as_posix(): data for path, data in before.items()}
    code, output = run("backup", home, out, "--json")
    assert code == 0, output
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert journal.read(home / "audit")[-1]["sha256"] == json.loads(output)["sha256"]
    shutil.rmtree(home)
    forget(home / "ledgers/digits.jsonl")
    code, output = run("restore", out, home)
    assert code == 0, output
    assert "approves 1 bundles" in output and "at the first round, with `ledger`" in output
    after = {Path(path).relative_to(home).as_posix(): data for path, data in content(home).items()}
    stale = {n for n in kept if "state/" in n or "inflight/" in n or "logs/" in n
             or n.endswith(("status.json", "own.csv", ".lock"))}  # fmt: skip
    assert len(stale) == 10
    lost = {name for name in kept if after.get(name) != kept[name]} - stale
    # The journal went on, by the restore.
    assert [name.split("/")[0] for name in lost] == ["audit"]
    assert [line["action"] for line in journal.read(home / "audit")][-2:] == ["approve", "restore"]
    assert not [name for name in after if name in stale and not name.endswith(".lock")]
    assert all(
        stat.S_IMODE(path.stat().st_mode) & 0o077 == 0
        for path in home.rglob("*") if path.is_file() and path.suffix not in (".service", ".lock")
    )  # fmt: skip
    spend(home, 3)
    assert [seat.name for seat in seats.every(home)] == ["home", seats.every(home)[1].name]
    assert not list(home.glob(".restore-*"))


def test_the_same_folder_gives_the_same_bytes(home: Path, tmp_path: Path) -> None:
    shutil.copytree(home, tmp_path / "copy")
    first = backups.backup(home, tmp_path / "1.tar")
    second = backups.backup(tmp_path / "copy", tmp_path / "2.tar")
    assert first.sha256 == second.sha256


@pytest.mark.parametrize("gone", ["cut", "deleted", "folder"])
def test_a_ledger_older_than_this_machine_has_seen_is_refused(
    home: Path, tmp_path: Path, gone: str
) -> None:
    """Before: copying the old folder over the new one gave the site two rounds to spend again."""
    out, ledger = tmp_path / "old.tar", home / "ledgers/digits.jsonl"
    backups.backup(home, out)
    old = ledger.read_bytes()
    spend(home, 3)
    forget(ledger)
    if gone == "folder":
        shutil.rmtree(home)
    elif gone == "deleted":
        ledger.unlink()
    else:
        ledger.write_bytes(old)
    before = unlocked(home)
    code, output = run("restore", out, home)
    assert code == 2 and "was written on this machine" in output and "site adopt" in output
    assert unlocked(home) == before and home.exists() is (gone != "folder")


def test_what_is_newer_in_the_folder_stays(home: Path, tmp_path: Path) -> None:
    """A lost key comes back, and not what was allowed or spent when it was copied."""
    out = tmp_path / "old.tar"
    backups.backup(home, out)
    spend(home, 3)
    sha = policy.load(home / "site.toml").bundles[0].sha256
    approval.revoke(home, sha)
    before, key = content(home), home / "keys/node.pem"
    was = key.read_bytes()
    key.unlink()
    done = backups.restore(out, home)
    assert key.read_bytes() == was and "keys/node.pem" in done.written
    assert "ledgers/digits.jsonl" in done.kept and "site.toml" in done.kept
    assert {n.split("/")[0] for n in done.written} == {"keys", "bundles"}
    changed = {path for path, data in content(home).items() if before.get(path) != data}
    assert not [path for path in changed if path.endswith((".jsonl", ".toml", ".pem"))
                and "audit" not in path and "bundles" not in path]  # fmt: skip
    assert policy.load(home / "site.toml").bundles == ()


def test_a_newer_backup_puts_a_ledger_forward(home: Path, tmp_path: Path) -> None:
    out, ledger = tmp_path / "new.tar", home / "ledgers/digits.jsonl"
    old = ledger.read_bytes()
    spend(home, 3)
    new = ledger.read_bytes()
    backups.backup(home, out)
    forget(ledger)
    ledger.write_bytes(old)
    for written in (True, False):
        assert ("ledgers/digits.jsonl" in backups.restore(out, home).written) is written
        assert ledger.read_bytes() == new
    spend(home, 4)


def test_two_copies_that_went_on_are_told_apart(
    home: Path, tmp_path: Path, elsewhere: Callable[[], None]
) -> None:
    shutil.copytree(home, tmp_path / "clone")
    spend(home, 3)
    out = tmp_path / "a.tar"
    backups.backup(home, out)
    elsewhere()
    spend(tmp_path / "clone", 4)
    code, output = run("restore", out, tmp_path / "clone")
    assert code == 2 and "have both gone on by themselves" in output


def test_a_second_folder_of_a_site_that_is_there_is_refused(home: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.tar"
    backups.backup(home, out)
    code, output = run("restore", out, tmp_path / "second")
    assert code == 2 and f"{home}: is this site, on this machine" in output
    assert not (tmp_path / "second").exists()
    home.rename(tmp_path / "gone")
    shutil.rmtree(tmp_path / "gone")
    assert run("restore", out, tmp_path / "second")[0] == 0


def test_what_a_new_machine_cannot_know_the_coordinator_s_witness_does(
    home: Path, tmp_path: Path, elsewhere: Callable[[], None]
) -> None:
    out = tmp_path / "old.tar"
    backups.backup(home, out)
    spend(home, 3)
    rows, server = read(home / "ledgers/digits.jsonl"), keys.Key.generate()
    message = witness_message(rows[0].hash, rows[-1].seq, rows[-1].hash)
    seen = Receipt(
        bytes.fromhex(keys.public_hex(server)),
        rows[-1].seq,
        bytes.fromhex(keys.sign(server, message)),
    )
    elsewhere()
    new = tmp_path / "new"
    assert backups.restore(out, new).site == "site-01"
    with pytest.raises(Decline) as declined:
        spend(new, 4, seen)
    assert declined.value.code is Code.LEDGER
    # From here on the new machine knows, too, how far it had come.
    assert Register.own().seen(Home(new, "site-01", "digits")) is not None


def test_a_running_site_is_backed_up_and_not_restored(home: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.tar"
    for seat in seats.every(home):
        with lock.hold(seat):
            backups.backup(home, out)
            before = unlocked(home)
            code, output = run("restore", out, home)
            assert code == 1 and "another process works from this folder" in output
            assert unlocked(home) == before


@pytest.mark.long
def test_a_backup_while_it_spends_and_changes_its_key_can_go_on(
    home: Path, tmp_path: Path, elsewhere: Callable[[], None]
) -> None:
    stop, failed = threading.Event(), []

    def work() -> None:
        try:
            for number in range(3, 9):
                spend(home, number)
                keeping.rotate_key(home)
        except BaseException as error:
            failed.append(error)
        stop.set()

    thread = threading.Thread(target=work)
    thread.start()
    taken = []
    while not stop.is_set() or not taken:
        out = tmp_path / f"{len(taken)}.tar"
        try:
            backups.backup(home, out)
            taken.append(out)
        except RuntimeError:
            continue
    thread.join()
    assert not failed, failed
    elsewhere()
    for number, out in enumerate(taken):
        # Each on a machine of its own: a later one has rows that an earlier one lacks.
        os.environ["FEDLITE_REGISTER"] = str(tmp_path / f"register-{number}")
        new = tmp_path / f"new-{number}"
        backups.restore(out, new)
        with Ledger.open(new / "ledgers/digits.jsonl", _key(new)) as ledger:
            assert len(ledger.rows) >= 5


def _key(home: Path) -> keys.Key:
    coming = home / "keys/ledger.next.pem"
    if coming.exists():
        keeping.rotate_key(home)  # it was cut off by the backup, and goes on
    return keys.load(home / "keys/ledger.pem")


def test_other_folders_and_other_files_are_left_alone(home: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.tar"
    backups.backup(home, out)
    other = tmp_path / "other"
    setup.init(other, "site-01")
    files = tmp_path / "files"
    files.mkdir()
    (files / "thesis.txt").write_text("x")
    for folder in (other, files):
        before = unlocked(folder)
        code, output = run("restore", out, folder)
        assert code == 2 and "holds another site or other files" in output
        assert unlocked(folder) == before
    for place in (home / "a.tar", files / "thesis.txt"):
        code, output = run("backup", home, place)
        assert code == 2 and ("outlive" in output or "never overwritten" in output)
    assert (files / "thesis.txt").read_text() == "x"
    assert run("backup", home, out)[0] == 0, "an older backup gives way"


@pytest.mark.parametrize("name", ["state/r/state.safetensors", "bin/sh", "keys/other.pem",
                                  "ledgers/x.txt", "coordinators/A/ca.crt"])  # fmt: skip
def test_a_file_that_has_no_place_in_a_site_is_refused(tmp_path: Path, name: str) -> None:
    out = tmp_path / "a.tar"
    out.write_bytes(archive.pack({name: b"x"}, {}))
    code, output = run("restore", out, tmp_path / "new")
    assert code == 2 and "has no place here" in output
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("lacking", ["site.toml", "keys/ledger.pem", "keys/data.secret"])
def test_half_a_site_is_not_restored(home: Path, tmp_path: Path, lacking: str) -> None:
    files = backups._collect(home)
    del files[lacking]
    out = tmp_path / "a.tar"
    out.write_bytes(archive.pack(files, {}))
    shutil.rmtree(home)
    code, output = run("restore", out, home)
    assert code == 2 and f"holds no {lacking}" in output and not home.exists()


def test_a_ledger_without_its_key_or_that_was_changed_is_no_backup(
    home: Path, tmp_path: Path
) -> None:
    ledger, key = home / "ledgers/digits.jsonl", home / "keys/ledger.pem"
    good = ledger.read_bytes()
    ledger.write_bytes(good.replace(b'"steps":1', b'"steps":2', 1))
    assert run("backup", home, tmp_path / "a.tar")[0] == 2
    ledger.write_bytes(good + b'{"body')
    backups.backup(home, tmp_path / "a.tar")
    key.unlink()
    keys.generate(key)
    code, output = run("backup", home, tmp_path / "b.tar")
    assert code == 2 and "worth nothing without it" in output


def test_a_restore_that_was_cut_off_is_finished_by_the_next(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "a.tar"
    backups.backup(home, out)
    shutil.rmtree(home)
    forget(home / "ledgers/digits.jsonl")
    write, left = backups.write_atomic, [9]

    def failing(path: Path, data: bytes, mode: int = 0) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(28, "No space left on device", str(path))
        write(path, data, mode)

    with monkeypatch.context() as patch:
        patch.setattr(backups, "write_atomic", failing)
        code, output = run("restore", out, home)
    assert code == 1 and "no space left" in output and not (home / "site.toml").exists()
    (home / ".restore-killed").mkdir()
    assert run("restore", out, home)[0] == 0
    assert not list(home.glob(".restore-*"))
    spend(home, 3)


def test_a_newer_ledger_does_not_come_without_its_key(home: Path, tmp_path: Path) -> None:
    """The folder is an old copy; since then its key was changed, and the backup has the new one."""
    old = tmp_path / "old"
    shutil.copytree(home, old)
    keeping.rotate_key(home)
    spend(home, 3)
    out, new = tmp_path / "new.tar", (home / "keys/ledger.pem").read_bytes()
    backups.backup(home, out)
    shutil.rmtree(home)
    old.rename(home)
    forget(home / "ledgers/digits.jsonl")
    before = unlocked(home)
    code, output = run("restore", out, home)
    assert code == 2 and "keys/ledger.pem is not that one" in output
    assert unlocked(home) == before
    (home / "keys/ledger.pem").unlink()
    assert run("restore", out, home)[0] == 0
    assert (home / "keys/ledger.pem").read_bytes() == new
    spend(home, 4)
