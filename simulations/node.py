"""What answers at the simulated sites of one process: Flower's ClientApp, for one or several."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flwr.app import Context, Message, RecordDict

from fedlite import flower

FIRST_NODE = 1000
_TRAIN = "train"


class Node:
    """Runs the ClientApp for messages that arrive as bytes; one a process.

    most: how many messages it likes to get at once: more than one where sites are trained together.
    """

    most = 1

    def __init__(
        self,
        run_id: int,
        sites: int,
        run_config: Mapping[str, Any],
        state: Path,
        most: int = 1,
    ) -> None:
        """Import the ClientApp, one torch thread only."""
        from clients.app import app
        from fedlite.training.share import settle_process

        settle_process()
        flower.identify(run_id, 0)
        self._app, self.most = app, most
        self.trained = {"alone": 0, "together": 0}
        self._run_id, self._sites, self._state = run_id, sites, str(state)
        self._run_config = dict(run_config)

    def handle(self, node: int, data: bytes) -> bytes:
        """Return the serialised reply of `node` to a serialised message."""
        message = flower.from_bytes(data)
        reply: Message = self._app(message, self._context(node))
        self.trained["alone"] += message.metadata.message_type == _TRAIN
        return flower.to_bytes(reply)

    def handle_all(self, asked: Sequence[tuple[int, bytes]]) -> list[bytes]:
        """Return the serialised replies of several nodes, none of them asked twice.

        Those that are to train do so together, in a fixed order: each holds its files meanwhile,
        and what is left of a killed run may hold others.
        """
        from clients.app import train_many
        from clients.opening import at_once

        messages = {node: flower.from_bytes(data) for node, data in asked}
        order = [n for n in sorted(messages) if messages[n].metadata.message_type == _TRAIN]
        if not order:
            return [self.handle(node, data) for node, data in asked]
        answers, together = train_many([(messages[n], self._context(n)) for n in order])
        found = {n: flower.to_bytes(reply) for n, reply in zip(order, answers, strict=True)}
        self.trained["alone"] += len(order) - together
        self.trained["together"] += together
        self.most = at_once(self.most)
        return [found[node] if node in found else self.handle(node, data) for node, data in asked]

    def _context(self, node: int) -> Context:
        """Return a node's context, made anew: sites keep what they remember on their disk."""
        return Context(
            run_id=self._run_id,
            node_id=node,
            node_config={
                "partition-id": node - FIRST_NODE,
                "num-partitions": self._sites,
                "state-path": self._state,
            },
            state=RecordDict(),
            run_config=self._run_config,
        )


def close_all() -> None:
    """Close the sites of this process: what they remember is on the disk."""
    from clients.app import close_all

    close_all()


def timed(node: Node, asked: Sequence[tuple[int, bytes]]) -> tuple[list[bytes], float]:
    """Return what nodes reply, and the CPU seconds that each took: of several the mean."""
    started = time.process_time()
    replies = [node.handle(*asked[0])] if len(asked) == 1 else node.handle_all(asked)
    return replies, (time.process_time() - started) / len(asked)
