"""A ledger under kill -9, power cuts and failing disks: what was sent is always recorded.

`python test_ledger_crash.py DIRECTORY KILLS SEED` is the process that the first test starts.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from fedlite.identity import keys
from fedlite.privacy import ledger
from fedlite.privacy.ledger import (
    Files,
    Ledger,
    LedgerError,
    LedgerPoisoned,
    Row,
    forget,
    read,
    recover,
    verify,
)

RUN = "0123456789abcdef"
POLICY: dict[str, Any] = {
    "epsilon": 3.0, "delta": 1e-5, "person": 6.0, "per_run": 0.0,
    "units": ["record"], "metrics": [], "servers": [],
}  # fmt: skip
PLAN: dict[str, Any] = {
    "run": RUN, "unit": "record", "noise_multiplier": 8.0, "sampling_rate": 0.25, "steps": 30,
    "asked": 40, "clip": 0.1, "expected_batch": 64, "max_batch": 0, "max_records": 0,
    "delta": 1e-5, "epsilon_asked": 3.0, "bound": "pld", "charged": 2.5, "code": "ab" * 32,
}  # fmt: skip
KEY = keys.Key.from_private_bytes(b"k" * 32)
NEW = keys.Key.from_private_bytes(b"n" * 32)
GENESIS: dict[str, Any] = {
    "version": 1, "site": "a", "dataset": "heart", "key": keys.public_hex(KEY), "owner": "",
    "commitment": "cd" * 32, "code": "ef" * 20, "order": 12.0, "policy": POLICY, "plan": PLAN,
}  # fmt: skip


def one_round(
    book: Ledger, round: int, train: Callable[[], None], send: Callable[[str], None]
) -> None:
    """Do what a site does in a round, in the only right order."""
    body = {"plan": 0, "run": RUN, "round": round, "steps": 1, "model": "f" * 16}
    (row,) = book.append(("reserve", body))
    train()
    payload = hashlib.sha256(f"{round} {row.hash}".encode()).hexdigest()
    book.append(
        ("settle", {"of": row.seq, "steps": 1, "payload": payload}),
        ("release", {"of": row.seq, "payload": payload, "bytes": 812}),
    )
    send(payload)


def recorded(rows: list[Row]) -> set[str]:
    return {row.body["payload"] for row in rows if row.kind == "release"}


# Kill -9. The process below imports once, and forks a child for every kill.


def work(path: Path, rounds: int | None = None) -> None:
    sent = os.open(path.with_suffix(".sent"), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    with Ledger.open(path, KEY) as book:
        if not book.exists:
            book.create(GENESIS)
        first = len(book.rows)
        for round in itertools.count(first) if rounds is None else range(first, first + rounds):
            one_round(
                book,
                round,
                lambda: time.sleep(0.001),
                lambda payload: os.write(sent, payload.encode() + b"\n") and None,
            )


def time_of_a_round(path: Path) -> float:
    """Seconds from a child's fork to the end of a round, on this machine and disk."""
    started = time.monotonic()
    for _ in range(5):
        child = os.fork()
        if not child:
            work(path, 1)
            os._exit(0)
        os.waitpid(child, 0)
    return (time.monotonic() - started) / 5


