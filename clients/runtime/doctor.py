"""Is this site fit to train? One line for each check, with the mend for what is not."""

from __future__ import annotations

import os
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from clients.runtime import closed, seats, setup
from clients.runtime.reach import reach
from fedlite import __version__
from fedlite.data import bases
from fedlite.deployment import sandbox
from fedlite.deployment.invitation import Invitation
from fedlite.deployment.protocol import Release
from fedlite.guard import policy as site_policy
from fedlite.guard.folder import Home
from fedlite.guard.policy import DataSet, SitePolicy
from fedlite.guard.register import Kept, Register
from fedlite.identity import keys, nodekey
from fedlite.privacy.ledger import read
from fedlite.privacy.ranges import shares_noise

OK, WARNING, FAIL = "ok", "warning", "fail"
_FREE_BYTES = 10**9
# Flower refuses a node whose clock is further off.
_SKEW_WARN, _SKEW_FAIL = 60.0, 300.0
_EXPIRES_DAYS = 30
# The first version of Landlock that sees a file being cut short.
_LANDLOCK_GOOD = 3


@dataclass(frozen=True)
class Check:
    """One thing that was looked at. `state`: "ok", "warning" or "fail"; `mend`: "" when ok."""

    name: str
    state: str
    what: str
    mend: str = ""


def examine(home: Path) -> Iterator[Check]:
    """Look at everything, in the order in which it is mended; never changes anything."""
    yield from _versions()
    yield from _permissions(home)
    yield from _guarded("keys", lambda: _keys(home))
    for seat in seats.every(home) or [home]:
        yield from _guarded("node key", lambda seat=seat: _node_key(home, seat))  # type: ignore[misc]
    policy: SitePolicy | None = None
    try:
        policy = site_policy.load(home / setup.POLICY)
        yield Check("site.toml", OK, f"site {policy.site!r}")
    except ValueError as error:
        yield Check("site.toml", FAIL, str(error), "correct these lines")
    if policy is not None:
        yield from _data(home, policy)
    yield _disk(home)
    yield from _guarded("register", _register)
    yield from _ledgers(home)
    if policy is not None:
        if (home / setup.SECRET).exists():  # without it there is no telling whose they are
            yield from _guarded("budget", lambda: _budgets(home, policy))
        yield from _trust(policy)
        yield from _sandbox(home, policy)
        yield from _device(policy)
        yield from _bases(policy)
    for seat in seats.every(home) or [home]:
        yield from _guarded("coordinator", lambda seat=seat: _coordinator(home, seat, policy))  # type: ignore[misc]


def _guarded(name: str, checks: Callable[[], Iterator[Check]]) -> Iterator[Check]:
    """Pass on the checks; an error that tells its own mend becomes the last of them."""
    try:
        yield from checks()
    except (ValueError, OSError) as error:
        yield Check(name, FAIL, str(error), "see the text")


def _versions() -> Iterator[Check]:
    here = ".".join(map(str, sys.version_info[:3]))
    good = sys.version_info >= (3, 11)
    yield Check(
        "python", OK if good else FAIL, here, "" if good else "install Python 3.11 or later"
    )
    try:
        flower = version("flwr")
    except PackageNotFoundError:
        flower = "missing"
    good = flower.startswith("1.41.")
    yield Check(
        "flwr", OK if good else FAIL, flower, "" if good else "pip install 'flwr>=1.41,<1.42'"
    )
    yield Check("fedlite", OK, __version__)


def _permissions(home: Path) -> Iterator[Check]:
    for path in (home, home / "keys"):
        name = f"permissions of {path}"
        try:
            found = path.stat()
        except OSError as error:
            yield Check(
                name, FAIL, error.strerror or str(error), f"run `fedlite site init {home}` again"
            )
            continue
        mode = stat.S_IMODE(found.st_mode)
        if found.st_uid != os.geteuid():
            mend = "run fedlite as the user that owns the folder"
            yield Check(name, FAIL, f"belongs to user {found.st_uid}", mend)
        elif mode & 0o077:
            mend = f"chmod 700 {path}"
            yield Check(name, FAIL, f"mode {mode:04o}: others can enter", mend)
        else:
            yield Check(name, OK, f"mode {mode:04o}")


def _register() -> Iterator[Check]:
    register = Register.own()
    what, _, mend = register.problem().partition("; ")
    yield Check("register", FAIL if what else OK, what or str(register.folder), mend)


def _keys(home: Path) -> Iterator[Check]:
    yield Check("ledger key", OK, keys.public_hex(keys.load(home / setup.LEDGER)))
    if not (home / setup.SECRET).exists():
        mend = f"run `fedlite site init {home} --name NAME` again"
        yield Check("data secret", FAIL, f"{home / setup.SECRET} is missing", mend)
    else:
        keys.secret(home / setup.SECRET)
        yield Check("data secret", OK, "there")


