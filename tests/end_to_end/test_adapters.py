"""Adapters that take turns, at real sites: a base that is never sent, and whoever misses a turn.

Two copies of one base lie at the coordinator and at the sites. What travels is the adapters alone,
and of them what has its turn; a site that was away for one turn, and a coordinator that was killed,
go on in the right one.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from fedlite.compression import HEADER_BYTES
from tests.end_to_end.faults import Play
from tests.inference import textual

SITES = ("east", "north", "south")
RANK, WIDTH, ADAPTED = 4, 32, 6
# Of each turn: B or A of six matrices, and both heads, of two classes one number each.
HEADS = (WIDTH + 1) + (2 * WIDTH + 1)
MOVING = ADAPTED * RANK * WIDTH + HEADS
# Of the ledger's last row, signed; a site's first reply also says which ledger it is.
HEAD_BYTES, LEDGER_BYTES = 104, 64
ROUNDS = 40
STUDY = """
[federation]
name = "notes"
rounds = 40
sites = 3
quorum = 2
deadline_seconds = 60.0
evaluate_every = 0
[data]
name = "jsonl"
text = "note"
tokenizer = "clinical"
length = 12
labels = "bad, good"
partition = "natural"
test_fraction = 0.2
[model]
name = "lora"
[model.options]
base = "clinical"
method = "alternating"
rank = 4
exit = 1
read = [2, 4]
layers = [2, 3, 4]
[training]
steps = 1
batch_size = 16
learning_rate = 0.1
[uplink]
compressor = "dense"
[downlink]
compressor = "dense"
"""
PRIVATE = (
    *("--set", "privacy.unit=record", "--set", "privacy.epsilon=4", "--set", "training.steps=1"),
    *("--set", "privacy.expected_batch=20", "--set", "privacy.sampling_rate=0.2"),
)
CLEAR = ("--rounds", "4", "--set", "federation.name=clear")


def written(lab: Any) -> Path:
    """Write the study, all sites' notes in one file, and the base into the machines' cache."""
    rows = [json.loads(line) for line in textual.notes(lab.root / "n.jsonl", count=360).open()]
    for at, row in enumerate(rows):
        row["site"] = SITES[at % 3]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (lab.root / "notes.jsonl").write_text(text)
    lab.environment["FEDLITE_CACHE"] = str(lab.root / "cache")
    textual.base(lab.root / "base")
    lab.fedlite("data", "add", "clinical", lab.root / "base")
    (lab.root / "notes.toml").write_text(STUDY)
    return Path(lab.root / "notes.toml")


def model(directory: Path) -> dict[str, Any]:
    return dict(safetensors.numpy.load_file(directory / "model.safetensors"))


@pytest.mark.faults
def test_sites_take_turns_through_kills_and_the_base_is_never_sent(
    lab: Any, wait: Callable[..., Any]
) -> None:
    study, own = str(written(lab)), ("--path", lab.root / "notes.jsonl", "--target", "seen")
    lab.start()
    for name in SITES:
        lab.add(name, *own, part=name, data="jsonl")
    # Its machine has another base under the name: one weight is another.
    odd = lab.add("west", *own, part="east", data="jsonl")
    odd.environment["FEDLITE_CACHE"] = str(lab.root / "other")
    other = Path(shutil.copytree(lab.root / "base", lab.root / "base-2"))
    weights = model(other)
    next(iter(weights.values())).flat[0] += 1
    safetensors.numpy.save_file(weights, other / "model.safetensors", {"format": "pt"})
    lab.fedlite("data", "add", "clinical", other, **odd.environment)

    bundle = lab.bundle(study, *PRIVATE)
    page = lab.json("site", "approve", odd.home, bundle, "--yes", seconds=600, **odd.environment)
    mine, theirs = (identity(lab.root / name) for name in ("cache", "other"))
    assert mine in str(page) and theirs in str(page)
    honest = {name: lab.partners[name] for name in SITES}
    for partner in honest.values():
        page = lab.json("site", "approve", partner.home, bundle, "--yes", seconds=600)
        assert theirs not in str(page)
    for partner in lab.partners.values():
        partner.start()
    for partner in lab.partners.values():
        partner.wait_online(300)
    name = lab.detached(study, *PRIVATE)
    play = Play(lab, name, wait)

    def used(after: int) -> int:
        """Wait for a round after this one in which three updates were used; return it."""
        try:
            rows = wait(
                f"three updates after round {after}",
                lambda: [r for r in lab.rounds(name)[after:] if r["accepted"] == 3],
            )
        except TimeoutError as error:
            raise AssertionError(f"{error}\n{lab.rounds(name)}\n{lab.logs()}") from None
        return int(rows[0]["round"])

    # One is away while the others have a turn, or two, of which it knows nothing when it is back.
    used(0)
    away = honest["north"]
    away.kill()
    gone = play.done
    wait("a turn without it", lambda: [r for r in lab.rounds(name)[gone:] if r["accepted"] == 2])
    away.start()
    assert used(play.done) < ROUNDS
    killed = play.kill_coordinator()
    assert any("flwr-serverapp" in one for one in killed)
    lab.start()
    job = lab.wait_end(name, 900)
    assert job["state"] == "finished", (job, lab.logs())

    rounds = lab.rounds(name)
    run = lab.coordinator / "runs" / name
    assert [r["round"] for r in rounds] == [*range(1, ROUNDS + 1)]
    assert {r["accepted"] for r in rounds} == {2, 3}
    each, first = HEADER_BYTES + 1 + 4 * MOVING + HEAD_BYTES, 0
    for r in rounds:
        # What stands still takes no byte, in whichever turn, and averaging is exact.
        more = r["bytes_up"] - r["accepted"] * each
        assert more % LEDGER_BYTES == 0 and 0 <= more <= r["accepted"] * LEDGER_BYTES, r
        first += more // LEDGER_BYTES
        assert r["product_error"] == 0.0
    assert 3 <= first <= 6, "each names its ledger once, and once more to a coordinator anew"
    # The one that was away missed one turn of each kind, or more of one, and had both again.
    missed = [r["round"] for r in rounds if "north" in (*r["missing"], *r["out"])]
    again = [r["round"] for r in rounds if r["accepted"] == 3 and r["round"] > min(missed)]
    assert {number % 2 for number in again} == {0, 1}
    # Each round that a site was used in is reserved, and released, once; of one in which it, or the
    # coordinator, was killed perhaps no more than reserved.
    for site in SITES:
        book = rows(honest[site], "jsonl")
        asked = [row["body"]["round"] for row in book if row["kind"] == "reserve"]
        begun = next(r["round"] for r in rounds if site in r["joined"])
        there = [r["round"] for r in rounds[begun - 1 :] if site not in (*r["missing"], *r["out"])]
        assert asked == sorted(set(asked)) and set(there) <= set(asked), (site, asked, there)
        assert len(asked) <= len(there) + 2
        assert sum(row["kind"] == "release" for row in book) >= len(there)
    paths = [one.home / "ledgers" for one in honest.values()]
    audit = lab.json("audit", "ledgers", run, *paths)
    assert audit["clean"], audit

    # Another's base is found before a round: it trained nothing, and spent nothing.
    said = "".join(path.read_text(errors="replace") for path in (odd.home / "logs").iterdir())
    assert mine in said and theirs in said
    assert not any(row["kind"] == "reserve" for row in rows(odd, "jsonl"))
    # All that ever came down, for all sites and rounds, is less than the base; it is told once, by
    # its digest, in what every operator has approved.
    weights = (lab.root / "base" / "model.safetensors").stat().st_size
    summary = json.loads((run / "summary.json").read_bytes())
    assert summary["parameters"] == 2 * ADAPTED * RANK * WIDTH + HEADS
    assert summary["bytes"]["down"] < 3 * weights
    assert f'base_sha256 = "{mine}"' in (run / "scenario.toml").read_text()
    trained = {one for one in model(run) if "lora" not in one and "linear" not in one}
    assert trained == set(), "the base is no part of the model that a run leaves"

    # Nothing private: the model of a simulation, bit for bit.
    for partner in honest.values():
        path = partner.home / "site.toml"
        path.write_text(path.read_text().replace('units = ["record"]', 'units = ["none"]'))
    clear = lab.bundle(study, *CLEAR)
    for partner in honest.values():
        lab.fedlite("site", "approve", partner.home, clear, "--yes", seconds=600)
    lab.submit(study, *CLEAR, seconds=900)
    path = ("--set", f"data.path={lab.root / 'notes.jsonl'}", "--set", "data.target=seen")
    lab.fedlite("simulate", study, *CLEAR, *path, "--out", lab.root / "simulated", seconds=600)
    deployed, simulated = model(lab.coordinator / "runs" / "clear"), model(lab.root / "simulated")
    assert deployed.keys() == simulated.keys()
    for one, values in deployed.items():
        np.testing.assert_array_equal(values, simulated[one], err_msg=one)


def identity(cache: Path) -> str:
    """Return what a bundle calls the base in a cache, found from its files alone."""
    folder = cache / "bases" / "clinical"
    files = ("config.json", "model.safetensors", "tokenizer.json")
    found = {name: sha256((folder / name).read_bytes()).hexdigest() for name in files}
    return sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()


def rows(partner: Any, name: str) -> list[dict[str, Any]]:
    path = partner.home / "ledgers" / f"{name}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
