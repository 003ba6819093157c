"""What a secure sum costs: bytes and processor time of a round, beside the same numbers in clear.

`python -m simulations.benchmarks.secure [--quick] [--json FILE]` plays every message of one round
among K members in one process: keys once, then vector, signature and opening, with nobody missing
and with as many missing as the quorum lets, before their vectors and before their openings. A
member comes back from its stored form for every message, as a site does; flushing to the disk is
left out. Every sum is held against that of the open numbers.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedlite.compression import HEADER_BYTES
from fedlite.messages import LedgerHead, Reply
from fedlite.privacy import SharedMechanism
from fedlite.secure import masks
from fedlite.secure.collector import Collector
from fedlite.secure.group import Group, Terms
from fedlite.secure.masks import Words
from fedlite.secure.member import Member
from fedlite.secure.messages import Note, Step
from server.summary import machine

SIZES, LENGTHS = (5, 20, 100), (20_000, 1_000_000)
QUICK_SIZES, QUICK_LENGTHS = (5, 20), (2_000,)
RUN, MODEL = b"run-0001", b"model-01"
MISSING = ("nobody", "before vectors", "before openings")


def mechanism(size: int, length: int) -> SharedMechanism:
    """Return a plan for two thirds honest members, and the least that may take part then."""
    honest = math.ceil(2 * size / 3)
    return SharedMechanism(
        clip=0.1,
        noise_multiplier=13.2,
        sampling_rate=1.0,
        steps=90,
        expected_batch=259,
        coordinates=length,
        sites=size,
        least=math.floor(size - honest / 2) + 1,
        honest=honest,
    )


@dataclass
class Meter:
    """Bytes and processor seconds by member, of the messages that were played."""

    up: dict[str, int] = field(default_factory=dict)
    down: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def add(self, name: str, up: int, down: int, seconds: float) -> None:
        """Count one message and its answer."""
        self.up[name] = self.up.get(name, 0) + up
        self.down[name] = self.down.get(name, 0) + down
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds


class Party:
    """The members of a group, each as the bytes that it keeps on its disk."""

    def __init__(self, plan: SharedMechanism) -> None:
        """Let them tell their cards and join."""
        self.plan, self.keys = plan, Meter()
        names = [f"site-{number:03d}" for number in range(plan.sites)]
        self.identities = {name: Ed25519PrivateKey.generate() for name in names}
        stored, cards = {}, []
        for name in names:
            begun = time.process_time()
            member = Member.new(name)
            cards.append(member.card(RUN, self.identities[name]))
            stored[name] = member.dump()
            spent = time.process_time() - begun
            self.keys.add(name, _note(Step.CARD, cards[-1].encode()), _note(Step.CARD, RUN), spent)
        self.group = Group(plan.least, plan.honest, tuple(cards))
        blob, terms = self.group.encode(), Terms(plan.sites, plan.least, plan.honest)
        for name in names:
            begun = time.process_time()
            member = Member.load(stored[name])
            member.join(blob, self.identities[name], terms)
            stored[name] = member.dump()
            spent = time.process_time() - begun
            self.keys.add(name, _note(Step.JOIN, b""), _note(Step.JOIN, blob), spent)
        self.stored = stored

    def vector(self, name: str, number: int, values: Words, meter: Meter) -> bytes:
        """Return a member's masked vector, and count it as its frame."""
        begun = time.process_time()
        member = Member.load(self.stored[name])
        body = member.mask(number, MODEL, values, self.plan.bits)
        self.stored[name] = member.dump()
        meter.add(name, HEADER_BYTES + len(body), 0, time.process_time() - begun)
        return body

    def exchange(self, meter: Meter, silent: Mapping[Step, set[str]]) -> Callable[..., Any]:
        """Return what a collector asks by; it counts what it carries."""

        def ask(questions: Mapping[str, bytes]) -> dict[str, bytes]:
            answers = {}
            for name, blob in questions.items():
                if name in silent.get(Note.decode(blob).step, ()):
                    continue
                begun = time.process_time()
                member = Member.load(self.stored[name])
                answers[name] = member.answer(Note.decode(blob), self.identities[name]).encode()
                self.stored[name] = member.dump()
                meter.add(name, len(answers[name]), len(blob), time.process_time() - begun)
            return answers

        return ask


def _note(step: Step, body: bytes) -> int:
    return len(Note(step, 0, bytes(8), body).encode())


