"""What cannot be checked is never passed over."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from fedlite.audit import audit
from fedlite.deployment.journal import Journal
from tests.audit.findings import found
from tests.privacy.federation import World


@pytest.mark.parametrize(
    ("data", "rule"),
    [
        (b"", "empty"),
        (b"\n", "not-a-ledger"),
        (b"name,age\nmary,3\n", "not-a-ledger"),
        (bytes(range(256)) * 9, "not-a-ledger"),
        (b'{"body":{"version":2},"kind":"genesis"}\n', "newer-version"),
        (b"[" * 100_000 + b"\n", "not-a-ledger"),
    ],
)
def test_a_file_that_is_no_ledger_is_found(tmp_path: Path, data: bytes, rule: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(data)
    assert found(path) == {rule}
    assert found(tmp_path) == {rule}


def test_a_place_without_a_ledger_is_found(world: World, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    (empty / "within").mkdir(parents=True)
    (empty / "notes.txt").write_text("nothing")
    assert found(empty) == {"no-ledger"}
    assert found(world.run, empty) == {"no-ledger"}
    (empty / "site.toml").write_text("")
    assert found(empty) == {"no-ledger"}


def test_a_coordinator_s_journal_is_no_ledger_and_is_named(world: World, tmp_path: Path) -> None:
    """Its own folder was never clean: what lies in `audit/` was read as a ledger."""
    home = tmp_path / "coordinator"
    Journal(home / "audit").write("approve", name="Klinik Süd")
    shutil.copytree(world.run, home / "runs" / "study")
    result = audit([home])
    assert result.clean == audit([world.run]).clean and not result.findings
    (journal,) = (home / "audit").iterdir()
    assert [one.rule for one in result.notes if one.path == str(journal)] == ["not-audited"]
    # By what it holds: a ledger there is audited, and so is whatever is no journal.
    (home / "audit" / "a.jsonl").write_bytes(world.sites[0].path.read_bytes()[:-9])
    assert found(home)
    (home / "audit" / "a.jsonl").write_text('{"action":"approve"}\n')
    assert found(home) == {"not-a-ledger"}
    assert found(journal) == {"not-a-ledger"}, "who gives it as a ledger is told that it is none"


def test_a_path_that_does_not_exist_is_found(world: World, tmp_path: Path) -> None:
    assert found(tmp_path / "nowhere") == {"unreadable"}
    assert found(world.run, Path("a\0b")) == {"unreadable"}


def test_what_cannot_be_read_is_found(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    real, closed = Path.read_bytes, world.copy_of(world.sites[0])

    def refuse(path: Path) -> bytes:
        if path == closed:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert found(closed) == {"unreadable"}
    assert found(world.run) == {"unreadable", "ledger-missing"}


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
def test_permissions_are_respected(world: World) -> None:
    path = world.copy_of(world.sites[0])
    path.chmod(0)
    assert "unreadable" in found(path)
    (world.run / "ledgers").chmod(0)
    assert "unreadable" in found(world.run)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    assert found(tmp_path / "pipe.jsonl") == {"unreadable"}
    assert found(tmp_path) == {"unreadable"}


def test_a_poisoned_ledger_is_found(world: World) -> None:
    Path(f"{world.sites[0].path}.poisoned").touch()
    assert found(world.sites[0].home) == {"poisoned"}
    assert found(world.sites[0].path) == {"poisoned"}


def test_hundreds_of_findings_are_counted_not_listed(world: World) -> None:
    lines = world.server.path.read_bytes()
    world.server.path.write_bytes(b"nonsense\n" * 500 + lines)
    result = audit([world.run])
    assert len(result.findings) == 11
    assert "490 more" in result.findings[-1].text
