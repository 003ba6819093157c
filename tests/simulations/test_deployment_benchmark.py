"""The deployment's benchmarks: what they compute from marks, samples and `/proc`."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from fedlite import compression
from fedlite.messages import Instruction, site_id
from fedlite.plan import compressor as compressor_of
from fedlite.scenario import load
from simulations.benchmarks import deployment, lab, soak
from simulations.run import scenario_path


def test_a_row_leaves_out_what_ends_with_the_first_mark() -> None:
    marks = [deployment.Mark(*m) for m in ((10.0, 1, 3), (12.0, 2, 6), (13.0, 3, 9), (16.0, 4, 12))]
    row = deployment.row("one", 3, marks)
    assert (row["rounds"], row["median"], row["min"], row["max"]) == (3, 2.0, 1.0, 3.0)
    assert (row["coordinator_cpu"], row["site_cpu"]) == (1.0, 1.0)
    with pytest.raises(ValueError, match="two rounds or more, got 1"):
        deployment.row("one", 3, marks[:1])


def test_ratios_are_to_the_first_row_and_stand_in_the_table() -> None:
    slow = deployment.row("slow", 3, [deployment.Mark(s, 0, 0) for s in (0.0, 10.0)])
    fast = deployment.row("fast", 3, [deployment.Mark(s, 0, 0) for s in (0.0, 2.0)])
    rows = deployment.with_ratios([slow, fast])
    assert [r["ratio"] for r in rows] == [1.0, 5.0]
    table = deployment.table(rows).split("\n")
    assert len(table) == 4 and len({line.count("|") for line in table}) == 1
    assert table[3].startswith("| fast | 3 | 1 | 2.00 | 2.00 | 2.00 | 5.0 |")


def test_a_process_is_read_from_proc() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        found = {p.pid: p for p in lab.family([os.getpid()])}
        assert found[child.pid].parent == os.getpid()
        assert found[os.getpid()].rss > 10_000_000
        assert found[os.getpid()].cpu > 0.1
        # Other tests in this process may have left children of their own; its parent is none.
        assert os.getppid() not in found
    finally:
        child.communicate(b"\n")
    assert lab.parse(7, "7 (a) R (b) S 3 " + "0 " * 40, "flower-superlink\0x").role == "superlink"


def test_growth_is_counted_from_the_third_round() -> None:
    def sample(seconds: float, superlink: int, run: int) -> soak.Sample:
        return soak.Sample(seconds, {"superlink": superlink * 10**6, "serverapp": run * 10**6}, 0.0)

    sizes = [(100, 300), (150, 300), (160, 300), (162, 310), (164, 320)]
    rows = soak.memory([sample(i, *size) for i, size in enumerate(sizes)])
    growth = {row["process"]: row["growth"] for row in rows}
    assert growth == {"serverapp": 10.0, "superlink": 2.0, "all": 12.0}


def test_a_recorded_update_is_a_valid_frame_for_any_site_and_round() -> None:
    scenario = load(scenario_path("quickstart"), list(soak.settings(100, 20)))
    assert scenario.federation.quorum == 90 and not scenario.private
    recording = soak.Recording.of(scenario)
    instruction = Instruction(bytes(range(8)), 3, site_id("site-042"), 2, b"model...", ())
    envelope = compression.Envelope(
        run=instruction.run,
        round=3,
        site=instruction.site,
        layout=recording.layout,
        base=instruction.model,
    )
    codec, records, body = compression.unpack(
        recording.frame(instruction), envelope, limit=len(recording.body)
    )
    assert (codec, records, body) == (recording.codec, 0, recording.body)
    compressor = compressor_of(scenario.uplink, (1000,))
    assert compressor.codec == codec
    assert np.isfinite(soak.rates([1.0])["p95"])
