"""Runs as a server would record them: private, without privacy, and binary with baselines."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedlite.reporting.record import RoundRecord, rewrite_rounds, total_bytes, write_summary
from fedlite.reporting.report import report
from tests.reporting.reader import Make

Run = tuple[list[RoundRecord], dict[str, Any]]
SITES = ["site-01", "site-02", "site-03"]


def _rounds(private: bool, binary: bool) -> list[RoundRecord]:
    rounds = []
    for i in range(1, 13):
        quality = {"deep": 0.5 + 0.0345 * i, "shallow": 0.5 + 0.0312 * i}
        rounds.append(
            RoundRecord(
                round=i,
                accepted=3,
                accuracy=quality if i % 2 == 0 else {},
                auc=quality if binary and i % 2 == 0 else {},
                bytes_up=1_875,
                bytes_down=5_000,
                dense_up=247_680,
                dense_down=247_680,
                epsilon=0.2401 * i if private else None,
                seconds=0.5,
            )
        )
    return rounds


def _run(private: bool, binary: bool) -> Run:
    rounds = _rounds(private, binary)
    by_site = {
        s: {"deep": 0.811 + k / 100, "shallow": 0.711 + k / 100, "records": 35 + k}
        for k, s in enumerate(SITES)
    }
    summary: dict[str, Any] = {
        "scenario": "quickstart",
        "seed": 7,
        "rounds": 12,
        "sites": SITES,
        "parameters": 20_640,
        "engine": "pool",
        "data": {"name": "digits", "origin": "wheel, sha256 09ed5f"},
        "settings": {
            "federation.sites": 3,
            "data.partition": "dirichlet",
            "training.learning_rate": 24.5,
            "training.logit_adjustment": True,
            "uplink.compressor": "rotated-topk",
        },
        "run": "5f0c9e2b",
        "versions": {"fedlite": "0.1.0", "flwr": "1.41.0", "python": "3.11.7"},
        "machine": "2 x AMD EPYC",
        "model": {
            "name": "cosine",
            "costs": {
                "exit": {"parameters": 650, "macs": 641},
                "stem": {"parameters": 2, "macs": 4_096},
                "tail": {"parameters": 19_988, "macs": 19_990},
            },
        },
        "accuracy": {
            "deep": 0.914,
            "shallow": 0.8744,
            "on": "global test set (360 records)",
            "of": "global test set",
            "records": 360,
            "by_site": by_site,
        },
        "bytes": {**total_bytes(rounds), "wire_up": 31_234, "wire_down": 71_234},
        "updates": {"accepted": 36, "dropped": 0, "missing": 0},
        "privacy": {"unit": "none"},
        "disclosed": [],
        "seconds": {"total": 23.4, "round_median": 0.74},
        "cpu_seconds": 41.2,
        "energy": {"value": 412.0, "unit": "J", "method": "modelled", "watts_per_core": 10.0},
    }
    if private:
        summary["privacy"] = {
            "unit": "record",
            "delta": 1e-5,
            "claimed": True,
            "clip": 0.1,
            "noise_multiplier": 7.618,
            "sampling_rate": 0.25,
            "steps": 48,
            "adjacency": "add or remove one record",
            "sites": {
                s: {
                    "epsilon": {"pld": 2.8812, "prv": 2.8864, "rdp": 3.1234},
                    "prv_error": 0.01,
                    "budget": 3.0,
                    "releases": 12,
                }
                for s in SITES
            },
        }
    if binary:
        ranks = {s: {"deep": 0.8012, "shallow": 0.7912} for s in SITES}
        summary["auc"] = {"deep": 0.8765, "shallow": 0.8321, "by_site": ranks}
        summary["home_head"] = {"auc": dict.fromkeys(SITES, 0.8888)}
        summary["disclosed"] = ["records"]
        summary["baselines"] = {
            "metric": "auc",
            "folds": 5,
            "repeats": 2,
            "rows": [
                {"name": "each alone", "by_site": dict.fromkeys(SITES, 0.7511), "mean": 0.7512},
                {"name": "federated", "by_site": dict.fromkeys(SITES, 0.8411), "mean": 0.8412},
            ],
            "exchange": {a: {b: 0.9 if a == b else 0.6543 for b in SITES} for a in SITES},
            "note": "One site is small.",
        }
    return rounds, summary


@pytest.fixture(scope="session")
def make_run() -> Callable[..., Run]:
    """Return a function that makes a fresh record of a run."""

    def make(*, private: bool = True, binary: bool = False) -> Run:
        rounds, summary = _run(private, binary)
        return rounds, copy.deepcopy(summary)

    return make


@pytest.fixture
def write_run() -> Callable[[Path, Run], Path]:
    """Return a function that writes a record as a server would."""

    def write(directory: Path, run: Run) -> Path:
        directory.mkdir(parents=True, exist_ok=True)
        rewrite_rounds(directory, run[0])
        write_summary(directory, run[1])
        return directory

    return write


@pytest.fixture(scope="module")
def private(make_run: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from fedlite.reporting.record import rewrite_rounds, write_summary

    directory = tmp_path_factory.mktemp("private")
    rounds, summary = make_run()
    rewrite_rounds(directory, rounds)
    write_summary(directory, summary)
    report(directory)
    return directory
