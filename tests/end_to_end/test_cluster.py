"""A Ray cluster of two nodes plays a run to the bits of one process.

Covers simulations/ray.py.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedlite.reporting.record import read_summary
from fedlite.scenario import load, with_values
from simulations.run import scenario_path, simulate


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Path]]:
    """Start two nodes, each with a processor and a folder of its own; return their folders."""
    from ray.cluster_utils import Cluster

    # Ray's sockets are in it, whose names may not be long.
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        folders = [Path(folder) / name for name in "ab"]
        cluster = Cluster()
        try:
            for one in folders:
                cluster.add_node(num_cpus=1, include_dashboard=False, temp_dir=str(one))
            monkeypatch.setenv("RAY_ADDRESS", cluster.address)
            yield folders
        finally:
            cluster.shutdown()


@pytest.mark.faults
@pytest.mark.ray
def test_a_cluster_gets_the_bits_of_one_process(nodes: list[Path], tmp_path: Path) -> None:
    """Sites remember models and residuals, whichever node plays them in a round."""
    scenario = load(scenario_path("quickstart"), ["federation.rounds=3"])
    scenario = with_values(scenario, "privacy", unit="none")
    scenario = with_values(
        scenario, "uplink", compressor="topk", density=0.1, values="sign", error_feedback=True
    )
    simulate(scenario, tmp_path / "serial", engine="serial", quiet=True)
    simulate(scenario, tmp_path / "ray", engine="ray", quiet=True)
    ours, cluster = read_summary(tmp_path / "serial"), read_summary(tmp_path / "ray")
    assert cluster["updates"] == ours["updates"]
    models = [(tmp_path / one / "model.safetensors").read_bytes() for one in ("serial", "ray")]
    assert models[0] == models[1]
    for one in nodes:
        # A worker that a job has used writes under the job's number.
        assert list(one.glob("session_2*/logs/worker-*-0[1-9]000000-*.out")), one
