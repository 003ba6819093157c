"""A site's counts: asked for once, with the released model, after the last round.

Where records are private the counts leave with noise, under a plan of their own in the ledger:
reserved before a record is looked at, released before it is sent. What was made is kept, and sent
again when it is asked for again; other noise on the same counts would cost again.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clients import final
from clients.site import Site
from clients.state import exclusive
from fedlite import compression
from fedlite.data import Dataset
from fedlite.evaluation.trained import answers_of
from fedlite.guard.guardian import Decline
from fedlite.inference import told
from fedlite.inference.counted import check_router, noised_cells, site_counts
from fedlite.messages import Code, Counted, Instruction
from fedlite.models import Model
from fedlite.parameters import Vector
from fedlite.plan import Plan
from fedlite.privacy import counting
from fedlite.protection import counting_mechanism
from fedlite.storage import write_atomic
from fedlite.tasks import Task

SUFFIX = ".counts"


@dataclass(frozen=True)
class _Released:
    """The released model, ready to answer."""

    model: Model
    task: Task

    def answers(self, data: Dataset) -> dict[str, NDArray[np.float64]]:
        """Return each branch's answers, float64 [n, width]."""
        return answers_of(self.model, self.task, data)


def counted(site: Site, blob: bytes) -> Counted:
    """Return the counts of the site's calibration records under the model that was asked with.

    Raises Decline where it is not the released model, the site's policy lets no counts leave, its
    budget has nothing left for them, or another model was counted with before: one a run. Raises
    ScenarioError where the noise would not cover the router.
    """
    if site.calibration is None:
        raise Decline(Code.BAD_INSTRUCTION, "counts are asked for that the plan does not have")
    # What is refused for what the plan says must not be charged for first.
    check_router(site.scenario)
    asked, model = final.released(site, blob)
    guard = site.guardian.for_counts()
    with exclusive(site.path):
        guard.admit(asked)
        envelope = envelope_of(site.plan.whole or site.plan, asked, site.number)
        frame = _kept(site.path.with_suffix(SUFFIX), envelope)
        if frame is None:
            guard.reserve(asked)
            cells = _cells(site, site.calibration, model)
            frame = compression.pack(envelope, told.CODEC, told.encode(cells))
            # Before it is released: what is on record can then always be sent again.
            site.path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(site.path.with_suffix(SUFFIX), frame)
        return Counted(frame, guard.release(asked, frame))


def envelope_of(plan: Plan, asked: Instruction, site: int) -> compression.Envelope:
    """Return what a frame of counts is bound to: run, round, site, layout, and the model counted.

    plan: the whole one, whatever the site trains.
    """
    return compression.Envelope(
        run=asked.run, round=asked.round, site=site, layout=plan.stored.digest, base=asked.model
    )


def _kept(path: Path, envelope: compression.Envelope) -> bytes | None:
    if not path.exists():
        return None
    frame = path.read_bytes()
    try:
        compression.unpack(frame, envelope, limit=len(frame))
    except ValueError as error:
        raise Decline(
            Code.BAD_INSTRUCTION, f"counts were told of another model in this run: {error}"
        ) from None
    return frame


def _cells(site: Site, data: Dataset, vector: Vector) -> told.Cells:
    scenario, plan = site.scenario, site.plan.whole or site.plan
    model = plan.model()
    plan.load(model, vector)
    released = _Released(model.eval(), plan.task)
    mechanism = counting_mechanism(scenario)
    if mechanism is None:
        return told.cells_of(
            site_counts(scenario, released, data, plan.classes), scenario.inference.risk
        )
    stream = counting.entropy(scenario.privacy.simulate_seed, site.number)
    return noised_cells(scenario, released, data, plan.classes, mechanism, stream)
