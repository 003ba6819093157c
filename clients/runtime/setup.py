"""Making a site, joining a coordinator, and changing the key by which it knows the site.

Every step can be repeated: what is there stays, what is missing is made, no key is replaced.
"""

from __future__ import annotations

import os
import pwd
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography import x509

import fedlite
from clients.runtime import closed, seats
from clients.runtime.proxy import find
from clients.runtime.reach import resolves
from clients.runtime.seats import COORDINATOR, joined
from fedlite.deployment import document, systemd as unit
from fedlite.deployment.container import SITE
from fedlite.deployment.invitation import Invitation
from fedlite.deployment.journal import Journal
from fedlite.deployment.protocol import spoken
from fedlite.deployment.request import Request
from fedlite.guard import policy as site_policy, policy_file
from fedlite.guard.policy import DataSet, SitePolicy
from fedlite.guard.register import BELOW_STATE, Register
from fedlite.identity import keys, nodekey
from fedlite.identity.names import site_problem
from fedlite.storage import write_atomic

FOLDERS = ("keys", "ledgers", "bundles", "bundles/waiting", "state", "inflight", "audit")
POLICY, CA, REQUEST = "site.toml", "ca.crt", "request.json"
UNIT = "fedlite-site.service"
SEAT = ("keys", "state", "inflight", "logs")
_ASK = "the coordinator's operator sends it to you"
NODE, NEXT, LEDGER, SECRET = (
    f"keys/{name}" for name in ("node.pem", "node.next.pem", "ledger.pem", "data.secret")
)
# Of the unit's [Service]. Calls are named by what is forbidden, not by what is allowed: approved
# code runs under Landlock, whose calls are in no group of older systemds. No PrivateDevices: it
# would hide a GPU.
_SETTINGS = """\
RestartSec=15
Environment=FLWR_TELEMETRY_ENABLED=0 FLWR_DISABLE_UPDATE_CHECK=1
Environment=FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION=1 PYTHONDONTWRITEBYTECODE=1
# Where only a proxy leads out: take the # away, and keep this file to root if there is a password.
#Environment=HTTPS_PROXY=http://USER:PASSWORD@proxy.example.org:3128 NO_PROXY=localhost
SystemCallFilter=~@clock @debug @module @mount @obsolete @raw-io @reboot @swap
"""


class Unconfirmed(ValueError):
    """Nobody has confirmed the coordinator's fingerprint."""


@dataclass(frozen=True)
class Joined:
    """What joining did: the seat that the site has, and what the operator should look at."""

    invitation: Invitation
    seat: Path
    warnings: tuple[str, ...]

    @property
    def request(self) -> Path:
        """What the coordinator's operator is to approve."""
        return self.seat / REQUEST


def init(
    home: Path, name: str, *, data: DataSet | None = None, epsilon: float | None = None
) -> dict[str, str]:
    """Make the site's folder, keys and policy, or complete them, and return the public keys.

    data: the first data set of the policy. epsilon: the ceiling of the budget. Both are for a new
    site.toml; raises ValueError when one is there that says otherwise, when the folder holds
    another site or other files, when a key is missing that was in use, and when folder or data
    would be open to approved code.
    """
    if problem := site_problem(name):
        raise ValueError(problem)
    if problem := closed.problem(home, () if data is None else (data,)):
        raise ValueError(problem)
    path = home / POLICY
    wanted = SitePolicy(site=name, data=() if data is None else (data,))
    if epsilon is not None:
        wanted = replace(wanted, epsilon=epsilon)
    fresh = not path.exists()
    if fresh:
        _refuse_other_files(home)
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        home.chmod(0o700)
        _write_policy(path, wanted)
    else:
        _refuse_other_policy(path, wanted, data, epsilon)
    for folder in FOLDERS:
        (home / folder).mkdir(mode=0o700, exist_ok=True)
        (home / folder).chmod(0o700)
    spent = any((home / "ledgers").glob("*.jsonl"))
    _refuse_lost_key(home / LEDGER, spent, "ledgers can only be continued with it")
    _refuse_lost_key(home / SECRET, spent, "the ledgers commit to the data with it")
    _refuse_lost_key(home / NODE, (home / COORDINATOR).exists(), "the coordinator knows it")
    node = nodekey.public(nodekey.load_or_generate(home / NODE))
    ledger = keys.public_hex(keys.load_or_generate(home / LEDGER))
    keys.secret(home / SECRET)
    register = Register.own()
    if problem := register.problem():
        raise ValueError(problem)
    if not (home / UNIT).exists():
        write_atomic(home / UNIT, _unit(home.resolve(), register.folder))
    if fresh:
        Journal(home / "audit").write("init", site=name, node_key=nodekey.fingerprint(node))
    return {"home": str(home), "site": name, "node_key": node, "ledger_key": ledger}


