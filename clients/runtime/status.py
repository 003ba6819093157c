"""What a site is doing, and what it has spent: read from its folder alone, at any time.

The process that runs writes its part into one file. Nothing is locked and nobody is asked, so the
command answers also while a round is trained.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import fedlite
from clients.runtime import released, seats, setup
from fedlite.deployment.protocol import Release
from fedlite.guard import policy as site_policy
from fedlite.guard.folder import Home
from fedlite.guard.policy import SitePolicy
from fedlite.guard.register import Kept, Register
from fedlite.privacy.budget import Account
from fedlite.privacy.budget.ceilings import colluded
from fedlite.privacy.budget.policy import Policy
from fedlite.privacy.ledger import LedgerError, read
from fedlite.storage import stamp, write_atomic

log = logging.getLogger("fedlite.site")

STATUS = "status.json"
# What the process says of itself.
STATES = ("starting", "connected", "unreachable", "refused", "stopped")
_SHOWN = (
    "state",
    "since",
    "release",
    "coordinator",
    "coordinator_release",
    "run",
    "round",
    "bytes_up",
    "bytes_down",
)
_COLUMNS = ("time", "round", "seconds", "bytes_up", "bytes_down", "outcome")
_KEPT_ROUNDS = 20


@dataclass(frozen=True)
class Answered:
    """A message that the site has answered: in seconds, and in bytes as Flower packs them.

    run, scenario: run.id and federation.name. outcome: `sent`, or the code that was sent instead.
    """

    run: str
    scenario: str
    round: str
    seconds: float
    bytes_up: int
    bytes_down: int
    outcome: str


class StatusFile:
    """What the running site writes about itself. state: the last that was told.

    coordinator: its address. say: told of every new state.
    """

    def __init__(self, home: Path, coordinator: str, say: Callable[[str], None]) -> None:
        """Begin as `starting`; nothing is written yet."""
        self.state, self._since = "starting", _now()
        # What the coordinator runs, where it tells.
        self.coordinator_release: Release | None = None
        self._path, self._coordinator, self._say = home / STATUS, coordinator, say
        self._rounds: deque[dict[str, Any]] = deque(maxlen=_KEPT_ROUNDS)
        self._up = self._down = 0
        self._answers: Counter[str] = Counter()

    def tell(self, state: str, text: str = "") -> None:
        """Write the state; say why when it is another than before."""
        if state != self.state:
            self.state, self._since = state, _now()
            if text:
                self._say(text)
        self._write()

    def count(self, answered: Answered) -> None:
        """Write that a message was answered now."""
        self._up += answered.bytes_up
        self._down += answered.bytes_down
        self._answers[answered.outcome] += 1
        self._rounds.append({"time": _now(), **asdict(answered)})
        self._write()

    def _write(self) -> None:
        last = self._rounds[-1] if self._rounds else {}
        told = {
            "pid": os.getpid(),
            "state": self.state,
            "since": self._since,
            "coordinator": self._coordinator,
            "release": fedlite.__version__,
            "coordinator_release": there.version if (there := self.coordinator_release) else "",
            "run": last.get("run", ""),
            "round": last.get("round", ""),
            "rounds": list(self._rounds),
            "bytes_up": self._up,
            "bytes_down": self._down,
            "answers": dict(self._answers),
        }
        try:
            write_atomic(self._path, json.dumps(told, indent=1).encode())
        except OSError as error:
            # The status is for people; a full disk must not end the process that reports it.
            log.error("%s: %s", STATUS, error)


def status(home: Path) -> dict[str, Any]:
    """Return everything as one object for JSON; what is not of one coordinator's is of the first.

    coordinators: a row for each that the site has joined.

    running: whether the process that wrote the status lives. budget: for each data set with a
    ledger the epsilon charged, the ceiling that counts, or `error` where it does not verify.
    Raises ValueError when the folder is no site's or its status cannot be read.
    """
    policy = site_policy.load(home / setup.POLICY)
    joined = [_seat(home, seat) for seat in seats.every(home)]
    first = joined[0] if joined else _row(home)
    waiting = (home / "bundles" / "waiting").glob("*.fab")
    return {
        "site": policy.site,
        **first,
        "coordinators": joined,
        "budget": _budgets(home, policy),
        "bundles": {
            "approved": {one.sha256: one.name for one in policy.bundles},
            "waiting": sorted(path.stem for path in waiting),
        },
        "releases": released.known(home),
        "joined": bool(joined),
    }


def _seat(home: Path, seat: Path) -> dict[str, Any]:
    """Return what the site's process for one coordinator has told of itself."""
    place = seats.place(home, seat)
    try:
        invitation = seats.joined(seat)
        told = {"name": invitation.name, "address": invitation.address}
    except (ValueError, OSError):  # the others must be seen all the same
        told = {"name": f"{seats.COORDINATOR} in {place} is damaged", "address": ""}
    return {**told, "seat": place, **_row(seat)}


