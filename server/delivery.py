"""The released model, sent to the sites that it was trained with, once the last round is over."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

from flwr.app import Message

from fedlite import flower
from fedlite.deployment.journal import Journal
from fedlite.messages import Instruction, site_id
from fedlite.parameters import vector_digest
from server import broadcast, replies
from server.rounds import Rounds
from server.witness import Witness

log = logging.getLogger("fedlite.server")

# What sites call the round of such a message in their logs.
NAME = "model"


def bringing(rounds: Rounds, witness: Witness | None = None) -> Callable[[str], Instruction]:
    """Return what makes the instruction that brings a site, by its name, the released model.

    As float32, so that all hold the same to the bit. witness: whose receipts travel with it.
    """
    point, plan = rounds.point, rounds.plan
    model = point.deployed[: plan.stored.size]
    number, digest = rounds.scenario.federation.rounds + 1, vector_digest(model)
    frames = (broadcast.full(model, number, plan.stored.digest, point.run),)

    def instruction(name: str) -> Instruction:
        receipt = witness.receipt(name) if witness else None
        return Instruction(point.run, number, site_id(name), 0, digest, frames, receipt)

    return instruction


def deliver(rounds: Rounds, journal: Journal) -> dict[str, Any]:
    """Send the model to each site of which an update was used; return whom it reached, in bytes.

    Who is off line, or does not answer within the deadline, goes without. Done again after a crash,
    it sends the same again.
    """
    point, federation = rounds.point, rounds.scenario.federation
    rounds.roster.meet()
    nodes = {
        node: name
        for name, node in sorted(rounds.roster.nodes.items())
        if name in point.sites and point.sites[name].used
    }
    instruction, sent = bringing(rounds), 0

    def messages() -> Iterator[Message]:
        nonlocal sent
        for node, name in nodes.items():
            asked = instruction(name).encode()
            sent += len(asked)
            yield flower.ask(asked, node, "query", NAME)

    reached: list[str] = []
    for message in replies.ask(rounds.grid, messages(), federation.deadline_seconds):
        name, code = nodes.get(message.metadata.src_node_id, ""), flower.code_of(message)
        if not name or name in reached:
            continue
        if code is None and not message.has_error():
            reached.append(name)
        else:
            log.warning("%s did not take the model: %s", name, code.value if code else "gone")
    reached.sort()
    log.info("the model was delivered to %d of %d sites", len(reached), len(nodes))
    journal.write("deliver", run=rounds.directory.name, sites=", ".join(reached))
    return {"sites": reached, "of": len(nodes), "bytes_down": sent}
