from __future__ import annotations

from pathlib import Path

import pytest

from server.coordinator import refusals
from server.coordinator.refusals import Refusals, read

NOW = 1_800_000_000.0


class Clock:
    now = NOW

    def __call__(self) -> float:
        return self.now


def test_each_refusal_is_counted_and_each_site_writes_once_a_minute(tmp_path: Path) -> None:
    path, clock = tmp_path / "r.jsonl", Clock()
    made = Refusals(path, clock)
    for number in range(1000):
        made.add("a", "push-object", "too-long", number)
        made.add("b", "get-fab", "revoked", 0)
        clock.now += 0.01
    assert path.read_bytes().count(b"\n") == 2
    assert read(path, clock.now)["a"] == {"push-object too-long": 1}
    clock.now += 60
    made.write()
    assert path.read_bytes().count(b"\n") == 4
    expected = {"a": {"push-object too-long": 1000}, "b": {"get-fab revoked": 1000}}
    assert read(path, clock.now) == expected
    assert path.stat().st_mode & 0o777 == 0o600
    # A site of whom nothing is known any more is no news.
    assert read(path, clock.now + refusals.DAY_SECONDS + 100) == {}


def test_the_file_is_put_aside_before_it_is_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refusals, "_BYTES", 1000)
    path, clock = tmp_path / "r.jsonl", Clock()
    made = Refusals(path, clock)
    for _ in range(200):
        made.add("a", "get-run", "too-long", 10**6)
        clock.now += 61
    assert sum(one.stat().st_size for one in tmp_path.iterdir()) < 2400
    assert len(list(tmp_path.iterdir())) == 2
    assert read(path, clock.now)["a"]["get-run too-long"] > 10


def test_nothing_there_and_a_torn_line_are_no_error(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    assert read(path) == {}
    Refusals(path, Clock()).add("a", "x", "y", 1)
    path.write_bytes(b'{"time": 18000\n[]\n' + path.read_bytes() + b'{"ti')
    assert read(path, NOW) == {"a": {"x y": 1}}


def test_a_full_disk_refuses_no_site_anything(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Refusals(tmp_path / "none" / "r.jsonl", Clock()).add("a", "x", "y", 1)
    assert "cannot be written" in caplog.text and "'a'" in caplog.text
