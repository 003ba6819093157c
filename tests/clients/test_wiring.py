"""What a site sends, held against the plan row in its own ledger: noise, samples, clips, order.

Everything is played through `Site.take_part`. Each test is also a check that kills mutants
(`tests/mutants`), so none takes more than `tmp_path`.
"""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats

from clients.opening import open_simulated_site
from fedlite.data import Dataset
from fedlite.privacy import RecordMechanism, dpsgd
from fedlite.privacy.grid import grid
from fedlite.privacy.ledger.rows import parse
from fedlite.scenario import Scenario, from_dict
from fedlite.training import Learner
from tests.tiny import (
    BATCH,
    CHANCE,
    CLIP,
    RATE,
    RECORDS,
    SIZE,
    Play,
    check_noise,
    client_plan,
    invite,
    play,
    promised,
    record_plan,
)

ROOT = Path(__file__).resolve().parents[2]
SPARSE = {"compressor": "topk", "density": 0.1, "values": "fp32"}


# The noise of an update.


def test_a_record_site_sends_the_noise_of_its_plan_row(tmp_path: Path) -> None:
    played = play(record_plan(tmp_path), tmp_path)
    assert played.plan["unit"] == "record" and played.sent.shape[1] == SIZE
    check_noise(played.sent, promised(played.plan))


def test_the_noise_of_a_round_is_that_of_the_steps_it_reserved(tmp_path: Path) -> None:
    played = play(record_plan(tmp_path, training={"steps": 2}), tmp_path)
    assert set(played.reserved) == {2}
    check_noise(played.sent, promised(played.plan, steps=2))


def test_a_client_site_sends_the_noise_of_its_plan_row(tmp_path: Path) -> None:
    played = play(client_plan(tmp_path), tmp_path)
    assert played.plan["unit"] == "client-site" and set(played.reserved) == {1}
    check_noise(played.sent, promised(played.plan))


@pytest.mark.parametrize("make", [record_plan, client_plan])
def test_what_a_site_sends_lies_on_the_public_grid(
    make: Callable[..., Scenario], tmp_path: Path
) -> None:
    """Noise of float32 lies elsewhere: what lies between tells adjacent data apart."""
    played = play(make(tmp_path), tmp_path, rounds=4)
    cells = played.sent / grid(promised(played.plan))
    # float32 keeps a cell number of up to 2^13 to within 2^-11.
    assert np.abs(cells - np.rint(cells)).max() < 2.0**-10


def same_seeds() -> None:
    """Set every generator that a library shares to the same state."""
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)


@pytest.mark.parametrize("make", [record_plan, client_plan])
def test_no_seed_repeats_the_noise_of_a_site(make: Callable[..., Scenario], tmp_path: Path) -> None:
    """The same rounds of the same run at two fresh copies of one site."""
    scenario, sent = make(tmp_path), []
    for copy in ("one", "two"):
        same_seeds()
        sent.append(play(scenario, tmp_path / copy))
    # As independent as they say they are, all that both have in common cancels out.
    check_noise(sent[0].sent - sent[1].sent, promised(sent[0].plan) * np.sqrt(2), mean=False)


_ELSEWHERE = """
import sys, numpy
from pathlib import Path
from tests import tiny
folder = Path(sys.argv[1])
plans = {"record": tiny.record_plan(folder), "client": tiny.client_plan(folder)}
sent = {name: tiny.play(plan, folder / name, rounds=4).sent for name, plan in plans.items()}
numpy.savez(folder / "sent.npz", **sent)
"""


@pytest.mark.long
def test_a_fresh_process_repeats_no_noise(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("one", "two")]
    running = [
        subprocess.Popen([sys.executable, "-c", _ELSEWHERE, str(folder)], cwd=ROOT)
        for folder in folders
    ]
    assert [process.wait(timeout=120) for process in running] == [0, 0]
    one, two = (np.load(folder / "sent.npz") for folder in folders)
    for name, plan in (("record", record_plan(tmp_path)), ("client", client_plan(tmp_path))):
        row = play(plan, tmp_path / name, rounds=1).plan
        check_noise(one[name] - two[name], promised(row) * np.sqrt(2), mean=False)


# What is noised: clipped records, over a public constant.


