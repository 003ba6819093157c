"""What a site may send that it should not, for the tests of rounds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

from fedlite import compression, flower
from fedlite.messages import Instruction
from fedlite.plan import compressor as compressor_of

World = Callable[..., Any]
N = 400


def frame(member: Any, instruction: Instruction, **changes: Any) -> bytes:
    """Return a valid-looking update with some field changed."""
    link = member.site.scenario.uplink
    compressor = compressor_of(link)
    values = changes.pop("values", np.ones(N, np.float32))
    records = changes.pop("records", 0)
    codec = changes.pop("codec", compressor.codec)
    envelope = compression.Envelope(
        run=instruction.run,
        round=instruction.round,
        site=member.site.number,
        layout=member.learner.layout.digest,
        base=instruction.model,
    )
    body = changes.pop("body", None) or compressor.compress(values)
    return compression.pack(replace(envelope, **changes), codec, body, records)


def says(make: Callable[[Any, Instruction], bytes]) -> Callable[..., list[Message]]:
    return lambda member, message, i: [flower.answer(make(member, i), message)]


def raw(content: RecordDict) -> Callable[..., list[Message]]:
    return lambda member, message, i: [Message(content, reply_to=message)]


def nan_body(member: Any, instruction: Instruction) -> bytes:
    good = frame(member, instruction)
    body = bytearray(good[compression.HEADER_BYTES :])
    body[:4] = np.array([np.nan], "<f4").tobytes()
    return frame(member, instruction, body=bytes(body))


HOSTILE: dict[str, Callable[..., list[Message]]] = {
    "empty": says(lambda m, i: b""),
    "garbage": says(lambda m, i: b"\xff" * 60),
    "truncated": says(lambda m, i: frame(m, i)[:-3]),
    "too long": says(lambda m, i: frame(m, i) + b"x"),
    "too large": says(lambda m, i: b"FL" + bytes(3_000_000)),
    "flipped bit": says(lambda m, i: frame(m, i)[:-1] + b"\x55"),
    "replayed round": says(lambda m, i: frame(m, i, round=i.round - 1)),
    "future round": says(lambda m, i: frame(m, i, round=i.round + 1)),
    "another site's": says(lambda m, i: frame(m, i, site=m.site.number ^ 1)),
    "another run's": says(lambda m, i: frame(m, i, run=b"another!")),
    "another base": says(lambda m, i: frame(m, i, base=b"12345678")),
    "another layout": says(lambda m, i: frame(m, i, layout=b"12345678")),
    "another codec": says(lambda m, i: frame(m, i, codec=9)),
    "dense codec": says(lambda m, i: frame(m, i, codec=0, body=bytes(4 * N))),
    "NaN": says(nan_body),
    "huge": says(lambda m, i: frame(m, i, values=np.full(N, 2e15, np.float32))),
    "no record": raw(RecordDict()),
    "text": raw(RecordDict({"fedlite": ConfigRecord({"blob": "text"})})),
    "two records": raw(
        RecordDict({"fedlite": ConfigRecord({"blob": b"x"}), "x": ConfigRecord({"y": 1})})
    ),
    "an array": raw(
        RecordDict(
            {"fedlite": ArrayRecord({"blob": Array("uint8", (1,), "numpy.ndarray", b"junk")})}
        )
    ),
    "a lying array": raw(
        RecordDict({"fedlite": ArrayRecord({"blob": Array("f4", (9,), flower.STYPE, b"junk")})})
    ),
}
