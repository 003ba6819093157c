from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedlite.messages import Hello, Instruction, site_id

U32 = st.integers(0, 2**32 - 1)
EIGHT = st.binary(min_size=8, max_size=8)
INSTRUCTIONS = st.builds(
    Instruction,
    run=EIGHT,
    round=U32,
    site=U32,
    acknowledged=U32,
    model=EIGHT,
    frames=st.lists(st.binary(max_size=40), max_size=4).map(tuple),
)


@given(INSTRUCTIONS)
def test_an_instruction_comes_back_as_it_was(instruction: Instruction) -> None:
    blob = instruction.encode()
    assert Instruction.decode(blob) == instruction
    assert len(blob) == 35 + sum(4 + len(frame) for frame in instruction.frames)


@given(INSTRUCTIONS, st.data())
def test_a_cut_or_longer_instruction_is_refused(
    instruction: Instruction, data: st.DataObject
) -> None:
    blob = instruction.encode()
    cut = data.draw(st.integers(0, len(blob) - 1))
    with pytest.raises(ValueError, match="instruction"):
        Instruction.decode(blob[:cut])
    with pytest.raises(ValueError, match="too many"):
        Instruction.decode(blob + b"x")


@given(st.binary(max_size=200))
def test_garbage_is_a_value_error_and_nothing_else(blob: bytes) -> None:
    for kind in (Instruction, Hello):
        with pytest.raises(ValueError, match=r"instruction|hello"):
            kind.decode(blob)


@given(st.binary(max_size=60))
def test_a_head_with_hostile_counts_is_refused_without_reading_on(tail: bytes) -> None:
    head = bytearray(Instruction(bytes(8), 1, 1, 0, bytes(8), ()).encode())
    head[25:27] = b"\xff\xff"
    with pytest.raises(ValueError, match="instruction"):
        Instruction.decode(bytes(head) + tail)


def test_another_version_is_refused() -> None:
    blob = bytearray(Instruction(bytes(8), 1, 1, 0, bytes(8), ()).encode())
    blob[4] += 1
    with pytest.raises(ValueError, match="version 2"):
        Instruction.decode(bytes(blob))


def test_a_hello_comes_back_and_says_three_things_only() -> None:
    hello = Hello("Köln", "00ff", "0.1.0")
    assert Hello.decode(hello.encode()) == hello
    assert set(json.loads(hello.encode())) == {"site", "layout", "version"}


@pytest.mark.parametrize(
    "body",
    [
        [],
        {"site": "a", "layout": "b"},
        {"site": "", "layout": "b", "version": "c"},
        {"site": "a" * 65, "layout": "b", "version": "c"},
        {"site": "a\n", "layout": "b", "version": "c"},
        {"site": "../a", "layout": "b", "version": "c"},
        {"site": "a/b", "layout": "b", "version": "c"},
        {"site": ".a", "layout": "b", "version": "c"},
        {"site": "a", "layout": 3, "version": "c"},
        {"site": ["a"], "layout": "b", "version": "c"},
        {"site": None, "layout": "b", "version": "c"},
    ],
)
def test_a_hostile_hello_is_refused(body: object) -> None:
    with pytest.raises(ValueError, match="hello"):
        Hello.decode(json.dumps(body).encode())
    with pytest.raises(ValueError, match="hello"):
        Hello.decode(b"[" * 100_000)


def test_a_site_number_depends_on_the_name_alone_and_is_never_the_servers() -> None:
    assert site_id("site-01") == site_id("site-01") != site_id("site-02")
    assert all(0 < site_id(str(n)) < 2**32 for n in range(1000))
