"""The guardian: who holds a site's budget, and lets nothing leave but by its rules.

In a deployment it lives in the site's own process and approved code in another, which can neither
write a ledger nor read the key that signs it: it trains when the guardian has written the round
down, and hands over what it has made. What a run may spend is computed here from the approved
settings, never taken from the code that trains.

The order that protects a person: admit, reserve, flush, train, settle and release, flush, send.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType

from fedlite.deployment import own
from fedlite.flower import wire
from fedlite.guard import egress, policy as site_policy, records
from fedlite.guard.code import code_digest
from fedlite.guard.declared import beyond_declared
from fedlite.guard.folder import Home
from fedlite.guard.policy import DataSet, SitePolicy, for_scenario
from fedlite.guard.register import Kept, Register
from fedlite.guard.trust import beyond_trust
from fedlite.identity import keys
from fedlite.messages import Code, Hello, Instruction, LedgerHead, Receipt, Reply, site_id
from fedlite.privacy import Mechanism, counting
from fedlite.privacy.budget import Budget, Refused
from fedlite.privacy.ledger import Ledger, Row, read
from fedlite.privacy.ledger.files import FILES, Files
from fedlite.protection import (
    counting_mechanism,
    plan_mechanism,
    question_run,
    round_steps,
    unit_of,
)
from fedlite.scenario import Scenario, ScenarioError, own_code
from fedlite.secure.messages import Note
from fedlite.storage import stamp, write_atomic

# Another run at this site may be using the ledger; a row there takes milliseconds.
_LEDGER_WAIT = 120.0
_CODES = {
    "fork": Code.LEDGER,
    "regress": Code.LEDGER,
    # Of that round alone: neither budget nor ledger is at an end.
    "round-twice": Code.FAILED,
    "unit": Code.POLICY,
    "honest": Code.POLICY,
    "server": Code.POLICY,
}
_RUN = re.compile(r"[0-9a-f]{16}")


class Decline(Exception):
    """The site takes no part in this round; only the code leaves the site."""

    def __init__(self, code: Code, reason: str) -> None:
        """Keep the code for the server and the reason for the site's own log."""
        super().__init__(reason)
        self.code = code


@dataclass
class _Held:
    """What counts for a whole round: the policy, and once it was asked for the budget, open.

    closing: closes it. receipt: what it was held against last.
    """

    policy: SitePolicy
    closing: ExitStack
    opened: tuple[Budget, Ledger] | None = None
    receipt: Receipt | None = None