def join(
    home: Path,
    path: Path,
    *,
    fingerprint: str = "",
    confirm: Callable[[Invitation], bool] | None = None,
) -> Joined:
    """Take an invitation: keep it, trust its CA, list its witness key, and write a join request.

    fingerprint: what the coordinator's operator told by another way; without it `confirm` is
    asked. Raises Unconfirmed when neither says yes, ValueError when the invitation is wrong, or of
    a release that speaks another protocol. A site may join several coordinators: each has a seat
    of its own (`clients.runtime.seats`), and all spend from the site's one budget.
    """
    policy = site_policy.load(home / POLICY)
    invitation = document.read(path, Invitation.decode, _ASK)
    with _refusals(home, "join", invitation):
        _refuse_unusable(invitation)
        _confirm(invitation, fingerprint, confirm)
    seat = seats.known(home, invitation)
    fresh, seat = seat is None, seat or seats.free(home, invitation)
    for folder in (seat, *(seat / name for name in SEAT)):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    node = nodekey.load_or_generate(seat / NODE) if fresh else nodekey.load(seat / NODE)
    request = Request(
        site=policy.site,
        node_key=nodekey.public(node),
        ledger_key=keys.public_hex(keys.load(home / LEDGER)),
        invitation=invitation.fingerprint,
        fedlite=fedlite.__version__,
        protocol=spoken(),
    )
    signed = request.encode(node, keys.load(home / LEDGER))
    warnings = []
    if fresh and invitation.witness not in policy.servers:
        policy_file.list_server(home / POLICY, invitation.witness)
    elif policy.servers and invitation.witness not in policy.servers:
        warnings.append(
            f"{home / POLICY}: [servers] keys does not list this coordinator, {invitation.witness};"
            " the site refuses its runs until you add it"
        )
    # Behind a proxy it is the proxy that looks the name up.
    if not find(invitation.host, invitation.port) and (problem := resolves(invitation.host)):
        warnings.append(f"{invitation.address}: {problem}")
    write_atomic(seat / CA, invitation.ca_pem.encode("ascii"))
    write_atomic(seat / REQUEST, signed)
    # The last: from here on the site has joined.
    write_atomic(seat / COORDINATOR, invitation.encode())
    Journal(home / "audit").write(
        "join",
        coordinator=invitation.name,
        address=invitation.address,
        fingerprint=invitation.fingerprint,
    )
    return Joined(invitation, seat, tuple(warnings))


def rotate_key(home: Path, seat: Path | None = None) -> Path:
    """Make the next node key, and a request for it that the present key signs; return its path.

    seat: whose key it is; the site's folder is the first.

    Called again it writes the same request: the next key is made once.
    """
    seat = seat or home
    policy, invitation = site_policy.load(home / POLICY), joined(seat)
    node, ledger = nodekey.load(seat / NODE), keys.load(home / LEDGER)
    coming = nodekey.load_or_generate(seat / NEXT)
    request = Request(
        site=policy.site,
        node_key=nodekey.public(coming),
        ledger_key=keys.public_hex(ledger),
        invitation=invitation.fingerprint,
        fedlite=fedlite.__version__,
        protocol=spoken(),
        previous_node_key=nodekey.public(node),
    )
    write_atomic(seat / REQUEST, request.encode(coming, ledger, node))
    Journal(home / "audit").write(
        "rotate",
        old=nodekey.fingerprint(request.previous_node_key),
        new=nodekey.fingerprint(request.node_key),
    )
    return seat / REQUEST