def _row(seat: Path) -> dict[str, Any]:
    told = _told(seat / STATUS)
    running = _alive(told.get("pid"))
    return {
        "running": running,
        "pid": told.get("pid") if running else None,
        **{name: told.get(name) for name in _SHOWN},
        "answers": _answers(told.get("answers")),
        "rounds": [row for row in told.get("rounds", []) if isinstance(row, dict)],
    }


def current(seat: Path) -> str:
    """Return the run that the process of `seat` answered last; "" when none lives."""
    told = _told(seat / STATUS)
    return str(told.get("run") or "") if _alive(told.get("pid")) else ""


def print_status(home: Path, found: dict[str, Any]) -> None:
    """Print it for people."""
    from rich.table import Table

    from fedlite.reporting import terminal

    console = terminal.console()

    def say(text: str) -> None:
        console.print(text, markup=False, soft_wrap=True)

    for one in found["coordinators"] or [found]:
        of = f" for {one['name']}" if len(found["coordinators"]) > 1 else ""
        say(f"{found['site']}{of}: {_state(one)}")
    if not found["joined"]:
        say(f"no coordinator joined yet: fedlite site join {home} INVITATION")
    for one in found["budget"]:
        if "error" in one:
            say(f"{one['dataset']}: {one['error']}")
            continue
        say(
            f"{one['dataset']}: epsilon {one['spent']:.3g} of {one['ceiling']:g} spent, at delta "
            f"{one['delta']:g}, in {one['plans']} run{'s' * (one['plans'] != 1)}"
        )
        if "alone" in one:
            say(
                f"{one['dataset']}: epsilon {one['alone']:.3g} of {one['collusion']:g} if all "
                f"others collude with the server; {one['honest']} are trusted to be honest"
            )
    rounds = [row for one in found["coordinators"] or [found] for row in one["rounds"]]
    rounds = sorted(rounds, key=lambda row: str(row.get("time")))[-_KEPT_ROUNDS:]
    # A table for each run: beside its id the other columns would not fit 80 columns.
    runs = dict.fromkeys(row.get("run", "") for row in rounds)
    for run in runs:
        say(f"run {run}")
        table = Table(box=None, header_style="bold", pad_edge=False)
        for column in _COLUMNS:
            right = column in ("round", "seconds", "bytes_up", "bytes_down")
            table.add_column(
                column.replace("bytes_", "bytes "), justify="right" if right else "left"
            )
        for row in rounds:
            if row.get("run", "") == run:
                table.add_row(*(_cell(row.get(column)) for column in _COLUMNS))
        terminal.print_whole(table)
    if rounds:
        up, down = (
            sum(one[name] or 0 for one in found["coordinators"] or [found])
            for name in ("bytes_up", "bytes_down")
        )
        say(
            f"sent {up:,} bytes, received {down:,} since the start: messages as Flower packs them, "
            "hellos and refusals too, without TLS; what is fedlite's of an update is in "
            f"`fedlite site record {home}`"
        )
    bundles = found["bundles"]
    say(f"bundles: {len(bundles['approved'])} approved, {len(bundles['waiting'])} waiting")
    for name in bundles["waiting"]:
        say(f"  {name}")
    if bundles["waiting"]:
        say(f"see and decide: fedlite site approve {home}")
    for one in found["releases"]:
        which = one.get("sha256", "")[:12] or one.get("problem", "")
        say(f"released {which}: {one.get('state', 'in use')}: fedlite site released {home}")