@dataclass(frozen=True)
class Guardian:
    """What one site's own process knows of one run, and holds it to.

    site: its name. scenario: settled in all that the mechanism needs. mechanism: what protects its
    records; None when no privacy unit is set. home: its policy, keys and ledgers; None only for a
    simulated site that spends nothing. commitment: to the records that the run trains on, 64 hex
    digits. app: the folder of the app's code, if it is not the one beside this library. register:
    what the machine remembers of the site's ledgers; None for a simulated site. counting: whether
    what is asked for are the site's counts, after the last round; the mechanism is then theirs.
    files: how a ledger touches the disk. lasting: whether the home outlives the run, so that others
    may want its ledger meanwhile; a simulated site's mostly does not.
    """

    site: str
    scenario: Scenario
    mechanism: Mechanism | None
    home: Home | None
    commitment: Callable[[], str]
    app: Path | None = None
    register: Register | None = None
    counting: bool = False
    files: Files = FILES
    lasting: bool = True
    _held: list[_Held] = field(default_factory=list, init=False, compare=False, repr=False)

    @cached_property
    def unit(self) -> str:
        """What protects an update, as policies and ledgers name it."""
        return unit_of(self.scenario, self.mechanism)

    def for_counts(self) -> Guardian:
        """Return who holds the site's counts to its budget and policy.

        They have a plan of their own in the ledger, which is charged on top of training's.
        """
        return replace(self, mechanism=counting_mechanism(self.scenario), counting=True)

    def policy(self) -> SitePolicy:
        """Return what the site allows now; without a home, what the scenario needs."""
        if self._held:
            return self._held[0].policy
        return self.home.policy() if self.home else self._needed

    @cached_property
    def _needed(self) -> SitePolicy:
        return for_scenario(self.scenario, self.site)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep the ledger open for a round, once it is asked for, where nobody else can want it.

        Elsewhere each of `admit`, `reserve` and `release` opens it by itself, and site.toml is read
        for each: a site may train for hours, and another run at it must be able to spend meanwhile.
        Raises PolicyError.
        """
        if self.lasting or self.unit == "none" or self.home is None:
            yield
            return
        with ExitStack() as closing:
            self._held.append(_Held(self.home.policy(), closing))
            try:
                yield
            finally:
                self._held.clear()

    def admit(self, instruction: Instruction) -> None:
        """Find out, before anybody trains, whether the site takes part in this round.

        Raises Decline: the instruction is another site's, the policy does not allow the unit, or
        the ledger is not the one that the server has seen.
        """
        if instruction.site != site_id(self.site):
            raise Decline(Code.BAD_INSTRUCTION, "the instruction is for another site")
        if not self.policy().allows(self.unit):
            raise Decline(Code.POLICY, f"site.toml: budget.units does not hold {self.unit!r}")
        if self.counting:
            self._admit_counting(instruction)
        if self.unit != "none":
            with self._budget(instruction):
                pass

    def _admit_counting(self, instruction: Instruction) -> None:
        """Check that counts were planned, are asked for after the last round, and may leave."""
        planned = self.scenario.inference.calibration > 0
        if not planned or instruction.round != self.scenario.federation.rounds + 1:
            raise Decline(Code.BAD_INSTRUCTION, "counts are asked for that the plan does not have")
        policy, spends = self.policy(), self.scenario.privacy.epsilon
        if "counts" not in policy.metrics:
            raise Decline(Code.POLICY, "site.toml: egress.metrics does not hold 'counts'")
        # The ledger holds one plan against this ceiling, and a run with counts has two.
        together = spends + self.scenario.inference.epsilon
        if self.unit != "none" and 0 < policy.per_run < together:
            raise Decline(
                Code.BUDGET,
                f"site.toml: budget.per_run, {policy.per_run:g}, is below what training and counts "
                f"come to, {together:g}",
            )

    def reserve(
        self, instruction: Instruction, group: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        """Write down the steps of this round, durably, before the first of them is taken.

        group: names and keys of those who share the noise, where it is shared. A crash in between
        costs the site a round of its budget, never an unrecorded release.

        Raises Decline when the budget does not let it.
        """
        if self.unit == "none" or self.home is None or self.mechanism is None:
            return
        run, asked = self._run(instruction), self.scenario.privacy.epsilon
        steps = round_steps(self.scenario)
        if self.counting:
            steps, asked = 1, self.scenario.inference.epsilon
        commitment, policy = self.commitment(), self.policy()
        with self._budget(instruction) as (budget, _):
            if self.counting and "counts" not in budget.enforce(policy).metrics:
                raise Decline(
                    Code.POLICY,
                    "the ledger began when egress.metrics did not hold 'counts'; the data owner "
                    "must sign that it does now (`fedlite site grant`)",
                )
            budget.begin(
                run,
                self.mechanism,
                policy,
                asked_epsilon=asked,
                delta=self.scenario.privacy.delta,
                dataset=self.home.dataset,
                commitment=commitment,
                code=code_digest(self.app),
                round_steps=steps,
                group=group,
            )
            budget.reserve(run, instruction.round, steps, instruction.model.hex())

    def release(self, instruction: Instruction, frame: bytes) -> LedgerHead | None:
        """Write down, durably, that the frame leaves, and return the head that travels with it.

        The same one again costs nothing. None where nothing is spent.

        Raises Decline when the budget does not let it, or other counts were told in this run,
        LedgerError when it was not reserved.
        """
        if self.unit == "none":
            if self.counting and self.home is not None:
                self._once(self.home.told(instruction.run.hex()), frame)
            return None
        with self._budget(instruction) as (budget, ledger):
            budget.release(self._run(instruction), instruction.round, frame)
            return _head(ledger.rows, ledger.key, named=instruction.receipt is None)

    def _once(self, path: Path, frame: bytes) -> None:
        """Keep the digest of counts, durably, or hold them against the one that is kept.

        Each model that is counted tells more of the records. A ledger holds private counts to one
        release; of others only this file knows, which approved code can neither write nor remove.

        Raises Decline when other counts were told in this run.
        """
        digest = hashlib.sha256(frame).hexdigest().encode()
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, digest)
        elif path.read_bytes() != digest:
            raise Decline(Code.BAD_INSTRUCTION, f"{path}: other counts were told in this run")

    def head(self) -> tuple[LedgerHead | None, tuple[str, ...]]:
        """Return the ledger's head, if there is one, and the rows by which it changed its key."""
        if self.unit == "none" or self.home is None or not self.home.ledger.exists():
            return None, ()
        if self.lasting:
            with self._opened(self.home) as ledger:
                rows, key = list(ledger.rows), ledger.key
        else:
            # A worker that outlived its killed parent may hold it for the rest of a round.
            rows, key = read(self.home.ledger), keys.public_hex(self.home.key())
        rotations = (row for row in rows if row.kind == "key-rotate")
        return _head(rows, key, named=True), tuple(r.line.decode().rstrip() for r in rotations)

    def send(self, outgoing: Hello | Reply | Note, message: wire.Message) -> wire.Message:
        """Return the reply that carries `outgoing`; raises egress.NotAllowed."""
        return egress.send(outgoing, message, self.policy(), self.unit)

    def _run(self, instruction: Instruction) -> str:
        """Return the name under which the ledger keeps what is asked for, 16 hex digits."""
        return counting.run_of(instruction.run) if self.counting else instruction.run.hex()

    @contextmanager
    def _budget(self, instruction: Instruction) -> Iterator[tuple[Budget, Ledger]]:
        """Open the budget, and check what the server has seen of it."""
        if self.home is None or self.mechanism is None:
            raise Decline(Code.CONFIG, "privacy is claimed, and the site has no ledger")
        try:
            if self._held:
                held, receipt = self._held[0], instruction.receipt
                if held.opened is None:
                    ledger = held.closing.enter_context(self._opened(self.home))
                    held.opened = Budget(ledger, siblings=(self.home.ledgers,)), ledger
                if receipt is not None and receipt != held.receipt:
                    held.opened[0].witness(receipt)
                    held.receipt = receipt
                yield held.opened
                return
            with self._opened(self.home) as ledger:
                budget = Budget(ledger, siblings=(self.home.ledgers,))
                if instruction.receipt is not None:
                    budget.witness(instruction.receipt)
                yield budget, ledger
        except Refused as refused:
            raise Decline(_CODES.get(refused.why, Code.BUDGET), str(refused)) from None

    @contextmanager
    def _opened(self, home: Home) -> Iterator[Ledger]:
        """Open the ledger, held against what this machine remembers of it."""
        with Ledger.open(home.ledger, home.key(), wait=_LEDGER_WAIT, files=self.files) as ledger:
            if self.register is None:
                yield ledger
                return
            with _declined():
                self.register.check(home, ledger.rows)
                # What could not be remembered before must be, before more is spent.
                if ledger.exists:
                    self.register.note(home, ledger.head)
            try:
                yield ledger
            finally:
                if ledger.exists:
                    with _declined():
                        self.register.note(home, ledger.head)


