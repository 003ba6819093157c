"""What a site must remember between rounds, on its own disk, in one atomic file.

Flower's client state lives in memory and dies with the process, so a site keeps its own: the model
it holds, its error-feedback residual, and the update whose fate it does not know yet. What it has
spent of its privacy is not here but in its ledger, which outlives the run.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

from clients.replicas import Replicas, read
from fedlite.parameters import Kept, Vector, vector_digest
from fedlite.storage import latest, write_atomic, write_quickly


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the state file `path` for one process at a time, waiting for another to finish.

    A worker that outlives its killed parent may still be training when the run is resumed; what it
    has reserved must be on disk before anybody else reads the state.
    """
    name, how = path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
    try:
        lock = os.open(name, how, 0o666)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(name, how, 0o666)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


@lru_cache(maxsize=4)
def nothing(size: int) -> Vector:
    """Return the residual of a site of which nothing is left unsaid, float32 [size], read-only."""
    found = np.zeros(size, np.float32)
    found.setflags(write=False)
    return found


@dataclass
class Pending:
    """An update that was sent, or was about to be, and is not acknowledged yet.

    round: its round. base: digest of the model it was trained from. payload: the frame.
    unsent: the residual if the server did not use it (nothing got through).
    residual: the residual if the server did. kept: what the objective keeps if the server did.
    """

    round: int
    base: bytes
    payload: bytes
    unsent: Vector
    residual: Vector
    kept: Kept = field(default_factory=dict)


@dataclass
class SiteState:
    """Everything a site remembers of one run. Vectors are float32 [n].

    round: whose replica that is; 1 for the initial model. protection: what residual and pending
    update were made under: unit, data set and plan. records: commitment to those that the run began
    with; it goes on with no others. kept: what the objective has kept since the last update that
    the server used, by name. digest: of the replica; empty where nobody has taken it yet.
    saved: digest of the one that its file names, among simulated sites.
    """

    replica: Vector
    residual: Vector
    pending: Pending | None = None
    protection: str = ""
    round: int = 1
    records: str = ""
    kept: Kept = field(default_factory=dict)
    digest: bytes = b""
    saved: bytes = b""

    def guard(self, protection: str) -> None:
        """Drop what was made under another protection: residual, pending update, and what is kept.

        What a clear delta left over may never enter an update that is accounted as private.
        """
        if self.protection != protection:
            self.residual, self.kept, self.pending = nothing(self.residual.size), {}, None
            self.protection = protection

    def settle(self, acknowledged: int) -> None:
        """Keep what the pending update led to if it was acknowledged, else take it back.

        Without this a lost reply would also lose what its residual had given up for it.
        """
        if self.pending is None:
            return
        used = self.pending.round == acknowledged
        self.residual = self.pending.residual if used else self.pending.unsent
        self.kept = self.pending.kept if used else self.kept
        self.pending = None


def save(path: Path, state: SiteState, replicas: Replicas | None = None) -> None:
    """Write the state durably; raises OSError and leaves the old file when that fails.

    replicas: of simulated sites, where the replica is kept for all of them. Nothing is flushed
    then: it is written before the server's checkpoint names it, which a killed process leaves as it
    is, and after a power cut a simulation is one that is started again.
    """
    arrays: dict[str, np.ndarray] = {}
    zero = nothing(state.residual.size)
    meta: dict[str, int | str] = {
        "round": state.round,
        "protection": state.protection,
        "records": state.records,
    }
    arrays |= {f"kept.{name}": array for name, array in state.kept.items()}
    if state.pending is None:
        arrays |= _apart("residual", state.residual, zero)
    else:
        # Whatever becomes of the update, one of its two takes the residual's place.
        arrays |= _apart("pending.unsent", state.pending.unsent, zero)
        arrays |= _apart("pending.residual", state.pending.residual, state.pending.unsent)
        arrays["pending.payload"] = np.frombuffer(state.pending.payload, np.uint8)
        meta["pending.round"] = state.pending.round
        meta["pending.base"] = state.pending.base.hex()
        arrays |= {f"pending.kept.{name}": array for name, array in state.pending.kept.items()}
    digest = b""
    if replicas is None:
        path.parent.mkdir(parents=True, exist_ok=True)
        arrays["replica"] = state.replica
    else:
        digest = state.digest or vector_digest(state.replica)
        meta["replica"] = digest.hex()
        if not state.saved:
            path.parent.mkdir(parents=True, exist_ok=True)
        replicas.hold(path, digest, state.replica)
    data = safetensors.numpy.save(arrays, metadata={"state": json.dumps(meta)})
    if replicas is None:
        write_atomic(path, data)
    else:
        write_quickly(path, data)
        if state.saved and state.saved != digest:
            replicas.let_go(path, state.saved)
        state.saved = digest
        # Its model is found by its digest: many sites hold the same, and not for ever.
        known = replace(state, replica=nothing(0), digest=digest)
        replicas.states.keep(path, known, _bytes(known))