def kill_many(directory: Path, kills: int, seed: int) -> None:
    """Kill a working child at random instants; after each kill check every promise."""
    dice, total = random.Random(seed), {"kills": 0, "sent": 0, "unsettled": 0, "torn": 0}
    deadline = time.monotonic() + 300
    pace = time_of_a_round(directory / "pace.jsonl")
    while total["kills"] < kills and time.monotonic() < deadline:
        path = directory / f"{total['kills'] // 8}.jsonl"
        before = read(path) if path.exists() else []
        child = os.fork()
        if not child:
            with contextlib.suppress(BaseException):
                work(path)
            os._exit(1)  # It never ends by itself: an error, which is seen below.
        # Early, to meet the opening, or later, to meet rounds.
        time.sleep(dice.choice([0.3, 1, 2]) * dice.random() * pace)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if os.WTERMSIG(status) != signal.SIGKILL:
            raise SystemExit("a child ended by itself")
        total["kills"] += 1
        if not path.exists():
            continue
        found = verify(path.read_bytes())
        if found.errors or found.rows[: len(before)] != before:
            raise SystemExit(f"{path} is damaged: {found.errors}")
        total["torn"] += bool(found.torn)
        sent = set()
        if path.with_suffix(".sent").exists():
            sent = set(path.with_suffix(".sent").read_text().split())
        if not sent <= recorded(found.rows):
            raise SystemExit(f"{path}: sent and not recorded")
    for path in directory.glob("*.jsonl"):
        with Ledger.open(path, KEY) as book:
            reserves = {row.seq for row in book.rows if row.kind == "reserve"}
            settled = {row.body["of"] for row in book.rows if row.kind == "settle"}
            total["unsettled"] += len(reserves - settled)
        with contextlib.suppress(FileNotFoundError):
            total["sent"] += len(path.with_suffix(".sent").read_text().split())
    print(json.dumps(total))


def test_two_hundred_kills_lose_nothing_that_was_sent(tmp_path: Path) -> None:
    command = [sys.executable, __file__, str(tmp_path), "204", "1"]
    root = str(Path(ledger.__file__).parents[3])
    shown = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": root}
    )
    assert shown.returncode == 0, shown.stderr
    total = json.loads(shown.stdout)
    # The kills met work: payloads had been sent, and some rounds were cut between two rows.
    assert total["kills"] >= 200 and total["sent"] >= 20 and total["unsettled"] >= 10, total


# Power cuts. A disk that keeps of what was not flushed whatever it likes.


class PowerCutError(BaseException):
    """The power fails; nothing of the process runs any more."""


@dataclass
class Inode:
    """A file: what is on the device, and what was done since the last flush."""

    data: bytes = b""
    later: list[tuple[str, int, bytes]] = field(default_factory=list)

    def after(self, dice: random.Random, keep: str) -> bytes:
        data = bytearray(self.data)
        for kind, offset, more in self.later:
            if keep == "none" or (keep == "some" and dice.random() < 0.4):
                continue
            if kind == "cut":
                del data[offset:]
                continue
            # The length may reach the disk without the bytes, and any sectors without the others.
            end = len(more) if keep == "all" else dice.randint(0, len(more))
            data.extend(b"\0" * (offset + end - len(data)))
            for start in range(0, end, 128):
                if keep != "holes" or dice.random() < 0.5:
                    part = more[start : min(start + 128, end)]
                    data[offset + start : offset + start + len(part)] = part
        return bytes(data)