def _node_key(home: Path, seat: Path) -> Iterator[Check]:
    node = nodekey.public(nodekey.load(seat / setup.NODE))
    yield Check("node key", OK, nodekey.fingerprint(node))
    if (seat / setup.NEXT).exists():
        mend = f"when the coordinator has approved it: fedlite site rotate-key {home} --finish"
        yield Check("next node key", WARNING, "a change of key is under way", mend)


def _data(home: Path, policy: SitePolicy) -> Iterator[Check]:
    if not policy.data:
        mend = f"add a table [data.NAME] to {home / setup.POLICY}"
        yield Check("data", FAIL, "no data set, so no run can train here", mend)
    for one in policy.data:
        yield from _guarded(f"data {one.name}", lambda one=one: _load(home, one))  # type: ignore[misc]


def _load(home: Path, one: DataSet) -> Iterator[Check]:
    from clients.runtime.parts import may_be, survey
    from fedlite import data

    name = f"data {one.name}"
    entry = data.find(one.source)
    if entry.own or entry.survey is not None:
        records, classes, parts = survey(one, str(one.file(home)))
    else:
        source = data.load(one.source)
        records, classes, parts = len(source.train), source.classes, source.group_names
    if not may_be(one.part, parts):
        known = ", ".join(parts) or "none"
        mend = f"correct part in [data.{one.name}]"
        yield Check(name, FAIL, f"has no part {one.part!r}; there are: {known}", mend)
        return
    if 0 < one.records_at_most < records:
        mend = "raise it to a bound that holds, or train on fewer records"
        yield Check(name, FAIL, f"has more than records_at_most = {one.records_at_most}", mend)
        return
    # How many records there are is nobody's business, not even on a screen that is shared.
    what = f"{classes} classes" if classes else "without labels"
    yield Check(name, OK, f"{one.source} loads, {what}")


def _disk(home: Path) -> Check:
    try:
        free = shutil.disk_usage(home).free
    except OSError as error:
        return Check("disk", FAIL, error.strerror or str(error), "check the path")
    text = f"{free / 1e9:.1f} GB free"
    if free < _FREE_BYTES:
        return Check("disk", WARNING, text, f"free at least {_FREE_BYTES / 1e9:g} GB")
    return Check("disk", OK, text)


def _ledgers(home: Path) -> Iterator[Check]:
    for path in sorted((home / "ledgers").glob("*.jsonl")):
        name = f"ledger {path.stem}"
        try:
            rows = read(path)
            yield Check(name, OK, f"{len(rows)} rows verify")
        except (ValueError, OSError, RuntimeError) as error:
            mend = f"fedlite site recover {home} {path.stem}, or restore it from a copy"
            yield Check(name, FAIL, str(error), mend)


def _budgets(home: Path, policy: SitePolicy) -> Iterator[Check]:
    """Say beforehand what the register will say when a private run begins."""
    register = Register.own()
    for one in policy.data:
        place = Home(home, policy.site, one.name)
        try:
            register.check(place, read(place.ledger) if place.ledger.exists() else ())
            register.check_claims(place, one)
            yield Check(f"budget {one.name}", OK, "nothing that was spent is missing here")
        except Kept as error:
            what, _, mend = str(error).partition("; ")
            yield Check(f"budget {one.name}", FAIL, what, mend)
        except (ValueError, OSError):
            continue  # the checks of ledger, keys and data say what


def _trust(policy: SitePolicy) -> Iterator[Check]:
    """Say what may rest on other sites, where anything may."""
    if not (units := [unit for unit in policy.units if shares_noise(unit)]):
        return
    most = f"epsilon up to {policy.collusion:g} may be spent if all others collude"
    if policy.honest:
        who = f"{policy.honest} others are trusted to be honest where noise is shared"
        yield Check("trust", OK, f"{who}, and {most}")
        return
    mend = f"set honest in [budget] to how many you trust, or take {units[0]} out of units"
    what = f"budget.units holds {units[0]}, and budget.honest trusts nobody"
    yield Check("trust", WARNING, what, mend)


def _sandbox(home: Path, policy: SitePolicy) -> Iterator[Check]:
    if not policy.limits.sandbox:
        mend = "set sandbox = true in [limits]"
        if sandbox.problem():
            mend = "use a kernel that has Landlock and seccomp, and " + mend
        what = "turned off: approved code does whatever this user can"
        yield Check("sandbox", WARNING, what, mend)
        return
    if why := sandbox.problem():
        what, _, mend = why.removeprefix("sandbox: ").partition("; nothing of a bundle is run; ")
        yield Check("sandbox", FAIL, what, mend)
        return
    version = sandbox.available()
    what = f"approved code runs under Landlock {version} and an allow list of system calls"
    if lacks := sandbox.lacks(version):
        what += f"; that Landlock does not see {', '.join(lacks)}, which the list alone closes"
    old = version < _LANDLOCK_GOOD
    mend = "a newer kernel (Linux 6.2 or later) has a second lock there" if old else ""
    yield Check("sandbox", WARNING if old else OK, what, mend)
    if why := closed.problem(home, policy.data):
        what, _, mend = why.rpartition("; ")
        yield Check("closed to approved code", FAIL, what, mend)
    else:
        yield Check("closed to approved code", OK, "keys, ledgers and data")


