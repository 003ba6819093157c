from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given, strategies as st

from fedlite.messages import Hello, Instruction, LedgerHead, Receipt, Reply, site_id

U32 = st.integers(0, 2**32 - 1)
EIGHT = st.binary(min_size=8, max_size=8)
HASH, SIGNATURE = st.binary(min_size=32, max_size=32), st.binary(min_size=64, max_size=64)
RECEIPTS = st.none() | st.builds(Receipt, HASH, U32, SIGNATURE)
SHORT = st.builds(LedgerHead, U32, HASH, SIGNATURE)
NAMED = st.builds(LedgerHead, U32, HASH, SIGNATURE, HASH, HASH)
INSTRUCTIONS = st.builds(
    Instruction,
    run=EIGHT,
    round=U32,
    site=U32,
    acknowledged=U32,
    model=EIGHT,
    frames=st.lists(st.binary(max_size=40), max_size=4).map(tuple),
    receipt=RECEIPTS,
)


@given(INSTRUCTIONS)
def test_an_instruction_comes_back_as_it_was(instruction: Instruction) -> None:
    blob = instruction.encode()
    assert Instruction.decode(blob) == instruction
    receipt = 0 if instruction.receipt is None else 100
    assert len(blob) == 35 + sum(4 + len(frame) for frame in instruction.frames) + receipt


@given(INSTRUCTIONS, st.data())
def test_a_cut_or_longer_instruction_is_refused(
    instruction: Instruction, data: st.DataObject
) -> None:
    blob = instruction.encode()
    cut = data.draw(st.integers(0, len(blob) - 1))
    if instruction.receipt is not None and cut == len(blob) - 100:
        # Only the receipt is gone: a server may not have one.
        assert Instruction.decode(blob[:cut]).receipt is None
        return
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
    # As the first release said it, which did not tell what it speaks.
    assert set(json.loads(hello.encode())) == {"site", "layout", "version"}
    told = replace(hello, protocol="1-2")
    assert Hello.decode(told.encode()) == told
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


@given(st.binary(max_size=60).filter(lambda frame: frame[:2] != b"FH"), SHORT | NAMED | st.none())
def test_a_reply_comes_back_as_it_was(frame: bytes, head: LedgerHead | None) -> None:
    blob = Reply(frame, head).encode()
    assert Reply.decode(blob) == Reply(frame, head)
    extra = 0 if head is None else 104 if not head.ledger else 168
    assert len(blob) == len(frame) + extra


@given(SHORT | NAMED, st.data())
def test_a_reply_that_is_cut_inside_its_head_is_refused(
    head: LedgerHead, data: st.DataObject
) -> None:
    blob = Reply(b"", head).encode()
    with pytest.raises(ValueError, match="reply"):
        Reply.decode(blob[: data.draw(st.integers(2, len(blob) - 1))])
    with pytest.raises(ValueError, match="version"):
        Reply.decode(blob[:2] + b"\x09" + blob[3:])


@given(NAMED, st.lists(st.text(max_size=20), max_size=16).map(tuple))
def test_a_hello_carries_the_head_of_a_ledger(head: LedgerHead, rotations: tuple[str, ...]) -> None:
    hello = Hello("site-01", "aa", "1", head, rotations)
    assert Hello.decode(hello.encode()) == hello


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hash", "00"),
        ("key", "zz" * 32),
        ("signature", 7),
        ("seq", -1),
        ("seq", 2**32),
        ("seq", True),
        ("seq", 1.0),
        ("rotations", ["x"] * 17),
        ("rotations", [1]),
        ("ledger", None),
    ],
)
def test_a_hello_with_a_malformed_head_is_refused(key: str, value: object) -> None:
    head = LedgerHead(1, bytes(32), bytes(64), bytes(32), bytes(32))
    body = json.loads(Hello("site-01", "aa", "1", head).encode())
    body["ledger"][key] = value
    with pytest.raises(ValueError, match="hello"):
        Hello.decode(json.dumps(body).encode())


def test_a_huge_hello_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(ValueError, match="32768"):
        Hello.decode(b"[" * 40_000)