def deployed(
    scenario: Scenario,
    home: Path,
    run: str,
    app: Path | None = None,
    policy: SitePolicy | None = None,
) -> Guardian:
    """Return the guardian of a run at the site whose folder is `home`.

    run: its 16 hex digits. policy: what its site.toml says; read when it is not given. The records
    are those that its `[data.NAME]` names, NAME being the scenario's data.name. Raises Decline when
    there is no such table, or it declares less than the plan needs, or there is no register,
    ValueError when no noise keeps the plan's epsilon, and ScenarioError when the plan leaves open
    what a site must not find out by itself.
    """
    if not _RUN.fullmatch(run):
        raise ScenarioError(f"run.id: must be 16 lower-case hex digits, got {run!r:.40}")
    policy = policy or site_policy.load(home / "site.toml")
    if why := own.refused(scenario):
        raise ScenarioError("\n".join(why))
    if scenario.statistics.bins and run != question_run(scenario):
        raise Decline(
            Code.BAD_INSTRUCTION,
            "asked-again: a question is asked in one run, whose name follows from it, and this is "
            "another",
        )
    if own_code(scenario) and not policy.limits.sandbox:
        raise Decline(
            Code.POLICY, "site.toml: limits.sandbox is false, and the plan brings code of its own"
        )
    if scenario.privacy.unit == "record" and not scenario.privacy.expected_batch:
        raise ScenarioError(
            "privacy.expected_batch: must be settled by the coordinator, the same number for all "
            "sites, got 0; submit with `fedlite server submit`"
        )
    chosen = policy.data_set(scenario.data.name)
    if chosen is None:
        raise Decline(
            Code.POLICY,
            f"site.toml: has no [data.{scenario.data.name}], so nothing here answers this scenario",
        )
    if beyond := beyond_declared(policy, scenario):
        raise Decline(Code.POLICY, "site.toml: " + "; ".join(beyond))
    place = Home(home, policy.site, scenario.data.name)
    if scenario.shared and (beyond := beyond_trust(policy, scenario, keys.public_hex(place.key()))):
        raise Decline(Code.POLICY, "site.toml: " + "; ".join(beyond))
    mechanism = plan_mechanism(scenario) if scenario.private else None
    here = DataSet(**{**vars(chosen), "path": str(chosen.file(home)) if chosen.path else ""})

    kept: dict[object, str] = {}
    with _declined():
        register = Register.own()

    def commitment() -> str:
        seen = stamp(Path(here.path)) if here.path else None
        if seen not in kept:
            with _declined():
                register.claim(place, here, policy.owner)
            _, data = records.own_records(scenario, here, home, policy.site)
            train = records.counted(data, scenario, chosen.records_at_most)
            kept.clear()
            kept[seen] = place.commitment(train)
        return kept[seen]

    return Guardian(policy.site, scenario, mechanism, place, commitment, app, register)


@contextmanager
def _declined() -> Iterator[None]:
    """Take no part in a round against which the register speaks."""
    try:
        yield
    except Kept as error:
        raise Decline(Code.LEDGER, str(error)) from None


def _head(rows: Sequence[Row], key: str, *, named: bool) -> LedgerHead:
    last = rows[-1]
    names = (bytes.fromhex(rows[0].hash), bytes.fromhex(key)) if named else (b"", b"")
    return LedgerHead(last.seq, bytes.fromhex(last.hash), bytes.fromhex(last.signature), *names)