class Cut(Files):
    """The real disk, with a record of what a power cut before call number `at` would leave."""

    def __init__(self, directory: Path, at: int) -> None:
        self.directory, self.at, self.calls = str(directory), at, 0
        self.inodes: dict[int, Inode] = {}
        self.durable: dict[str, Inode] = {}
        self.now_there: dict[str, Inode] = {}
        self.moves: list[tuple[str, Inode | None]] = []
        self.names: dict[int, str] = {}
        for path in directory.iterdir():
            self.durable[path.name] = self.now_there[path.name] = Inode(path.read_bytes())

    def tick(self) -> None:
        self.calls += 1
        if self.calls > self.at:
            raise PowerCutError

    def move(self, name: str, inode: Inode | None) -> None:
        self.moves.append((name, inode))
        if inode is None:
            del self.now_there[name]
        else:
            self.now_there[name] = inode

    def open(self, path: str, flags: int) -> int:
        name = os.path.basename(path)
        if flags & (os.O_CREAT | os.O_TRUNC):
            self.tick()
        handle = super().open(path, flags)
        if not os.path.isdir(path):
            if name not in self.now_there:
                self.move(name, Inode())
            if flags & os.O_TRUNC:
                self.now_there[name].later.append(("cut", 0, b""))
            self.inodes[handle] = self.now_there[name]
        else:
            self.inodes.pop(handle, None)
            self.names[handle] = path
        return handle

    def write(self, handle: int, data: bytes) -> int:
        self.inodes[handle].later.append(("write", os.fstat(handle).st_size, data))
        self.tick()  # The call was made, so some of it may have gone out.
        return super().write(handle, data)

    def truncate(self, handle: int, size: int) -> None:
        self.inodes[handle].later.append(("cut", size, b""))
        self.tick()
        super().truncate(handle, size)

    def fsync(self, handle: int) -> None:
        self.tick()
        if handle in self.inodes:
            inode = self.inodes[handle]
            inode.data, inode.later = inode.after(random.Random(0), "all"), []
        elif self.names[handle] == self.directory:
            self.durable, self.moves = dict(self.now_there), []

    def replace(self, source: str, target: str) -> None:
        self.tick()
        super().replace(source, target)
        inode = self.now_there[os.path.basename(source)]
        self.move(os.path.basename(target), inode)
        self.move(os.path.basename(source), None)

    def unlink(self, path: str) -> None:
        self.tick()
        super().unlink(path)
        self.move(os.path.basename(path), None)

    def leave(self, directory: Path, seed: int) -> None:
        """Write to `directory` one of the states that the device may be in."""
        dice = random.Random(1000 * self.calls + seed)
        keep = ["none", "all", "prefix", "holes", "some"][seed % 5]
        there = dict(self.durable)
        moved = {"none": 0, "all": len(self.moves)}.get(keep, dice.randint(0, len(self.moves)))
        for name, inode in self.moves[:moved]:
            there.pop(name, None)
            if inode is not None:
                there[name] = inode
        for name, inode in there.items():
            (directory / name).write_bytes(inode.after(dice, keep))


class Unsynced(Files):
    """The real disk without waiting for it."""

    def fsync(self, handle: int) -> None:
        pass


def session(path: Path, files: Files, sent: list[str]) -> None:
    """Create, three rounds, open again, a rotation and two more rounds."""
    with Ledger.open(path, KEY, files=files) as book:
        if not book.exists:
            book.create(GENESIS)
        for round in range(3):
            one_round(book, round, lambda: None, sent.append)
    with Ledger.open(path, KEY, files=files) as book:
        book.rotate(NEW)
        for round in range(3, 5):
            one_round(book, round, lambda: None, sent.append)


def key_of(path: Path) -> keys.Key:
    rows = verify(path.read_bytes()).rows
    return NEW if any(row.kind == "key-rotate" for row in rows) else KEY


@contextlib.contextmanager
def restarted(path: Path) -> Iterator[None]:
    """Forget what a process forgets when it ends."""
    forget(path)
    yield
    forget(path)


def cut_at(
    folder: Path, at: int, start: bytes, act: Callable[[Path, Files, list[str]], None]
) -> tuple[Cut, list[str], bool]:
    folder.mkdir()
    path = folder / "heart.jsonl"
    if start:
        path.write_bytes(start)
    files, sent = Cut(folder, at), list[str]()
    with restarted(path):
        try:
            act(path, files, sent)
        except PowerCutError:
            return files, sent, True
    return files, sent, False


def check_states(
    files: Cut, sent: list[str], folder: Path, seeds: int, least: set[str]
) -> set[str]:
    """Open each different state that the power cut may have left, and say how that went."""
    seen, outcomes = set[tuple[tuple[str, bytes], ...]](), set[str]()
    for seed in range(seeds):
        state = folder / f"after-{files.at}-{seed}"
        state.mkdir()
        files.leave(state, seed)
        content = tuple((path.name, path.read_bytes()) for path in sorted(state.iterdir()))
        if content not in seen:
            seen.add(content)
            outcomes.add(check_state(state / "heart.jsonl", sent, least))
    return outcomes


