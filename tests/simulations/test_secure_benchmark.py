"""What a secure sum costs is measured of real messages, whose lengths are known by hand."""

from __future__ import annotations

import math

import pytest

from simulations.benchmarks import secure


@pytest.mark.parametrize("size", [3, 5])
def test_lengths_are_those_of_the_protocol(size: int) -> None:
    nobody, vectors, openings = secure.measure(size, 100)
    least, bits = nobody["least"], nobody["bits"]
    # docs/wire-format.md: head of a note 16, frame 28, reply and ledger head 104 bytes.
    packed, shares = math.ceil(100 * bits / 8), size - 1 - min(least, size - 1)
    vector = 28 + 8 + 16 * shares + packed + 104
    assert nobody["up B"] == vector + (16 + 64) + (16 + 16)
    assert nobody["down B"] == (16 + 1) + (16 + size * 65)
    assert nobody["plain up B"] == 28 + packed + 104
    assert nobody["float32 up B"] == 28 + 400 + 104
    gone = size - least
    assert vectors["up B"] == nobody["up B"] + (16 + 32 * gone) * (gone > 0)
    assert openings["up B"] == nobody["up B"] + (16 + 16 * gone) * (gone > 0)
    assert [row["used"] for row in (nobody, vectors, openings)] == [size, least, size]
    assert [row["missing"] for row in (nobody, vectors, openings)] == list(secure.MISSING)


def test_the_table_has_a_line_for_every_row_and_no_other() -> None:
    rows = secure.measure(3, 50)
    lines = [*secure.head().splitlines(), *secure.lines(rows).splitlines()]
    assert len(lines) == 2 + len(rows)
    assert len({line.count("|") for line in lines}) == 1