def test_an_update_is_the_sum_of_its_clipped_records(tmp_path: Path) -> None:
    """Without noise: each record adds by itself, at most the clip, whoever else is there."""
    scenario = record_plan(tmp_path)
    site = open_simulated_site(scenario, 0, tmp_path)
    assert isinstance(site.mechanism, RecordMechanism)
    silent = replace(site.mechanism, noise_multiplier=1e-6)
    records = Dataset(site.learner.inputs.numpy()[:, 1:], site.learner.labels.numpy())

    def moved(rows: list[int]) -> NDArray[np.float64]:
        learner = Learner(site.plan, records.take(np.array(rows)))
        return learner.delta(learner.initial, 1, 7, silent).astype(np.float64) * BATCH / RATE

    # Of four classes with 4, 3, 2 and 1 records: whoever adjusts for that is seen.
    rows = [0, 4, 8, 12, 1, 5, 9, 2, 6, 3]
    alone = np.stack([moved([row]) for row in rows])
    norms = np.linalg.norm(alone, axis=1)
    assert norms.max() <= CLIP * (1 + 1e-4) and norms.min() > CLIP * 0.98
    np.testing.assert_allclose(moved(rows), alone.sum(axis=0), atol=1e-4)
    # More than one record is too long to be one: a clip of the sum would not add up.
    assert np.linalg.norm(alone.sum(axis=0)) > 2 * CLIP


@pytest.mark.long
def test_a_client_site_cuts_its_update_to_the_clip(tmp_path: Path) -> None:
    scenario = client_plan(
        tmp_path,
        federation={"rounds": 1},
        training={"steps": 5, "learning_rate": 100.0},
        privacy={"epsilon": 100.0},
    )
    played = play(scenario, tmp_path)
    noise = promised(played.plan) * np.sqrt(stats.chi2.isf(CHANCE, SIZE))
    assert np.linalg.norm(played.sent[0]) <= CLIP + noise < 10 * CLIP
    clear = replace(scenario, privacy=replace(scenario.privacy, unit="none"))
    learner = open_simulated_site(clear, 0, tmp_path / "clear").learner
    assert np.linalg.norm(learner.delta(learner.initial, 1, 7, None)) > 100 * CLIP


def test_all_sites_have_one_plan_whatever_they_hold(tmp_path: Path) -> None:
    rows = [play(record_plan(tmp_path), tmp_path, 1, site).plan for site in (0, 1)]
    assert rows[0] == rows[1] and rows[0]["expected_batch"] == BATCH


@pytest.mark.long
def test_a_settled_batch_is_that_of_the_source_and_not_of_the_site(tmp_path: Path) -> None:
    scenario = from_dict(
        {
            "federation": {"rounds": 2, "sites": 3},
            "data": {"name": "digits", "partition": "dirichlet", "test_fraction": 0.2},
            "model": {"name": "mlp"},
            "training": {"steps": 1},
            "privacy": {"unit": "record", "sampling_rate": 0.5},
        }
    )
    sites = [open_simulated_site(scenario, index, tmp_path) for index in range(3)]
    held = {len(site.learner.labels) for site in sites}
    batches = {site.mechanism.expected_batch for site in sites}  # type: ignore[union-attr]
    # 1,437 of the 1,797 digits are shared out, and a fifth of them held out.
    assert len(held) == 3 and batches == {round(0.5 * 1437 * 0.8 / 3)}


# The samples.


def batches(
    tmp_path: Path, folder: str, **tables: dict[str, Any]
) -> tuple[Play, NDArray[np.bool_]]:
    """Return a run, and who was in each of its batches: [batches, records of the site]."""
    seen: list[NDArray[np.int64]] = []
    noised = dpsgd.noised_sum

    def seeing(gradients: Any, rows: NDArray[np.int64], *rest: Any) -> NDArray[np.float64]:
        seen.append(rows)
        return noised(gradients, rows, *rest)

    tables = {"training": {"steps": 20}, "privacy": {"sampling_rate": 0.1}} | tables
    with patch.object(dpsgd, "noised_sum", seeing):
        played = play(record_plan(tmp_path, **tables), tmp_path / folder, rounds=20)
    member = np.zeros((len(seen), RECORDS[0]), np.bool_)
    for batch, rows in zip(member, seen, strict=True):
        assert len(set(rows.tolist())) == len(rows)
        batch[rows] = True
    return played, member


def check_count(found: float, n: int, p: float) -> None:
    """Fail unless a count is one of `n` trials of chance `p`."""
    low, high = stats.binom.ppf([CHANCE / 2, 1 - CHANCE / 2], n, p)
    assert low <= found <= high, f"{found} of {n}, and {n * p:.1f} are to be expected"


@pytest.mark.long
def test_batches_are_the_poisson_samples_of_the_plan_row(tmp_path: Path) -> None:
    """Sizes are binomial, empty ones counted; records and steps do not know of each other."""
    played, member = batches(tmp_path, "run")
    steps, n, q = sum(played.reserved), RECORDS[0], played.plan["sampling_rate"]
    assert steps == 400 and len(member) == steps, (
        "steps must be taken as often as they are reserved"
    )
    sizes = member.sum(axis=1)
    law = stats.binom(n, q)
    # Bins of at least 20 expected batches; the chi-square law then holds well enough.
    edges = [0, 1, 2, 3, n + 1]
    for low, high in zip(edges, edges[1:], strict=False):
        share = float(law.cdf(high - 1) - law.cdf(low - 1))
        check_count(np.count_nonzero((sizes >= low) & (sizes < high)), steps, share)
    for record in member.T:
        check_count(record.sum(), steps, q)
    check_count(np.count_nonzero(member[1:] & member[:-1]), n * (steps - 1), q * q)
    check_count(np.count_nonzero(member[:, 1:] & member[:, :-1]), (n - 1) * steps, q * q)