def check_state(path: Path, sent: list[str], least: set[str]) -> str:
    if not path.exists():
        assert not sent and not least
        return "absent"
    with restarted(path):
        refused: LedgerError | None = None
        try:
            with Ledger.open(path, key_of(path), files=Unsynced()) as book:
                rows, how = list(book.rows), "opened"
        except LedgerError as error:
            refused = error
        if refused is not None:
            # Only an unflushed write in pieces may be refused, in words, and then be given up.
            assert refused.rule in {"not-json", "damaged-tail"}, refused
            assert f"{path}: row {refused.row}: " in str(refused)
            head = recover(path, key_of(path), drop_damaged_tail=True, files=Unsynced())
            rows, how = read(path), "refused"
            assert head is not None and head.hash == rows[-1].hash
        assert set(sent) | least <= recorded(rows), "sent and not recorded"
        with Ledger.open(path, key_of(path), files=Unsynced()) as book:  # It can be worked on.
            one_round(book, 9, lambda: None, lambda payload: None)
        assert len(read(path)) == len(rows) + 3
    return how


def test_a_power_cut_before_any_call_loses_nothing_that_was_sent(tmp_path: Path) -> None:
    outcomes: set[str] = set()
    for at in itertools.count():
        files, sent, was_cut = cut_at(tmp_path / f"{at}", at, b"", session)
        outcomes |= check_states(files, sent, tmp_path, 15, set())
        if not was_cut:
            break
    assert at > 25 and len(sent) == 5
    # Every way to fail was met, or the test would show less than it says.
    assert outcomes == {"absent", "opened", "refused"}


def test_a_power_cut_while_a_torn_line_is_mended_loses_nothing(tmp_path: Path) -> None:
    whole = tmp_path / "whole.jsonl"
    sent: list[str] = []
    with restarted(whole):
        session(whole, Unsynced(), sent)
    least, data = set(sent), whole.read_bytes() + b'{"body":{"plan":0,"round'

    def mend(path: Path, files: Files, sent: list[str]) -> None:
        with Ledger.open(path, NEW, files=files) as book:
            one_round(book, 5, lambda: None, sent.append)

    for at in itertools.count():
        files, sent, was_cut = cut_at(tmp_path / f"{at}", at, data, mend)
        check_states(files, sent, tmp_path, 10, least)
        if not was_cut:
            break
    assert at > 5


def test_a_power_cut_while_recovering_loses_nothing(tmp_path: Path) -> None:
    whole = tmp_path / "whole.jsonl"
    sent: list[str] = []
    with restarted(whole):
        session(whole, Unsynced(), sent)
    least, data = set(sent), whole.read_bytes()

    def mend(path: Path, files: Files, sent: list[str]) -> None:
        recover(path, NEW, files=files)

    for at in itertools.count():
        files, sent, was_cut = cut_at(tmp_path / f"{at}", at, data, mend)
        check_states(files, sent, tmp_path, 10, least)
        if not was_cut:
            break
    assert at > 3


def test_the_simulated_disk_does_lose_what_was_not_flushed(tmp_path: Path) -> None:
    """A site that sends before the flush is caught by the same check, so the check can fail."""

    class Lazy(Cut):
        def fsync(self, handle: int) -> None:
            pass

    (tmp_path / "lazy").mkdir()
    files, sent, path = Lazy(tmp_path / "lazy", 10**9), list[str](), tmp_path / "lazy/heart.jsonl"
    with restarted(path):
        session(path, files, sent)
    with pytest.raises(AssertionError):
        check_states(files, sent, tmp_path, 1, set())


# Disks that fail, and say so.


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
            "from fedlite.privacy.ledger import keys\n"
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


if __name__ == "__main__":
    kill_many(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