def measure(size: int, length: int) -> list[dict[str, Any]]:
    """Return a row for each way in which members are missing."""
    plan = mechanism(size, length)
    party, rng = Party(plan), np.random.default_rng(1)
    names, bits = list(party.group.names), plan.bits
    # What it costs does not depend on the numbers: two vectors serve for all, and for the memory.
    some = [rng.integers(0, 2**bits, length).astype(np.uint32) for _ in range(2)]
    values = {name: some[at % 2] for at, name in enumerate(names)}
    plainly = _plain(values, bits)
    rows = []
    for number, missing in enumerate(MISSING, 1):
        gone = set(names[: size - plan.least]) if missing != "nobody" else set()
        meter = Meter()
        collector = Collector(party.group, number, MODEL, length, bits)
        server = 0.0
        for name in names:
            if missing == "before vectors" and name in gone:
                continue
            body = party.vector(name, number, values[name], meter)
            begun = time.process_time()
            collector.add(name, body)
            server += time.process_time() - begun
        silent = {Step.OPEN: gone, Step.SHARES: gone} if missing == "before openings" else {}
        begun, before = time.process_time(), sum(meter.seconds.values())
        used, total = collector.finish(party.exchange(meter, silent))
        server += time.process_time() - begun - (sum(meter.seconds.values()) - before)
        expected = np.zeros(length, np.uint32)
        for name in used:
            expected += values[name]
        if not np.array_equal(total, expected & np.uint32(2**bits - 1)):
            raise RuntimeError(f"sum of {used}: must be that of the open numbers, and is not")
        there = [name for name in names if name not in gone]
        rows.append(
            {
                "members": size,
                "least": plan.least,
                "values": length,
                "bits": bits,
                "missing": missing,
                "used": len(used),
                "up B": round(mean(meter.up[name] for name in there)) + _HEAD,
                "down B": round(mean(meter.down[name] for name in there)),
                "site ms": 1e3 * mean(meter.seconds[name] for name in there),
                "server ms": 1e3 * server,
                **plainly,
                "float32 up B": HEADER_BYTES + 4 * length + _HEAD,
                "keys up B": round(mean(party.keys.up.values())),
                "keys down B": round(mean(party.keys.down.values())),
                "keys ms": 1e3 * mean(party.keys.seconds.values()),
            }
        )
    return rows


def _plain(values: Mapping[str, Words], bits: int) -> dict[str, Any]:
    """Return what the same numbers cost openly: packed, sent, unpacked, added."""
    length, site, server = len(next(iter(values.values()))), [], 0.0
    total = np.zeros(length, np.uint32)
    for one in values.values():
        begun = time.process_time()
        body = masks.pack(one, bits)
        site.append(time.process_time() - begun)
        begun = time.process_time()
        total += masks.unpack(body, length, bits)
        server += time.process_time() - begun
    return {
        "plain up B": HEADER_BYTES + len(body) + _HEAD,
        "plain site ms": 1e3 * mean(site),
        "plain server ms": 1e3 * server,
    }


# What travels with every private update, masked or not.
_HEAD = len(Reply(b"", LedgerHead(1, bytes(32), bytes(64), b"", b"")).encode())


def head() -> str:
    """Return the first two lines of a Markdown table."""
    names = ("K", "values", "bits", "missing", "up", "down", "site ms", "server ms")
    more = ("plain up", "site ms", "server ms", "float32 up", "once: up", "down", "site ms")
    return " | ".join(("", *names, *more, "")).strip() + "\n|" + "---|" * len((*names, *more))


def lines(rows: list[dict[str, Any]]) -> str:
    """Return the rows as lines of that table."""
    found = []
    for row in rows:
        cells = [
            *(row["members"], f"{row['values']:,}", row["bits"], row["missing"]),
            *(f"{row['up B']:,}", f"{row['down B']:,}"),
            *(f"{row['site ms']:.2f}", f"{row['server ms']:.1f}", f"{row['plain up B']:,}"),
            *(f"{row['plain site ms']:.2f}", f"{row['plain server ms']:.1f}"),
            *(f"{row['float32 up B']:,}", f"{row['keys up B']:,}", f"{row['keys down B']:,}"),
            f"{row['keys ms']:.1f}",
        ]
        found.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(found)


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few members, short vectors")
    parser.add_argument("--json", type=Path, help="write the rows there as well")
    chosen = parser.parse_args()
    sizes, lengths = (QUICK_SIZES, QUICK_LENGTHS) if chosen.quick else (SIZES, LENGTHS)
    rows: list[dict[str, Any]] = []
    print(head())
    for length in lengths:
        for size in sizes:
            rows += measure(size, length)
            print(lines(rows[-len(MISSING) :]), flush=True)
    if chosen.json:
        chosen.json.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
