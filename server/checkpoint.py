"""Everything the server needs to go on after a crash, in one atomic file a round."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from fedlite import depth
from fedlite.parameters import Vector
from fedlite.plan import Plan
from fedlite.storage import write_atomic
from server.broadcast import Broadcast, initial
from strategies import ServerState

FILE = "server.safetensors"


@dataclass
class SiteRecord:
    """What the server remembers of a site.

    held: the round whose replica the site is known to hold (1: the initial model; None: unknown).
    acknowledged: last round whose update was used. asked: rounds it was invited to, each of which
    may have cost it privacy. releases: updates that arrived, used or not. used: those used.
    spent: it has declined because its own privacy budget is spent, and is not asked again.
    records: how many its last used update is of, as it has told; 0: it tells none.
    strikes: how often in a row it was missing or sent no valid update. again: the round in which it
    may be asked again because of them. took: seconds of its last used update, in a deployment.
    """

    held: int | None = 1
    acknowledged: int = 0
    asked: int = 0
    releases: int = 0
    used: int = 0
    spent: bool = False
    strikes: int = 0
    again: int = 0
    took: float = 0.0
    records: int = 0


_BEGUN = SiteRecord()


class SiteRecords(dict[str, SiteRecord]):
    """What is remembered by name of the sites that were ever asked; of all others, nothing."""

    def __missing__(self, name: str) -> SiteRecord:
        """Begin to remember a site."""
        self[name] = record = SiteRecord()
        return record


@dataclass(frozen=True)
class Flight:
    """A site's answer on its way, in virtual time (`server.buffered`).

    number, base: round and digest of the model that it trains from. ends: virtual seconds at which
    it arrives. blob: the reply; empty for one that never comes, or that is a code.
    """

    name: str
    number: int
    base: bytes
    ends: float
    blob: bytes = b""
    code: str = ""


@dataclass(frozen=True)
class Kept:
    """The best round so far (`server.selection`): its number and its score.

    waited: scored rounds since. vector: its model and extras, float32; None where the last one is
    released.
    """

    round: int
    score: float
    waited: int = 0
    vector: Vector | None = None


@dataclass
class Checkpoint:
    """The run after `round` rounds.

    joined: the sites that were ever there. It is in the record of the rounds, and not saved here.
    """

    run: bytes
    round: int
    state: ServerState
    broadcast: Broadcast
    sites: SiteRecords = field(default_factory=SiteRecords)
    kept: Kept | None = None
    early: Broadcast | None = None
    flights: list[Flight] = field(default_factory=list)
    joined: set[str] = field(default_factory=set)

    @classmethod
    def before(cls, run: bytes, plan: Plan) -> Checkpoint:
        """Return the run before its first round."""
        state = ServerState.initial(plan.initial, plan.first[plan.initial.size :])
        small = initial(depth.early(plan).first) if plan.weak else None
        return cls(run, 0, state, initial(plan.first), early=small)

    def down(self, plan: Plan) -> Broadcast:
        """Return the way down to the sites of a plan: the whole one, or the weak sites'."""
        return self.broadcast if plan.whole is None or self.early is None else self.early

    def advance(self, plan: Plan, number: int) -> None:
        """Bring the replicas nearer to the model, for round `number`; see `Broadcast.advance`."""
        self.broadcast = _advanced(self.broadcast, plan, self.state.travelling, number, self.run)
        if self.early is not None:
            mine = self.state.model[depth.places(plan)]
            self.early = _advanced(self.early, depth.early(plan), mine, number, self.run)

    def can_send(self, plan: Plan, state: ServerState) -> bool:
        """Whether the model of `state` can be sent to all sites; see `Broadcast.can_send`."""
        if not self.broadcast.can_send(state.travelling):
            return False
        return self.early is None or self.early.can_send(state.model[depth.places(plan)])

    @property
    def deployed(self) -> Vector:
        """The model to evaluate and deploy, of the best round if one is kept, and the extras."""
        if self.kept is not None and self.kept.vector is not None:
            return self.kept.vector
        return self.state.deployed


def _advanced(before: Broadcast, plan: Plan, model: Vector, number: int, run: bytes) -> Broadcast:
    down = replace(before, frames=list(before.frames))
    seed, layout = plan.scenario.federation.seed, plan.travelling.digest
    down.advance(model, plan.down(number), layout, run, seed=seed)
    return down