def _device(policy: SitePolicy) -> Iterator[Check]:
    """Say what trains: a bundle may ask for less than [limits] lets it, and for no more."""
    asked = policy.limits.device
    if asked == "cpu":
        yield Check("device", OK, "the CPU alone, as [limits] says")
        return
    import torch

    if torch.cuda.is_available():
        yield Check("device", OK, f"{torch.cuda.get_device_name()}, where a plan takes it")
    elif asked == "auto":
        yield Check("device", OK, "the CPU: torch sees no GPU")
    else:
        mend = 'install the driver and a CUDA build of torch, or set device = "auto" in [limits]'
        yield Check("device", FAIL, "torch sees no GPU", mend)


def _bases(policy: SitePolicy) -> Iterator[Check]:
    """Look whether the base models are here whose tokens approved bundles read."""
    wanted = {
        (str(one.settings.get("data.tokenizer", "")), str(one.settings.get("data.base_sha256", "")))
        for one in policy.bundles
    }
    for name, pin in sorted(wanted - {("", "")}):
        try:
            if pin:
                bases.check_pin(name, pin)
            else:
                bases.find(name, "data.tokenizer").folder()
        except (ValueError, OSError) as error:
            what, _, mend = str(error).partition("; ")
            yield Check(f"base {name}", FAIL, what, mend or "see the text")
        else:
            yield Check(f"base {name}", OK, "its files are what they must be")


def _coordinator(home: Path, seat: Path, policy: SitePolicy | None) -> Iterator[Check]:
    if not (seat / seats.COORDINATOR).exists():
        mend = f"fedlite site join {home} INVITATION"
        yield Check("coordinator", WARNING, "none joined yet", mend)
        return
    invitation = seats.joined(seat)
    yield from _joined(home, seat, policy, invitation)
    found = reach(invitation.host, invitation.port, seat / setup.CA)
    if found.failed:
        what, _, mend = found.why.partition("; ")
        yield Check("connection", FAIL, f"{invitation.address}: {what}", mend)
        return
    yield Check("connection", OK, f"{invitation.address} answers, TLS is good")
    yield _release(found.release)
    yield from _clocks(found.skew, found.expires)
    yield from _activation(seat)


def _joined(
    home: Path, seat: Path, policy: SitePolicy | None, invitation: Invitation
) -> Iterator[Check]:
    yield Check("coordinator", OK, f"{invitation.name!r} at {invitation.address}")
    if (seat / setup.CA).read_bytes() != invitation.ca_pem.encode("ascii"):
        mend = f"run `fedlite site join {home} INVITATION` again"
        yield Check("ca.crt", FAIL, f"is not that of {seats.COORDINATOR}", mend)
    if policy is not None and policy.servers and invitation.witness not in policy.servers:
        mend = f"add {invitation.witness} to keys in [servers] of {home / setup.POLICY}"
        yield Check("witness key", FAIL, "site.toml does not list the coordinator's", mend)


def _release(found: Release | None) -> Check:
    """Compare with what the coordinator runs now; the invitation only knows what it ran once."""
    if found is None:
        return Check("releases", OK, f"fedlite {__version__} here; the coordinator does not tell")
    if found.problem:
        what, _, mend = found.problem.partition("; ")
        return Check("releases", FAIL, what, mend)
    return Check("releases", OK, f"fedlite {found.version} there, {__version__} here")


def _clocks(skew: float | None, expires: datetime | None) -> Iterator[Check]:
    if expires is not None:
        days = (expires - datetime.now(UTC)).days
        text = f"the gateway's certificate ends on {expires:%Y-%m-%d}"
        mend = "" if days >= _EXPIRES_DAYS else "ask the coordinator's operator to renew it"
        yield Check("certificate", WARNING if mend else OK, text, mend)
    if skew is None:
        mend = "check by hand that this machine keeps its time by NTP"
        yield Check("clock", WARNING, "the gateway does not tell the time", mend)
        return
    text = f"{abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} the gateway's"
    state = FAIL if abs(skew) > _SKEW_FAIL else WARNING if abs(skew) > _SKEW_WARN else OK
    yield Check("clock", state, text, "" if state == OK else "set the clock: timedatectl set-ntp 1")


def _activation(seat: Path) -> Iterator[Check]:
    """Ask whether the coordinator knows the node key."""
    from clients.runtime import fleet

    try:
        fleet.check_activation(seat)
        yield Check("node key accepted", OK, "the coordinator knows this site")
    except (OSError, ValueError, RuntimeError) as error:
        mend = f"send {seat / setup.REQUEST} to the coordinator's operator"
        yield Check("node key accepted", FAIL, str(error), mend)
