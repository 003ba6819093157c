"""A ledger on disks that fail, and say so: poisoned until it is recovered."""

from __future__ import annotations

import errno
import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fedlite.privacy.ledger import (
    Files,
    Ledger,
    LedgerError,
    LedgerPoisoned,
    forget,
    read,
    recover,
    verify,
)
from tests.privacy.ledger.crash import (
    GENESIS,
    KEY,
    NEW,
    RUN,
    Unsynced,
    key_of,
    one_round,
    recorded,
    restarted,
    session,
)


class Failing(Files):
    """Fails call number `at` of those that change the disk, and with it every later one or none."""

    def __init__(self, at: int, code: int, *, lasting: bool = False, partly: bool = False) -> None:
        self.at, self.code, self.lasting, self.partly = at, code, lasting, partly
        self.calls, self.failed = 0, ""

    def step(self, name: str) -> bool:
        self.calls += 1
        if self.calls == self.at or (self.lasting and self.calls > self.at):
            self.failed = self.failed or name
            return True
        return False

    def check(self, name: str) -> None:
        if self.step(name):
            raise OSError(self.code, os.strerror(self.code))

    def write(self, handle: int, data: bytes) -> int:
        if self.step("write"):
            if self.partly:
                super().write(handle, data[: len(data) // 2])
            raise OSError(self.code, os.strerror(self.code))
        return super().write(handle, data)

    def fsync(self, handle: int) -> None:
        self.check("fsync")

    def truncate(self, handle: int, size: int) -> None:
        self.check("truncate")
        super().truncate(handle, size)

    def replace(self, source: str, target: str) -> None:
        self.check("replace")
        super().replace(source, target)


@pytest.mark.parametrize(
    ("code", "lasting", "partly"),
    [
        (errno.EIO, False, False),
        (errno.EIO, True, False),
        (errno.ENOSPC, False, True),
        (errno.ENOSPC, True, True),
    ],
)
def test_a_failure_of_any_call_poisons_until_recovered(
    tmp_path: Path, code: int, lasting: bool, partly: bool
) -> None:
    never, met = Failing(10**9, code), set[str]()
    session(tmp_path / "whole" / "heart.jsonl", never, [])
    calls = never.calls
    for at in itertools.count(1):
        path = tmp_path / f"{at}" / "heart.jsonl"
        files, sent = Failing(at, code, lasting=lasting, partly=partly), list[str]()
        forget(path)
        if at > calls:
            break
        with pytest.raises(LedgerPoisoned) as caught:
            session(path, files, sent)
        assert str(path) in str(caught.value) and os.strerror(code) in str(caught.value)
        assert caught.value.rule == "poisoned" and "recover" in str(caught.value)
        met.add(files.failed)
        with pytest.raises(LedgerPoisoned):  # in this process
            Ledger.open(path, KEY)
        forget(path)
        assert os.path.lexists(f"{path}.poisoned")  # An empty marker is one as well.
        with pytest.raises(LedgerPoisoned, match="site recover"):  # and in the next
            Ledger.open(path, KEY)
        assert not path.exists() or set(sent) <= recorded(read(path))
        key = key_of(path) if path.exists() else KEY
        head = recover(path, key, files=Unsynced())
        assert not os.path.lexists(f"{path}.poisoned")
        assert (head is None) == (not path.exists())
        if head is not None:
            assert read(path)[-1].hash == head.hash and set(sent) <= recorded(read(path))
            with Ledger.open(path, key, files=Unsynced()) as book:
                one_round(book, 9, lambda: None, sent.append)
            assert verify(path.read_bytes()).findings == []
        forget(path)
    assert calls > 15 and met == {"write", "fsync", "replace"}


def test_a_poisoned_ledger_refuses_the_writer_that_poisoned_it(tmp_path: Path) -> None:
    path = tmp_path / "heart.jsonl"
    files = Failing(10**9, errno.EIO)
    reserve = {"plan": 0, "run": RUN, "round": 0, "steps": 1, "model": "f" * 16}
    with restarted(path), Ledger.open(path, KEY, files=files) as book:
        book.create(GENESIS)
        files.at = files.calls + 2  # The write succeeds, the flush does not.
        for _ in range(2):
            with pytest.raises(LedgerPoisoned):
                book.append(("reserve", reserve))
        with pytest.raises(LedgerPoisoned):
            book.rotate(NEW)
        assert len(book.rows) == 1 and files.failed == "fsync"
        with pytest.raises(LedgerError, match="second-writer"):
            recover(path, KEY)  # Close it first.


def test_poison_that_cannot_be_marked_is_remembered_and_said(tmp_path: Path) -> None:
    class NoMarker(Failing):
        def open(self, path: str, flags: int) -> int:
            if path.endswith(".poisoned"):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return super().open(path, flags)

    path = tmp_path / "heart.jsonl"
    with restarted(path):
        with (
            pytest.raises(LedgerPoisoned, match="marker could not be made durable"),
            Ledger.open(path, KEY, files=NoMarker(1, errno.ENOSPC)) as book,
        ):
            book.create(GENESIS)
        for _ in range(2):
            with pytest.raises(LedgerPoisoned, match="No space left"):
                Ledger.open(path, KEY)


def test_mending_a_torn_line_on_a_failing_disk_poisons(tmp_path: Path) -> None:
    path = tmp_path / "heart.jsonl"
    for at, name in ((1, "truncate"), (2, "fsync"), (3, "fsync")):
        with Ledger.open(path, KEY, files=Unsynced()) as book:
            if not book.exists:
                book.create(GENESIS)
        forget(path)
        with path.open("ab") as file:
            file.write(b'{"body"')
        files = Failing(at, errno.EIO)
        with pytest.raises(LedgerPoisoned):
            Ledger.open(path, KEY, files=files)
        assert files.failed == name
        recover(path, KEY, files=Unsynced())
        assert len(read(path)) == 1
        forget(path)


def test_another_process_sees_the_poison(tmp_path: Path) -> None:
    path = tmp_path / "heart.jsonl"
    with restarted(path):
        with pytest.raises(LedgerPoisoned), Ledger.open(path, KEY, files=Failing(2, 5)) as book:
            book.create(GENESIS)
        code = (
            "import sys\nfrom fedlite.privacy import ledger\n"
            "from fedlite.identity import keys\n"
            "try: ledger.Ledger.open(sys.argv[1], keys.Key.generate())\n"
            "except ledger.LedgerPoisoned as error: print(error.rule)\n"
        )
        shown = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True)
        assert shown.stdout == b"poisoned\n"


def test_recover_judges_what_it_rewrites(tmp_path: Path) -> None:
    path, sent = tmp_path / "heart.jsonl", list[str]()
    with restarted(path):
        session(path, Unsynced(), sent)
        data = path.read_bytes()
        lines = data.splitlines(keepends=True)
        assert recover(path, NEW).seq == len(lines) - 1  # type: ignore[union-attr]
        assert path.read_bytes() == data  # A good ledger stays as it is.
        with pytest.raises(LedgerError, match="wrong-key"):
            recover(path, KEY)
        path.write_bytes(b"".join(lines[:-1]))
        with pytest.raises(LedgerError, match="rolled-back"):
            recover(path, NEW, drop_damaged_tail=True)
        forget(path)
        path.write_bytes(data.replace(b'"round":1,', b'"round":7,'))
        Path(f"{path}.poisoned").touch()
        with pytest.raises(LedgerError) as caught:
            recover(path, NEW)
        assert caught.value.rule == "hash" and os.path.lexists(f"{path}.poisoned")
        path.write_bytes(data + b"\0" * 70_000)
        with pytest.raises(LedgerError, match="line-too-long"):
            recover(path, NEW, drop_damaged_tail=True)  # More than one write can have left.
        path.write_bytes(b"")
        with pytest.raises(LedgerError, match="empty"):
            recover(path, NEW, drop_damaged_tail=True)
        path.write_bytes(data + b"\0" * 300 + b"\n")
        with pytest.raises(LedgerError, match="not-json"):
            recover(path, NEW)
        assert recover(path, NEW, drop_damaged_tail=True) is not None
        assert path.read_bytes() == data and not os.path.lexists(f"{path}.poisoned")
