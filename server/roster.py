"""Who is there: the sites that can take part, why other nodes cannot, and how long to wait.

A node is asked for its name and answers when it likes: one that does not costs the others nothing.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Set

from flwr.app import Message
from flwr.serverapp import Grid

from fedlite import flower
from fedlite.deployment.protocol import Release
from fedlite.messages import Code, Hello
from fedlite.scenario import Federation
from server.deployment import Enrolled
from server.replies import POLL_SECONDS, by_flower, pull
from server.witness import Disagreement, Witness

log = logging.getLogger("fedlite.server")

# Seconds for which a node that declined is left alone; after any other code it is not asked again.
_AGAIN_SECONDS = {
    # Its operator may be reading the bundle.
    Code.UNAPPROVED: 5.0,
    # A full disk or a file that is being replaced passes, but every question loads the data anew.
    Code.FAILED: 60.0,
    # Its operator may be upgrading.
    Code.PROTOCOL: 60.0,
    Code.DATA: 60.0,
}


class Roster:
    """The nodes of the sites, by name, and what keeps other nodes out.

    grid: Flower's way to the nodes. layout: digest of the model's layout, which sites must share;
    layouts: those of the sites that train a part of it (`fedlite.depth`), by name.
    enrolled(node) returns which approved site a node is; without it, every node is who it says.
    may_ask(nodes) returns those that may know of the run; without it, all of them.
    met(site, release) is told what a site that answers runs. witness: remembers the heads of the
    sites' ledgers, when they keep any. wait: seconds for which `gather` waits; 0 is the deadline of
    a round. notice is told, for a person, whom it waits for.
    """

    def __init__(
        self,
        grid: Grid,
        federation: Federation,
        layout: bytes,
        *,
        layouts: Mapping[str, bytes] | None = None,
        enrolled: Callable[[int], Enrolled | None] | None = None,
        met: Callable[[str, Release], object] | None = None,
        may_ask: Callable[[Set[int]], Set[int]] | None = None,
        witness: Witness | None = None,
        wait: float = 0.0,
        notice: Callable[[str], object] = log.debug,
    ) -> None:
        """Begin with nobody."""
        self._grid = grid
        self._federation = federation
        self._layout = layout
        self._layouts = layouts or {}
        self._enrolled = enrolled
        self._met = met
        self._may_ask = may_ask
        self._witness = witness
        self._wait = wait or federation.deadline_seconds
        self._notice = notice
        self.nodes: dict[str, int] = {}
        self._sorted: list[str] | None = []
        self._entered: list[str] = []
        # What a node answered instead of its name, and when it may be asked again.
        self._declined: dict[int, tuple[Code, float]] = {}
        # The questions under way: whom, and when.
        self._greeted: dict[str, tuple[int, float]] = {}

    @property
    def refused(self) -> dict[int, str]:
        """By node, the code for which it is left out, if only for now.

        Nodes whose operators have not approved the bundle yet are not in it.
        """
        codes = {node: code for node, (code, _) in self._declined.items()}
        return {node: code.value for node, code in codes.items() if code is not Code.UNAPPROVED}

    @property
    def names(self) -> list[str]:
        """The names of the sites that are there, in order."""
        if self._sorted is None:
            self._sorted = sorted(self.nodes)
        return self._sorted

    def entered(self) -> list[str]:
        """Return who has come, or come back, since it was last asked."""
        entered, self._entered = self._entered, []
        return entered

    def gather(self) -> None:
        """Wait for the scenario's number of sites, refused ones included, but no longer than told.

        Refused ones that the quorum needs, and whose trouble may pass, are waited for. Afterwards
        there may be fewer than the quorum.
        """
        until, said = time.monotonic() + self._wait, ""
        while not self._settled():
            met = self.meet()
            if (text := self._gathered()) != said:
                said = text
                self._notice(text)
            if not met:
                if time.monotonic() > until:
                    return
                time.sleep(POLL_SECONDS)

    def _settled(self) -> bool:
        if len(self.nodes) + len(self.refused) < self._federation.sites:
            return False
        # In a simulation nothing passes by itself.
        codes = {code for code, _ in self._declined.values()} if self._enrolled else set()
        return len(self.nodes) >= self._federation.quorum or not codes & _AGAIN_SECONDS.keys()

    def wait_for_quorum(self, spent: Set[str], quorum: int = 0) -> None:
        """Meet who is new; where too few are there, wait for them, but no longer than the deadline.

        A cut connection takes all sites off line at once: rounds without them would only be void.
        spent: names that do not count, as they cannot take part any more. quorum: how many are
        enough; 0 is the scenario's.
        """
        until = time.monotonic() + self._federation.deadline_seconds
        while True:
            self.meet()
            gone = sum(name in self.nodes for name in spent)
            enough = len(self.nodes) - gone >= (quorum or self._federation.quorum)
            if enough or time.monotonic() > until:
                return
            time.sleep(POLL_SECONDS)

    def meet(self) -> int:
        """Ask who is new, or may have changed; return how many have answered since last time.

        It never waits. A site that comes back as another node takes its old place.
        """
        introduced = getattr(self._grid, "introduced", None)
        if introduced is not None and self._witness is None:
            # Of a simulation whose maker knows them all: nobody comes later, and nobody goes.
            if not self.nodes:
                self.nodes, self._entered = dict(introduced), [*introduced]
                self._sorted = None
            return 0
        here, now = set(self._grid.get_node_ids()), time.monotonic()
        if any(node not in here for node in self.nodes.values()):
            self.nodes = {name: node for name, node in self.nodes.items() if node in here}
            self._sorted = None
        out = {node for node, (_, again) in self._declined.items() if now < again}
        asked = {node for node, _ in self._greeted.values()}
        new = sorted(self._allowed(here - set(self.nodes.values()) - out - asked))
        questions = [flower.ask(b"?", node, "query", "hello") for node in new]
        for node, message_id in zip(new, self._grid.push_messages(questions), strict=False):
            if message_id:
                self._greeted[message_id] = (node, now)
        answered = 0
        for message in pull(self._grid, set(self._greeted)) if self._greeted else []:
            found = self._greeted.pop(message.metadata.reply_to_message_id, None)
            if found is not None and not by_flower(message):
                self._hear(found[0], message)
                answered += 1
        # Only now: a round may last as long as the deadline, and the answer come during it.
        for message_id, (_, at) in list(self._greeted.items()):
            if now - at > self._federation.deadline_seconds:
                del self._greeted[message_id]
        return answered

    def _allowed(self, nodes: Set[int]) -> Set[int]:
        """Return which of the nodes may be sent anything; nobody while that cannot be told."""
        if self._may_ask is None or not nodes:
            return nodes
        try:
            return self._may_ask(nodes)
        except ValueError as error:
            log.error("%s", error)
            return frozenset()

    def why_out(self) -> str:
        """Return, for a person, the codes for which nodes are left out."""
        codes = {code.value for code, _ in self._declined.values()}
        return ", ".join(sorted(codes)) or "nobody else answered"

    def _gathered(self) -> str:
        ready = f"{len(self.nodes)} of {self._federation.sites} sites ready"
        parts = [f"{ready} ({', '.join(sorted(self.nodes))})" if self.nodes else ready]
        refused = self.refused
        if unapproved := self._declined.keys() - refused:
            found = [self._enrolled(node) if self._enrolled else None for node in unapproved]
            names = sorted(site.name for site in found if site is not None)
            parts.append(f"not approved there yet: {', '.join(names) or len(unapproved)}")
        if refused:
            parts.append("refused: " + ", ".join(sorted(refused.values())))
        return "; ".join(parts)

    def _hear(self, node: int, message: Message) -> None:
        """Enter a node, or remember why it cannot take part."""
        code = flower.code_of(message)
        if code is None:
            try:
                code = self._enter(node, Hello.decode(flower.unwrap(message)))
            except ValueError as error:
                log.error("a hello was refused: %s", error)
                code = Code.BAD_UPDATE
        before, _ = self._declined.pop(node, (None, 0.0))
        if code is None:
            return
        self._declined[node] = (code, time.monotonic() + _AGAIN_SECONDS.get(code, math.inf))
        if code is not before and code is not Code.UNAPPROVED:
            log.warning("a site cannot take part: %s", code.value)

    def _enter(self, node: int, hello: Hello) -> Code | None:
        """Enter a node that fits; returns why one does not."""
        release = Release(hello.version, hello.protocol)
        if release.problem:
            log.error("%s: %s", hello.site, release.problem)
            return Code.PROTOCOL
        layout = self._layouts.get(hello.site, self._layout)
        if hello.layout != layout.hex() or hello.site in self.nodes:
            log.error("%s: another model, or a name that is taken", hello.site)
            return Code.CONFIG
        site = self._enrolled(node) if self._enrolled else None
        if self._enrolled and (site is None or site.name != hello.site):
            log.error("a node says that it is %s, and is not approved as that", hello.site)
            return Code.CONFIG
        if self._met is not None:
            self._met(hello.site, release)
        if self._witness is not None:
            if site is not None:
                self._witness.expect(site.name, site.ledger_key)
            try:
                self._witness.greet(hello.site, hello.head, hello.rotations)
            except Disagreement as error:
                log.error("%s", error)
                return Code.LEDGER
        self.nodes[hello.site] = node
        self._entered.append(hello.site)
        self._sorted = None
        return None
