"""Frames between a site's process and approved code: bounded in length and time, both ways."""

from __future__ import annotations

import os
import resource
import struct
import threading
import time

import pytest
from hypothesis import given, settings, strategies as st

from fedlite.guard.pipe import Pipe, TooLong


@settings(max_examples=30, deadline=None)
@given(st.lists(st.binary(max_size=300_000), max_size=4))
def test_what_was_sent_comes_out_frame_by_frame(frames: list[bytes]) -> None:
    here, there = Pipe.pair()
    sender = threading.Thread(target=lambda: [there.send(frame) for frame in frames])
    sender.start()
    assert [here.receive(seconds=30) for _ in frames] == frames
    sender.join()
    there.close()
    with pytest.raises(EOFError):
        here.receive()
    here.close()
    here.close()


@pytest.mark.parametrize(
    "said", [b"", b"\x01", struct.pack("<Q", 5), struct.pack("<Q", 5) + b"abc"]
)
def test_a_frame_that_never_becomes_whole_ends_at_the_deadline(said: bytes) -> None:
    here, there = Pipe.pair()
    os.write(there.fileno(), said)
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        here.receive(100, 0.2)
    assert 0.15 < time.monotonic() - began < 2


def test_a_frame_that_comes_byte_by_byte_ends_at_the_deadline() -> None:
    here, there = Pipe.pair()
    stop = threading.Event()

    def drip() -> None:
        os.write(there.fileno(), struct.pack("<Q", 1000))
        while not stop.wait(0.02):
            os.write(there.fileno(), b"x")

    slow = threading.Thread(target=drip)
    slow.start()
    with pytest.raises(TimeoutError):
        here.receive(1000, 0.3)
    stop.set()
    slow.join()


@pytest.mark.parametrize("length", [101, 3 << 30, 2**64 - 1])
def test_a_frame_that_is_announced_too_long_is_not_read(length: int) -> None:
    here, there = Pipe.pair()
    os.write(there.fileno(), struct.pack("<Q", length) + b"x" * 200)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(TooLong, match=f"100 bytes, {length} are announced"):
        here.receive(100, 5)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 10_000


def test_memory_grows_with_what_comes_and_not_with_what_is_announced() -> None:
    here, there = Pipe.pair()
    os.write(there.fileno(), struct.pack("<Q", 3 << 30) + b"x" * 200)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(TimeoutError):
        here.receive(4 << 30, 0.2)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 10_000


def test_a_reader_that_reads_nothing_does_not_hold_the_sender() -> None:
    here, there = Pipe.pair()
    with pytest.raises(TimeoutError):
        here.send(bytes(50_000_000), 0.3)
    there.close()
    with pytest.raises(OSError, match=r"pipe|reset"):
        here.send(b"more", 1)
