"""The released model at a site: taken after the last round, kept for its operator, never trained.

Nothing is spent on it and nothing leaves by it: the site answers as to any question who it is. With
it the keys of the run's secure sums are removed.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

from clients.site import Site
from clients.state import exclusive
from fedlite import compression
from fedlite.guard.guardian import Decline
from fedlite.messages import Code, Instruction
from fedlite.parameters import Vector, vector_digest
from fedlite.storage import write_atomic

FILE = "final.safetensors"
# What the server asks when it only wants to know who is there.
_NOTHING = b"?"
_HEAD_BYTES = 4096


def keep(site: Site, blob: bytes) -> None:
    """Keep the model that a question brings along, beside the site's state of the run.

    Raises Decline where it is not a whole, finite model of this plan, for this site, after the last
    round, with the digest that it names; OSError where it cannot be written.
    """
    if blob == _NOTHING:
        return
    _, model = released(site, blob)
    path = site.path.with_name(FILE)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, safetensors.numpy.save({"model": model}))
    with exclusive(site.path):
        site.forget_sums()


def released(site: Site, blob: bytes) -> tuple[Instruction, Vector]:
    """Return what is asked with a run's released model, and that model, float32 [n].

    Raises Decline as `keep`.
    """
    # A site that trains the shallow branch alone may use all of the model.
    dense, plan = compression.Dense(), site.plan.whole or site.plan
    try:
        asked = Instruction.decode(blob)
        if asked.site != site.number or asked.round != plan.scenario.federation.rounds + 1:
            raise ValueError("it is for another site, or not for the end of the run")
        (frame,) = asked.frames
        envelope = compression.Envelope(
            run=asked.run, round=asked.round, site=0, layout=plan.stored.digest, base=bytes(8)
        )
        limit = dense.limit(plan.stored.size)
        codec, _, body = compression.unpack(frame, envelope, limit=limit)
        if codec != dense.codec:
            raise ValueError(f"codec: must be {dense.codec}, got {codec}")
        model = dense.decompress(body, plan.stored.size, envelope.context).dense()
        if vector_digest(model) != asked.model or not np.isfinite(model).all():
            raise ValueError("it is not the model that it names, or holds what is no number")
    except ValueError as error:
        raise Decline(Code.BAD_INSTRUCTION, f"the final model: {error}") from None
    return asked, model


def read(folder: Path, size: int) -> Vector:
    """Return the model of `size` parameters that was kept in a run's folder, float32 [size].

    The folder is approved code's: no link is followed and no more is read than such a model has.
    Raises FileNotFoundError when there is none, ValueError when it is another model or damaged.
    """
    path = folder / FILE
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(handle, "rb") as file:
        data = file.read(4 * size + _HEAD_BYTES)
    try:
        (model,) = safetensors.numpy.load(data).values()
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        raise ValueError(f"{path}: is damaged ({error}); ask the coordinator for it") from None
    if model.shape != (size,) or model.dtype != np.float32 or not np.isfinite(model).all():
        raise ValueError(
            f"{path}: must hold the {size} parameters of this run's model, and holds others; ask "
            "the coordinator for it"
        )
    return model
