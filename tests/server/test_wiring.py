"""What a server with the noise adds, held against the plan row in the sites' ledgers.

Sites are played through `Site.take_part`, the server through `Updates.add` and `finish`. Each test
is also a check that kills mutants (`tests/mutants`), so none takes more than `tmp_path`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from fedlite.privacy.grid import grid
from fedlite.scenario import Scenario
from server import broadcast
from server.checkpoint import Checkpoint
from server.updates import Updates
from server.witness import Witness
from strategies import ServerState
from tests.tiny import (
    CHANCE,
    CLIP,
    RUN,
    SIZE,
    Draws,
    Play,
    check_noise,
    client_plan,
    play,
    promised,
)


def changes(scenario: Scenario, played: Play, folder: Path) -> Draws:
    """Return what one site's update of each round does to the same model: float64 [rounds, n]."""
    learner = played.site.learner
    folder.mkdir(exist_ok=True)
    witness = Witness(folder, folder / "witness.pem")
    updates = Updates(played.site.plan, witness)
    point = Checkpoint(
        RUN, 0, ServerState.initial(learner.initial), broadcast.initial(learner.initial)
    )
    found = []
    for number, reply in enumerate(played.replies, start=1):
        updates.start(point, number)
        (error,) = updates.add_many([(played.site.name, reply.encode())])
        if error is not None:
            raise error
        found.append(updates.finish().model.astype(np.float64) - learner.initial)
    return np.stack(found)


def test_the_server_adds_the_noise_of_the_sites_plan_row(tmp_path: Path) -> None:
    scenario = client_plan(tmp_path, "server")
    played = play(scenario, tmp_path)
    assert played.plan["unit"] == "client-server" and set(played.reserved) == {1}
    check_noise(changes(scenario, played, tmp_path), promised(played.plan))


def test_what_the_server_adds_lies_on_the_public_grid(tmp_path: Path) -> None:
    scenario = client_plan(tmp_path, "server")
    played = play(scenario, tmp_path, rounds=4)
    cells = changes(scenario, played, tmp_path) / grid(promised(played.plan))
    assert np.abs(cells - np.rint(cells)).max() < 2.0**-10


def test_no_seed_repeats_the_noise_of_the_server(tmp_path: Path) -> None:
    scenario = client_plan(tmp_path, "server")
    played, found = play(scenario, tmp_path), []
    for folder in ("one", "two"):
        torch.manual_seed(0)
        np.random.seed(0)
        found.append(changes(scenario, played, tmp_path / folder))
    check_noise(found[0] - found[1], promised(played.plan) * np.sqrt(2), mean=False)


@pytest.mark.long
def test_the_server_cuts_every_update_to_the_clip(tmp_path: Path) -> None:
    scenario = client_plan(
        tmp_path,
        "server",
        federation={"rounds": 1},
        training={"steps": 5, "learning_rate": 100.0},
        privacy={"epsilon": 100.0},
    )
    played = play(scenario, tmp_path)
    assert np.linalg.norm(played.sent[0]) > 100 * CLIP
    noise = promised(played.plan) * np.sqrt(stats.chi2.isf(CHANCE, SIZE))
    # The mean of two sites, of which one has answered.
    moved = np.linalg.norm(changes(scenario, played, tmp_path)[0])
    assert moved <= CLIP / 2 + noise < 10 * CLIP