def finish_rotation(home: Path, seat: Path | None = None) -> str:
    """Put the next node key in the place of the present one; return its public half.

    The coordinator must have approved it: it knows one key of a site. Raises ValueError when no
    change of key is under way.
    """
    seat = seat or home
    if not (seat / NEXT).exists():
        raise ValueError(
            f"{seat / NEXT}: no such file, so no change of key is under way; begin one with "
            f"`fedlite site rotate-key {home}`"
        )
    public = nodekey.public(nodekey.load(seat / NEXT))
    os.replace(seat / NEXT, seat / NODE)
    directory = os.open(seat / "keys", os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
    Journal(home / "audit").write("rotate-finish", new=nodekey.fingerprint(public))
    return public


def _confirm(
    invitation: Invitation, told: str, confirm: Callable[[Invitation], bool] | None
) -> None:
    if told:
        if "".join(told.split()).replace(":", "").upper() != invitation.fingerprint.replace(
            ":", ""
        ):
            raise ValueError(
                f"--fingerprint: must be that of the invitation, {invitation.fingerprint}, got "
                f"{told[:100]!r}; somebody may have changed the invitation: ask its sender"
            )
    elif confirm is None:
        raise Unconfirmed(
            "--fingerprint: must be given where nobody can be asked; the coordinator's operator "
            "tells it by telephone, for example"
        )
    elif not confirm(invitation):
        raise Unconfirmed("the fingerprint was not confirmed; nothing was changed")


def _refuse_unusable(invitation: Invitation) -> None:
    if problem := invitation.release.problem:
        raise ValueError(problem)
    certificate = x509.load_pem_x509_certificate(invitation.ca_pem.encode("ascii"))
    now = datetime.now(UTC)
    if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
        raise ValueError(
            f"ca_pem: is valid from {certificate.not_valid_before_utc:%Y-%m-%d} to "
            f"{certificate.not_valid_after_utc:%Y-%m-%d}, and today is {now:%Y-%m-%d}; set this "
            "machine's clock, or ask for a new invitation"
        )


def _refuse_other_files(home: Path) -> None:
    # What a crash left of the first write is no other file.
    strange = [
        path.name
        for path in (home.iterdir() if home.exists() else ())
        if not path.name.startswith(f".{POLICY}.")
    ]
    if strange:
        raise ValueError(
            f"{home}: is no site's folder and holds other files, such as {strange[0]!r}; name a "
            "new folder"
        )


def _refuse_other_policy(
    path: Path, wanted: SitePolicy, data: DataSet | None, epsilon: float | None
) -> None:
    policy = site_policy.load(path)
    if policy.site != wanted.site:
        raise ValueError(
            f"{path}: is of site {policy.site!r}, got --name {wanted.site!r}; a site keeps its "
            "name: use that one, or another folder"
        )
    if epsilon is not None and policy.epsilon != epsilon:
        raise ValueError(
            f"{path}: budget.epsilon is {policy.epsilon:g}, got --epsilon {epsilon:g}; a policy "
            "that is there is only changed by hand"
        )
    if data is None or (there := policy.data_set(data.name)) == data:
        return
    by_hand = "a policy that is there is only changed by hand"
    if there is None:
        raise ValueError(f"{path}: has no [data.{data.name}]; {by_hand}: add the table")
    key = next(k for k, v in vars(data).items() if v != getattr(there, k))
    raise ValueError(
        f"{path}: data.{data.name}.{key} is {getattr(there, key)!r}, got {getattr(data, key)!r}; "
        f"{by_hand}"
    )


def _refuse_lost_key(path: Path, needed: bool, why: str) -> None:
    if needed and not os.path.lexists(path):
        raise ValueError(
            f"{path}: no such file, and {why}; restore it from a copy, or begin a new site in "
            "another folder under another name"
        )


def _write_policy(path: Path, policy: SitePolicy) -> None:
    """Write the policy and read it back, so that no wrong one stays."""
    part = path.with_name(f".{POLICY}.new")
    policy_file.write(part, policy)
    try:
        site_policy.load(part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container's user may have no name; systemd takes the number
        return str(os.getuid())


def _unit(home: Path, register: Path) -> bytes:
    return systemd_unit(home / UNIT, _command(), home, _user(), register)


def systemd_unit(
    path: Path, program: str, home: Path, user: str, register: Path | None = None
) -> bytes:
    """Return a site's unit, to stand at `path`: `program` works from `home` as `user`.

    Its processors: one for each of limits.threads, as `site.toml` is made, and one for the rest.
    register: the machine's (`fedlite.guard.register`); None: that of a user whose own folder is
    the one in which `home` lies.
    """
    words = [program, "site", "start", str(home)]
    register = register or home.parent / ".local" / "state" / BELOW_STATE
    return unit.text(
        path,
        "fedlite site",
        words,
        home,
        user,
        unit.environment(FEDLITE_REGISTER=str(register)) + _SETTINGS,
        cores=SITE.cores,
        tasks=SITE.tasks,
        writable=[register],
    )


def _command() -> str:
    beside = Path(sys.executable).with_name("fedlite")
    return str(beside) if beside.exists() else shutil.which("fedlite") or str(beside)


@contextmanager
def _refusals(home: Path, action: str, invitation: Invitation) -> Iterator[None]:
    """Write a refusal into the journal before it is told."""
    try:
        yield
    except ValueError as error:
        facts: dict[str, Any] = {"what": action, "fingerprint": invitation.fingerprint}
        Journal(home / "audit").write("refuse", **facts, why=str(error)[:500])
        raise
