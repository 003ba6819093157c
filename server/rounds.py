"""The round loop: whom to ask, what to send, which answers count, and when to stop.

Nothing here waits without a limit and no answer can stop a run: a reply that is wrong in any way is
dropped, counted and named, and the round goes on with the others.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from flwr.serverapp import Grid

from fedlite.messages import Code
from fedlite.parameters import Vector
from fedlite.plan import Plan
from fedlite.reporting.record import RoundRecord, append_round, read_rounds, rewrite_rounds
from server import alarm, attendance, buffered, checkpoint, lengths
from server.asking import Asking
from server.checkpoint import Checkpoint
from server.clock import Clock
from server.outcome import Outcome
from server.roster import Roster
from server.selection import Selector
from server.sums import Sums
from server.updates import Updates
from server.witness import Witness

log = logging.getLogger("fedlite.server")

_VOID_ROUNDS = 3


class RunFailed(RuntimeError):
    """The run cannot go on; the text says why and what to do. The last checkpoint is whole."""


class Rounds:
    """A run from its first round, or from its checkpoint, to its last.

    grid: Flower's way to the sites. roster: who is there. run: its 8 bytes. witness: remembers
    the heads of the sites' ledgers, when they keep any; the roster's, too. adapt: whether the
    deadline follows what sites were seen to need; never in a simulation, which a busy machine would
    change. clock: of virtual time, in a simulation that has one. journal(action, **facts) is told
    which sites are asked less. selector: chooses among rounds.
    epsilon(asked) returns the privacy loss of a site that was asked so often. evaluate(round,
    model) returns the scores by name and branch.
    """

    def __init__(
        self,
        grid: Grid,
        plan: Plan,
        directory: Path,
        roster: Roster,
        *,
        run: bytes,
        witness: Witness | None = None,
        adapt: bool = False,
        clock: Clock | None = None,
        journal: Callable[..., object] = log.debug,
        selector: Selector | None = None,
    ) -> None:
        """Start afresh, or go on after the last checkpoint in `directory`."""
        self.grid = grid
        self.plan = plan
        self.scenario = plan.scenario
        self.directory = directory
        self._witness = witness
        self.roster = roster
        self._adapt, self._journal, self._selector = adapt, journal, selector
        self.updates: Updates | Sums
        if plan.shared is None:
            self.updates = Updates(plan, witness)
        else:
            self.updates = Sums(plan, grid, roster, directory, witness)
        initial = plan.initial
        found = checkpoint.load(directory / "checkpoint")
        if found is None:
            found = Checkpoint.before(run, plan)
        elif found.state.model.shape != initial.shape:
            raise RunFailed(
                f"{directory}: the checkpoint has {found.state.model.size} parameters, the "
                f"scenario's model {initial.size}; resume with the scenario that began the run"
            )
        self.point = found
        kept = [r for r in read_rounds(directory) if r.round <= found.round]
        if len(kept) != found.round:
            raise RunFailed(
                f"{directory}: rounds.jsonl has {len(kept)} of the {found.round} rounds before the "
                "checkpoint; restore it from a backup or start again in a new directory"
            )
        rewrite_rounds(directory, kept)
        self.records = kept
        self.point.joined.update(self.point.sites, *(record.joined for record in kept))
        # Also of a run that nobody checked before, as Flower's own command starts it.
        buffered.check(plan)
        kind = buffered.Buffered if plan.scenario.network.buffer else Asking
        self.asking = kind(
            *(grid, plan, self.point, roster, self.updates),
            records=self.records,
            witness=witness,
            adapt=adapt,
            clock=clock,
        )

    def play(
        self,
        *,
        epsilon: Callable[[int], float | None],
        evaluate: Callable[[int, Vector], dict[str, dict[str, float]]],
        cpu_seconds: Callable[[], float],
    ) -> Iterator[RoundRecord]:
        """Run the rounds that are left; yields each round's record once it is on disk.

        Raises RunFailed when too few sites can be found, or answer, several times in a row, and
        when all rounds are over and not one update was ever accepted: that model is untrained.
        """
        federation = self.scenario.federation
        for site in self.point.sites.values():
            # A ceiling may have been raised while the run was interrupted.
            site.spent = False
        self._gather()
        if isinstance(self.updates, Sums):
            self.updates.meet(self.point.run)
        void = 0
        for number in range(self.point.round + 1, federation.rounds + 1):
            if self._selector is not None and self._selector.over(self.point.kept):
                log.info("no round was better for so long that the run ends before its last")
                break
            started, cpu, before = time.monotonic(), cpu_seconds(), self._site_seconds()
            if number > 1:
                self.roster.wait_for_quorum(self._spent(), self.updates.quorum)
            joined = sorted({*self.roster.entered()} - self.point.joined)
            self.point.joined.update(joined)
            outcome, state = self.asking.round(number)
            self._judge(number, outcome)
            # Too few answers make no round: their senders are told so and take the updates back.
            enough = self.updates.enough(outcome.used)
            if enough and not self.point.can_send(self.plan, state):
                log.error("round %d: the server's step is too long and is not taken", number)
                enough = False
            moved = alarm.distance(self.point.state.model, state.model) if enough else 0.0
            moves = (r.moved for r in lengths.alike(self.plan, self.records, number))
            jump = alarm.jump(moved, moves, self.point.state.model)
            if enough and self.plan.weak.issuperset(outcome.used):
                log.warning("round %d: no site that trains the tail was used: it stays", number)
            if jump:
                log.error("round %d moved the model %.3g times as far as usual", number, jump)
            void = 0 if enough else void + 1
            if not void:
                for name in outcome.used:
                    self.point.sites[name].acknowledged = outcome.trained[name]
                    self.point.sites[name].used += 1
                    self.point.sites[name].records = self.updates.records.get(name, 0)
                    if self._adapt:
                        self.point.sites[name].took = round(outcome.took[name], 4)
                self.point.state = state
            self.point.round = number
            scores = dict(evaluate(number, self.point.state.deployed))
            if self._selector is not None and scores and enough:
                self.point.kept = self._selector.after(
                    self.point.kept, number, self.point.state.deployed
                )
            record = RoundRecord(
                round=number,
                accepted=0 if void else len(outcome.used),
                dropped=outcome.dropped,
                missing=outcome.missing,
                accuracy=scores.pop("accuracy", {}),
                auc=scores.pop("auc", {}),
                scores=scores,
                **outcome.bytes,
                kinds=outcome.kinds(self._site_seconds(before)),
                epsilon=epsilon(max((s.asked for s in self.point.sites.values()), default=0)),
                seconds=round(time.monotonic() - started, 4),
                cpu_seconds=round(cpu_seconds() - cpu, 4),
                joined=joined,
                asked=outcome.drawn,
                out=outcome.out,
                cut=dict(self.updates.cut),
                median=self.updates.medians[0],
                median_tail=self.updates.medians[-1] if len(self.updates.medians) > 1 else 0.0,
                moved=moved,
                jump=jump,
                product_error=self.updates.product_error,
                slowest=outcome.slowest if self._adapt else 0.0,
                simulated_seconds=round(outcome.seconds, 6),
                late=outcome.late,
                staleness=round(outcome.staleness, 4),
            )
            if self._witness is not None:
                self._witness.flush()
            append_round(self.directory, record)
            checkpoint.save(self.directory / "checkpoint", self.point)
            self.records.append(record)
            yield record
            if self._out_of_budget():
                if not any(r.accepted for r in self.records):
                    raise RunFailed(
                        "privacy.epsilon: no site's own budget lets one round of this plan (last: "
                        f"{self._why(outcome)}); ask for less, or see each site's site.toml and log"
                    )
                log.warning("too few sites have privacy budget left; the run ends here")
                return
            too_long = bool(void) and self.updates.enough(outcome.used)
            in_vain = number == federation.rounds and not any(r.accepted for r in self.records)
            if too_long and (void >= _VOID_ROUNDS or in_vain):
                raise RunFailed(
                    f"federation.server_learning_rate: {federation.server_learning_rate:g} makes "
                    "steps that are too long to be sent, or no numbers, with federation.strategy "
                    f"{federation.strategy!r}; lower it, or federation.server_momentum, see that a "
                    "strategy of your own stays finite, and begin anew in another directory"
                )
            if void >= _VOID_ROUNDS:
                raise RunFailed(
                    f"federation.quorum: {self.updates.quorum} updates a round are needed, and "
                    f"{void} rounds in a row had fewer (last: {self._why(outcome)}); "
                    f"{self._mend(outcome)}"
                )
        if not any(r.accepted for r in self.records):
            last = self.records[-1]
            why = self._why(Outcome(self.plan, dropped=last.dropped, missing=last.missing))
            raise RunFailed(
                f"federation.rounds: all {federation.rounds} are over and no update was ever "
                f"accepted, so nothing was trained (last: {why}); see the sites' messages, mend "
                "what they name, and begin anew in another directory"
            )

    def _site_seconds(self, before: Mapping[str, float] | None = None) -> dict[str, float]:
        """Return the processor seconds of each site (since `before`), where the grid knows them."""
        # Of all sites together the engine says it; only kinds of sites are told apart.
        of = getattr(self.grid, "site_seconds", None) if self.plan.weak else None
        spent = {name: of(node) for name, node in self.roster.nodes.items()} if of else {}
        return {name: now - (before or {}).get(name, 0.0) for name, now in spent.items()}

    def _gather(self) -> None:
        self.roster.gather()
        there, quorum = len(self.roster.nodes), self.scenario.federation.quorum
        if there < quorum:
            raise RunFailed(
                f"federation.quorum: needs {quorum} sites, only {there} can take part "
                f"({self.roster.why_out()}); the refused sites' own logs say why"
            )

    def _spent(self) -> set[str]:
        return {name for name, record in self.point.sites.items() if record.spent}

    def _out_of_budget(self) -> bool:
        """Whether the sites whose own budgets are spent leave too few for any further round."""
        there = self.roster.nodes
        spent = sum(name in there for name in self._spent())
        return bool(spent) and len(there) - spent < self.updates.quorum

    def _judge(self, number: int, outcome: Outcome) -> None:
        """Give strikes for a round, and say who will be asked less for them."""
        rested = attendance.judge(
            self.point.sites,
            number,
            used=outcome.used,
            dropped=outcome.dropped,
            missing={*outcome.missing} - outcome.excused,
            late=attendance.late(outcome.took, outcome.used) if self._adapt else frozenset(),
        )
        for name, strikes in rested.items():
            until = self.point.sites[name].again
            log.warning(
                "%s: %d rounds in a row without a valid update; not asked before round %d",
                name,
                strikes,
                until,
            )
            self._journal("rest", run=self.directory.name, site=name, strikes=strikes, round=until)

    def _mend(self, outcome: Outcome) -> str:
        resume = f"mend the sites, then resume {self.directory}"
        if Code.DATA not in outcome.dropped.values():
            return resume
        # As after a training that diverged. Neither settings nor a simulation's records may change.
        anew = "see the sites' messages, and begin anew in another directory with what they name"
        return f"{anew}, or {resume}" if self.plan.scenario.data.at_sites else anew

    def _why(self, outcome: Outcome) -> str:
        parts = [f"{name} {code}" for name, code in sorted(outcome.dropped.items())]
        parts += [f"{name} no reply" for name in outcome.missing]
        return ", ".join(parts) or f"{len(outcome.used)} used"
