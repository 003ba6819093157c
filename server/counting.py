"""The sites' counts, asked for after the last round, and what they come to.

A reply that is wrong in any way is dropped and named, a site that does not answer is named, and the
threshold is chosen by the rest.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flwr.app import Message

from fedlite import compression, flower
from fedlite.evaluation import open_model
from fedlite.inference import measured, told
from fedlite.inference.told import Cells
from fedlite.messages import COUNTS, REPLY_BYTES, Code, Instruction, Reply
from fedlite.privacy import counting
from fedlite.protection import counting_mechanism
from server import delivery, replies
from server.rounds import Rounds
from server.witness import Disagreement, Witness

log = logging.getLogger("fedlite.server")


@dataclass
class Counts:
    """What sites have told. dropped: a code by site. missing: who has not answered, or is gone."""

    cells: dict[str, Cells] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    up: int = 0
    down: int = 0

    def told(self) -> dict[str, Any]:
        """Return whom they are of, and the bytes of it all, for the summary."""
        return {
            "sites": sorted(self.cells),
            "dropped": dict(sorted(self.dropped.items())),
            "missing": sorted(self.missing),
            "bytes": {"up": self.up, "down": self.down},
        }


def ask(rounds: Rounds, witness: Witness | None, journal: Callable[..., None]) -> Counts:
    """Ask every site of the run for its counts under the released model.

    witness: of the sites' ledgers, where they keep any. Done again after a crash, it gets the same
    again: sites have kept what they told.
    """
    point, scenario = rounds.point, rounds.scenario
    rounds.roster.meet()
    nodes = {n: name for name, n in sorted(rounds.roster.nodes.items()) if name in point.joined}
    found, instruction = Counts(), delivery.bringing(rounds, witness)
    asked = {name: instruction(name) for name in nodes.values()}

    def messages() -> Iterator[Message]:
        for node, name in nodes.items():
            data = asked[name].encode()
            found.down += len(data)
            yield flower.ask(data, node, "evaluate", COUNTS)

    seen: set[str] = set()
    for message in replies.ask(rounds.grid, messages(), scenario.federation.deadline_seconds):
        name = nodes.get(message.metadata.src_node_id, "")
        if not name or name in seen:
            continue
        seen.add(name)
        if replies.by_flower(message):
            found.missing.append(name)
        elif (code := flower.code_of(message)) is not None:
            found.dropped[name] = code.value
        else:
            _take(rounds, witness, name, asked[name], message, found)
    found.missing += sorted(point.joined - seen)
    if witness is not None:
        witness.flush()
    for name, why in sorted(found.dropped.items()):
        log.warning("%s: its counts were dropped (%s)", name, why)
    if found.missing:
        log.warning("no counts of %s", ", ".join(sorted(found.missing)))
    log.info("%d of %d sites have told their counts", len(found.cells), len(point.joined))
    journal("counts", run=rounds.directory.name, sites=", ".join(sorted(found.cells)))
    return found


def _take(
    rounds: Rounds,
    witness: Witness | None,
    name: str,
    asked: Instruction,
    message: Message,
    found: Counts,
) -> None:
    """Read one site's counts, or note that they are none."""
    try:
        blob = flower.unwrap(message)
        found.up += len(blob)
        found.cells[name] = _read(rounds, witness, name, asked, blob)
    except Disagreement as error:
        log.error("%s", error)
        found.dropped[name] = Code.LEDGER.value
    except ValueError as error:
        log.warning("%s: %s", name, error)
        found.dropped[name] = Code.BAD_UPDATE.value


def _read(
    rounds: Rounds, witness: Witness | None, name: str, asked: Instruction, blob: bytes
) -> Cells:
    mechanism = counting_mechanism(rounds.scenario)
    noise = mechanism.noise_multiplier if mechanism else 0.0
    risk = rounds.scenario.inference.risk
    limit = told.length(noise, risk)
    if len(blob) > REPLY_BYTES + compression.HEADER_BYTES + limit:
        raise ValueError(f"counts: must be {limit} bytes in a frame, got {len(blob)}")
    reply = Reply.decode(blob)
    if witness is not None:
        witness.see(
            name,
            reply.head,
            run=counting.run_of(asked.run),
            number=asked.round,
            payload=hashlib.sha256(reply.frame).hexdigest(),
        )
    elif reply.head is not None:
        raise ValueError("counts: hold a ledger's head in a run that claims no privacy")
    layout = rounds.plan.stored.digest
    envelope = compression.Envelope(asked.run, asked.round, asked.site, layout, asked.model)
    codec, records, body = compression.unpack(reply.frame, envelope, limit=limit)
    if codec != told.CODEC or records:
        raise ValueError(f"counts: must have codec {told.CODEC} and no records, got {codec}")
    cells = told.decode(body, noise, risk)
    announced = rounds.point.sites[name].records
    # At most half of what is not held out is counted, and which records these are is chance.
    if announced and cells.total > 2 * announced + 100:
        raise ValueError(f"counts: of {cells.total} records, and it trains on {announced}")
    return cells


def inference_of(rounds: Rounds, found: Counts, *, held: bool) -> dict[str, Any]:
    """Return the `inference` part of the summary; held: whether the records are here to measure.

    The run's model must have been written.
    """
    scenario = rounds.scenario
    directory: Path = rounds.directory
    part = (
        measured.inference_of(scenario, open_model(directory), found.cells)
        if held
        else measured.promised(scenario, found.cells, sorted(rounds.point.joined))
    )
    return part | {"told": found.told()}