def _bytes(state: SiteState) -> int:
    """Return what the arrays of a state take in memory, each counted once.

    Of a view that is all that it is a view of. Nothing is what all sites have in common.
    """
    arrays, payload = [state.residual, *state.kept.values()], 0
    if (pending := state.pending) is not None:
        arrays += [pending.unsent, pending.residual, *pending.kept.values()]
        payload = len(pending.payload)
    owners = {id(whole): whole.nbytes for whole in map(_whole, arrays)}
    owners.pop(id(nothing(state.residual.size)), None)
    return sum(owners.values()) + payload


def _whole(array: np.ndarray) -> np.ndarray:
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def _apart(name: str, vector: Vector, near: Vector) -> dict[str, np.ndarray]:
    """Return a vector as arrays of a file: only where it is not `near`, if that is shorter.

    Bits are compared, so that what comes back is the same to the sign of a zero.
    """
    if vector is near:
        at = np.zeros(0, np.int64)
    else:
        at = np.flatnonzero(vector.view(np.uint32) != near.view(np.uint32))
    if 2 * len(at) >= vector.size:
        return {name: vector}
    return {f"{name}.at": at.astype(np.uint32), f"{name}.values": vector[at]}


def _joined(name: str, arrays: dict[str, np.ndarray], near: Vector) -> Vector:
    if name in arrays:
        return arrays[name]
    if not arrays[f"{name}.at"].size:
        return near
    vector = near.copy()
    vector[arrays[f"{name}.at"]] = arrays[f"{name}.values"]
    return vector


def _under(start: str, arrays: dict[str, np.ndarray]) -> Kept:
    return {name[len(start) :]: arrays[name] for name in arrays if name.startswith(start)}


def load(path: Path, replicas: Replicas | None = None) -> SiteState | None:
    """Read the state, or return None when the site has none for this run.

    With a pending update the residual before it is not kept: nothing reads it. replicas: as of
    `save`.

    Raises ValueError when the file is damaged: a site must not silently forget its residual.
    """
    known: SiteState | None = None if replicas is None else replicas.states.find(path)
    there = latest(path)
    if known is None and not there.exists():
        return None
    try:
        if replicas is not None and known is not None:
            return replace(known, replica=replicas.find(path, known.digest))
        with safetensors.safe_open(str(there), framework="numpy") as file:
            meta = json.loads((file.metadata() or {})["state"])
            arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        digest = bytes.fromhex(meta.get("replica", ""))
        if digest:
            arrays["replica"] = (replicas.find if replicas else read)(path, digest)
        residual, pending = nothing(arrays["replica"].size), None
        if "pending.round" in meta:
            unsent = _joined("pending.unsent", arrays, residual)
            pending = Pending(
                round=meta["pending.round"],
                base=bytes.fromhex(meta["pending.base"]),
                payload=arrays["pending.payload"].tobytes(),
                unsent=unsent,
                residual=_joined("pending.residual", arrays, unsent),
                kept=_under("pending.kept.", arrays),
            )
        else:
            residual = _joined("residual", arrays, residual)
        return SiteState(
            replica=arrays["replica"],
            residual=residual,
            records=meta["records"],
            round=meta["round"],
            pending=pending,
            protection=meta["protection"],
            kept=_under("kept.", arrays),
            digest=digest,
            saved=digest,
        )
    except (
        safetensors.SafetensorError,
        KeyError,
        IndexError,
        ValueError,
        FileNotFoundError,
    ) as error:
        raise ValueError(
            f"{path}: the site's state is damaged ({type(error).__name__}); restore it from a "
            "backup, or remove it to leave this run"
        ) from None