def _state(found: dict[str, Any]) -> str:
    if not found["running"]:
        return "not running"
    text = f"{found['state']} since {found['since']}, coordinator {found['coordinator']}"
    if found["coordinator_release"]:
        text += f", fedlite {found['release']} here and {found['coordinator_release']} there"
    return text


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.2f}"
    return f"{value:,}" if isinstance(value, int) else str(value if value is not None else "")


def _told(path: Path) -> dict[str, Any]:
    """Return what the runtime wrote last; nothing when it never ran."""
    try:
        told = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        told = error
    if not isinstance(told, dict) or not isinstance(told.get("rounds", []), list):
        raise ValueError(
            f"{path}: must be a JSON object, as the site writes it; remove it, and the running "
            "site writes it anew"
        )
    return told


def _answers(told: Any) -> dict[str, int]:
    """Return how often each outcome was sent since the process started."""
    counts = told if isinstance(told, dict) else {}
    return {name: count for name, count in counts.items() if type(count) is int}


def _alive(pid: Any) -> bool:
    if type(pid) is not int or pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@lru_cache(maxsize=64)
def _account(path: Path, stamped: tuple[int, int, int] | None) -> Account:
    """Return what a ledger says; read once for each of its stamps, as a scrape asks often."""
    return Account.of(read(path))


def _budgets(home: Path, policy: SitePolicy) -> list[dict[str, Any]]:
    """Return a row for each ledger, and for each that was here and is not any more."""
    found = {path.stem for path in (home / "ledgers").glob("*.jsonl")}
    names = sorted(found | {one.name for one in policy.data})
    rows = []
    for name in names:
        place = Home(home, policy.site, name)
        row = _budget(place.ledger, policy) if name in found else {}
        if "error" not in row and (why := _missing(place)):
            row = {"dataset": name, "error": why}
        if row:
            rows.append(row)
    return rows


def _missing(place: Home) -> str:
    """Return what this machine remembers of a ledger and does not find in it."""
    if not (place.path / setup.SECRET).exists():
        return ""
    try:
        Register.own().check(place, read(place.ledger) if place.ledger.exists() else ())
    except Kept as error:
        return str(error)
    return ""


def _budget(path: Path, policy: SitePolicy) -> dict[str, Any]:
    try:
        account = _account(path, stamp(path))
    except (LedgerError, OSError) as error:
        return {"dataset": path.stem, "error": str(error)}
    in_force = account.policy.meet(site_policy.for_data(policy, path.stem))
    return {
        "dataset": path.stem,
        # What a plan was charged is the cost of all plans up to it.
        "spent": account.plans[-1].charged if account.plans else 0.0,
        "ceiling": in_force.epsilon,
        "delta": account.policy.delta,
        "plans": len(account.plans),
        **trust(account, in_force),
    }


def trust(account: Account, in_force: Policy) -> dict[str, Any]:
    """Return what rests on others: spent if they all collude, that ceiling, how many are trusted.

    Nothing where no plan counts on their noise.
    """
    if not any(plan.shared for plan in account.plans):
        return {}
    last = account.plans[-1]
    # A plan of local noise does not say it.
    alone = last.alone if last.shared else colluded(account.plans, account.opened[-1])
    return {"alone": alone, "collusion": in_force.collusion, "honest": in_force.honest}


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