@pytest.mark.long
def test_no_seed_repeats_the_samples(tmp_path: Path) -> None:
    found = []
    for folder in ("one", "two"):
        same_seeds()
        found.append(batches(tmp_path, folder)[1])
    both = np.count_nonzero(found[0] & found[1])
    check_count(both, found[0].size, 0.01)


# What is kept for later, and what a selection tells.


@pytest.mark.parametrize("make", [record_plan, client_plan])
def test_what_a_site_keeps_for_later_is_as_noised_as_what_it_sends(
    make: Callable[..., Scenario], tmp_path: Path
) -> None:
    played = play(make(tmp_path, uplink=SPARSE | {"error_feedback": True}), tmp_path)
    # No update was acknowledged: each round adds its whole delta to what is unsent.
    check_noise(np.diff(played.unsent, axis=0), promised(played.plan))
    np.testing.assert_allclose(played.residual, played.unsent - played.sent, rtol=1e-5, atol=1e-6)


def test_the_places_that_are_sent_do_not_follow_the_records(tmp_path: Path) -> None:
    """A tenth of the places is sent; the noise is so large that each is there by chance."""
    scenario = record_plan(tmp_path, uplink=SPARSE | {"error_feedback": False})
    sent = play(scenario, tmp_path).sent != 0
    rounds, places = sent.shape
    assert 0.09 < sent.mean() < 0.12
    # The records move no coordinate by more than half a deviation, so none comes up every third
    # time.
    most = stats.binom.isf(CHANCE / places, rounds, 1 / 3)
    assert sent.sum(axis=0).max() <= most < rounds


def test_a_clear_update_cannot_be_found_by_its_hash_in_the_ledger(tmp_path: Path) -> None:
    """Where the server adds the noise, ledgers and witness lines hold the SHA-256 of clear updates.

    Whoever reads them and knows all records but one could make the update of every guess anew: its
    batches come from the public seed. The right guess used to have the hash of the ledger.
    """
    scenario = client_plan(tmp_path, "server")
    played = play(scenario, tmp_path / "site", rounds=2)
    guessed = play(scenario, tmp_path / "attacker", rounds=2)
    np.testing.assert_array_equal(played.sent, guessed.sent)
    assert played.sent.any()
    for real, guess in zip(played.replies, guessed.replies, strict=True):
        assert len(real.frame) == len(guess.frame)
        assert hashlib.sha256(real.frame).digest() != hashlib.sha256(guess.frame).digest()
    released = [body["payload"] for body in played._rows("release")]
    assert released == [hashlib.sha256(reply.frame).hexdigest() for reply in played.replies]


# The order of what is written and what is done.


def test_steps_and_releases_are_flushed_before_they_happen(tmp_path: Path) -> None:
    """What `fsync` had put on the disk when training began, and when the update left."""
    durable: dict[str, bytes] = {}
    fsync, rename = os.fsync, os.replace

    def flushing(handle: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{handle}"))
        if path.is_file():
            durable[str(path)] = path.read_bytes()
        fsync(handle)

    def renaming(source: Any, target: Any) -> None:
        rename(source, target)
        durable[os.path.realpath(target)] = durable.pop(os.path.realpath(source), b"")

    homes = {"sites": str(tmp_path / "homes")}
    scenario = record_plan(tmp_path, training={"steps": 3}, simulation=homes)
    site = open_simulated_site(scenario, 0, tmp_path)
    assert site.guardian.home is not None
    ledger = os.path.realpath(site.guardian.home.ledger)
    train = site.learner.share

    def bodies(kind: str) -> list[dict[str, Any]]:
        rows = [parse(line) for line in durable.get(ledger, b"").splitlines(keepends=True)]
        return [dict(row.body) for row in rows if row.kind == kind]

    def training(*arguments: Any) -> Any:
        assert (bodies("reserve") or [{"round": 0}])[-1]["round"] == arguments[1]
        assert bodies("reserve")[-1]["steps"] == 3
        return train(*arguments)

    site.learner.share = training  # type: ignore[method-assign]
    with ExitStack() as patches:
        patches.enter_context(patch.object(os, "fsync", flushing))
        patches.enter_context(patch.object(os, "replace", renaming))
        for number in (1, 2, 3):
            frame = site.take_part(invite(site, number)).frame
            released = [body["payload"] for body in bodies("release")]
            assert released[number - 1 :] == [hashlib.sha256(frame).hexdigest()]
