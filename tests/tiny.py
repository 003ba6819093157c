"""A federation small enough to be played hundreds of times, through the code that a real one runs.

Two sites of different size read one CSV file. The model is two linear heads that begin at zero, so
that what a site adds to it is what was released, scaled: float32 takes nothing of its grid away.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from clients.opening import open_simulated_site
from clients.site import Site
from clients.state import load
from fedlite import compression
from fedlite.messages import Instruction, Reply
from fedlite.parameters import vector_digest
from fedlite.privacy.ledger import read
from fedlite.scenario import Scenario, from_dict

COLUMNS, CLASSES = 24, 4
# Of an intercept and half of the columns, and of an intercept and all of them.
EXIT = 13 * CLASSES
SIZE = EXIT + 25 * CLASSES
RECORDS = (16, 9)
ROUNDS = 24
RATE, CLIP, BATCH = 0.01, 0.5, 5
RUN = bytes(range(8))
# What may go wrong by chance in one of these tests, at most.
CHANCE = 1e-7

Draws = NDArray[np.float64]


def plan(folder: Path, **tables: dict[str, Any]) -> Scenario:
    """Return the scenario of the tiny federation, its records in `folder`."""
    base: dict[str, dict[str, Any]] = {
        "federation": {"rounds": ROUNDS, "sites": 2, "seed": 5},
        "data": {
            "name": "csv",
            "path": str(records(folder)),
            "target": "label",
            "labels": "c0,c1,c2,c3",
            "partition": "natural",
            "test_fraction": 0.0,
            "scaling": "none",
        },
        "model": {"name": "linear"},
        "training": {"steps": 1, "learning_rate": RATE, "device": "cpu"},
        "uplink": {"compressor": "dense", "error_feedback": False},
        "privacy": {"epsilon": 8.0, "clip": CLIP},
        "simulation": {},
    }
    return from_dict({name: base.get(name, {}) | tables.get(name, {}) for name in base})


def record_plan(folder: Path, **tables: dict[str, Any]) -> Scenario:
    """Return it with the unit `record`."""
    privacy = {"unit": "record", "expected_batch": BATCH} | tables.pop("privacy", {})
    return plan(folder, privacy=privacy, **tables)


def client_plan(folder: Path, at: str = "site", **tables: dict[str, Any]) -> Scenario:
    """Return it with the unit `client` and the noise at the site or the server."""
    privacy = {"unit": "client", "noise_at": at} | tables.pop("privacy", {})
    return plan(folder, privacy=privacy, **tables)


def records(folder: Path) -> Path:
    """Write the federation's records, always the same, and return the file."""
    path = folder / "records.csv"
    rng = np.random.default_rng(1)
    folder.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["site", *(f"f{n}" for n in range(COLUMNS)), "label"])
        for name, count in zip("ab", RECORDS, strict=True):
            for row in range(count):
                table.writerow([name, *rng.normal(size=COLUMNS).round(3), f"c{row % CLASSES}"])
    return path


def invite(site: Site, number: int, acknowledged: int = 0) -> Instruction:
    """Return the invitation to train round `number` from the initial model."""
    model = vector_digest(site.learner.initial)
    return Instruction(RUN, number, site.number, acknowledged, model, ())


def decoded(site: Site, reply: Reply, number: int) -> Draws:
    """Return the update that the server reads from a reply, float64 [n]."""
    layout = site.learner.layout
    compressor = site.plan.uplink
    base = vector_digest(site.learner.initial)
    envelope = compression.Envelope(
        RUN, number, site.number, layout.digest, base, site.scenario.federation.seed
    )
    padded, limit = site.scenario.noised_at_server, compressor.limit(layout.size)
    _, _, body = compression.unpack(
        reply.frame, envelope, limit=limit + padded * compression.PAD_BYTES
    )
    body = compression.unpad(body) if padded else body
    update = compressor.decompress(body, layout.size, envelope.context)
    return update.dense().astype(np.float64)


@dataclass
class Play:
    """What a site has sent, and what it kept: float64 [rounds, n].

    unsent, residual: what it would add to its next update if this one was lost, and if it was used.
    """

    site: Site
    replies: list[Reply]
    sent: Draws
    unsent: Draws
    residual: Draws

    @property
    def plan(self) -> dict[str, Any]:
        """The run's plan, as the site's ledger has it."""
        return dict(self._rows("genesis")[0]["plan"])

    @property
    def reserved(self) -> list[int]:
        """The steps that the ledger reserved, round by round."""
        return [body["steps"] for body in self._rows("reserve")]

    def _rows(self, kind: str) -> list[dict[str, Any]]:
        assert self.site.guardian.home is not None
        return [dict(row.body) for row in read(self.site.guardian.home.ledger) if row.kind == kind]


def play(scenario: Scenario, folder: Path, rounds: int = 0, site: int = 0) -> Play:
    """Let a site take part in rounds 1, 2, ... of the plan, each time from the initial model."""
    member = open_simulated_site(scenario, site, folder)
    replies, sent, pending = [], [], []
    for number in range(1, (rounds or scenario.federation.rounds) + 1):
        replies.append(member.take_part(invite(member, number)))
        sent.append(decoded(member, replies[-1], number))
        state = load(member.path)
        assert state is not None and state.pending is not None
        pending.append(state.pending)
    unsent, residual = (
        np.stack([getattr(p, name) for p in pending]).astype(np.float64)
        for name in ("unsent", "residual")
    )
    return Play(member, replies, np.stack(sent), unsent, residual)


def promised(row: dict[str, Any], steps: int = 1) -> float:
    """Return the deviation of the noise on a coordinate of an update, from a ledger's plan row.

    By hand: sigma x clip, twice that where a site noises its whole update (which replacing all of
    its records moves by two clips), and for private steps the step's size. With noise at the
    server, of a mean over the two sites that it asks.
    """
    std = float(row["noise_multiplier"]) * float(row["clip"])
    if row["unit"] == "record":
        return std * RATE / int(row["expected_batch"]) * float(np.sqrt(steps))
    return {"client-site": 2.0, "client-server": 0.5}[row["unit"]] * std


def check_noise(draws: Draws, std: float, mean: bool = True) -> None:
    """Fail unless draws [m, n] have the deviation `std` on every coordinate, and are independent.

    A sum of k squared deviations has the chi-square law; the bounds are its quantiles. mean: the
    draws of a coordinate have a mean of their own, which takes a degree of freedom.
    """
    m, n = draws.shape
    noise = draws - draws.mean(axis=0) if mean else draws
    squares = (noise**2).sum(axis=0) / std**2
    freedom = m - 1 if mean else m
    low, high = stats.chi2.ppf([CHANCE / 2, 1 - CHANCE / 2], n * freedom)
    assert low < squares.sum() < high, (
        f"the noise has {np.sqrt(squares.sum() / n / freedom):.3f} times its deviation"
    )
    low, high = stats.chi2.ppf([CHANCE / n / 2, 1 - CHANCE / n / 2], freedom)
    assert low < squares.min() and squares.max() < high, "a coordinate has not its deviation"
    check_independent(noise[1:], noise[:-1], std)
    check_independent(noise[:, 1:], noise[:, :-1], std)


def check_independent(one: Draws, other: Draws, std: float) -> None:
    """Fail if two sets of draws of deviation `std` go together."""
    # A product of independent normals has variance 1; 6 deviations, and 1 / m for common means.
    mean = float((one * other).mean()) / std**2
    assert abs(mean) < 6 / np.sqrt(one.size) + 1.5 / len(one), f"draws go together: {mean:.3f}"
