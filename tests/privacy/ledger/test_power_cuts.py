"""A ledger under power cuts, on a disk that keeps of what was not flushed whatever it likes."""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from fedlite.privacy.ledger import (
    Files,
    Ledger,
    LedgerError,
    read,
    recover,
)
from tests.privacy.ledger.crash import (
    NEW,
    Unsynced,
    key_of,
    one_round,
    recorded,
    restarted,
    session,
)


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


@pytest.mark.long
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