def save(directory: Path, checkpoint: Checkpoint) -> None:
    """Write the checkpoint atomically into `directory`."""
    state, broadcast = checkpoint.state, checkpoint.broadcast
    arrays: dict[str, np.ndarray] = {"replica": broadcast.replica}
    for name, array in state.arrays.items():
        arrays[f"state.{name}"] = array
    arrays |= _frames("frame", broadcast)
    if checkpoint.early is not None:
        arrays |= {"early": checkpoint.early.replica, **_frames("early", checkpoint.early)}
    if checkpoint.kept is not None and checkpoint.kept.vector is not None:
        arrays["kept"] = checkpoint.kept.vector
    for at, flight in enumerate(checkpoint.flights):
        arrays[f"flight.{at}"] = np.frombuffer(flight.blob, np.uint8)
    meta = {
        "run": checkpoint.run.hex(),
        "round": checkpoint.round,
        "arrays": list(state.arrays),
        "scalars": dict(state.scalars),
        "broadcast": broadcast.round,
        "frames": [number for number, _ in broadcast.frames],
        "early": [number for number, _ in checkpoint.early.frames] if checkpoint.early else None,
        "sites": {name: _changed(record) for name, record in checkpoint.sites.items()},
        "kept": _kept_numbers(checkpoint.kept),
        "flights": [[f.name, f.number, f.base.hex(), f.ends, f.code] for f in checkpoint.flights],
    }
    directory.mkdir(parents=True, exist_ok=True)
    data = safetensors.numpy.save(arrays, metadata={"checkpoint": json.dumps(meta)})
    write_atomic(directory / FILE, data)


def _changed(record: SiteRecord) -> dict[str, Any]:
    """Return what is not as it begins: there may be very many sites."""
    begun = vars(_BEGUN)
    return {key: value for key, value in vars(record).items() if value != begun[key]}


def _frames(name: str, broadcast: Broadcast) -> dict[str, np.ndarray]:
    return {f"{name}.{n}": np.frombuffer(frame, np.uint8) for n, frame in broadcast.frames}


def _broadcast(
    replica: str, name: str, numbers: list[int], number: int, arrays: Mapping[str, Any]
) -> Broadcast:
    frames = [(at, arrays[f"{name}.{at}"].tobytes()) for at in numbers]
    return Broadcast(arrays[replica], number, frames)


def _kept_numbers(kept: Kept | None) -> list[float] | None:
    return None if kept is None else [kept.round, kept.score, kept.waited]


def _kept_of(numbers: list[Any] | None, vector: Vector | None) -> Kept | None:
    if numbers is None:
        return None
    number, score, waited = numbers
    return Kept(number, score, waited, vector)


def load(directory: Path) -> Checkpoint | None:
    """Return the last checkpoint, or None when no round has finished.

    Raises ValueError when the file is damaged.
    """
    path = directory / FILE
    if not path.exists():
        return None
    try:
        with safetensors.safe_open(str(path), framework="numpy") as file:
            meta = json.loads((file.metadata() or {})["checkpoint"])
            arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        return Checkpoint(
            run=bytes.fromhex(meta["run"]),
            round=meta["round"],
            state=ServerState(
                {name: arrays[f"state.{name}"] for name in meta["arrays"]}, meta["scalars"]
            ),
            broadcast=_broadcast("replica", "frame", meta["frames"], meta["broadcast"], arrays),
            sites=SiteRecords(
                {name: SiteRecord(**record) for name, record in meta["sites"].items()}
            ),
            kept=_kept_of(meta.get("kept"), arrays.get("kept")),
            early=None
            if meta.get("early") is None
            else _broadcast("early", "early", meta["early"], meta["broadcast"], arrays),
            flights=[
                Flight(
                    *(name, number, bytes.fromhex(base), ends),
                    blob=arrays[f"flight.{at}"].tobytes(),
                    code=code,
                )
                for at, (name, number, base, ends, code) in enumerate(meta.get("flights", []))
            ],
        )
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path}: the checkpoint is damaged ({type(error).__name__}); restore it from a backup "
            "or start the run again in a new directory"
        ) from None
