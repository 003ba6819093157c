"""Who takes part: join requests are approved, sites revoked and listed.

`COORD/sites.json` says which sites there are; Flower's SuperLink says which keys may connect. A key
is registered there before it is written here, and a revocation is written here before the key is
taken away there: a crash in between leaves a node that no run uses, and calling again completes it.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
    load_ssh_public_key,
)

from fedlite.deployment import document
from fedlite.deployment.invitation import Invitation
from fedlite.deployment.journal import Journal
from fedlite.deployment.request import Request
from fedlite.identity import nodekey
from fedlite.storage import write_atomic
from server import releases

_LOCK_SECONDS = 10.0
SITES, INVITATION, AUDIT = "sites.json", "invitation.json", "audit"


class Folder(Protocol):
    """What enrolment needs of a coordinator's folder."""

    @property
    def path(self) -> Path:
        """The folder."""


class Nodes(Protocol):
    """What enrolment needs of Flower's Control API (`server.coordinator.control.Control`)."""

    def register(self, public_key: str, name: str, /) -> int:
        """Let the holder of a public key, OpenSSH, connect; return its node's number."""

    def unregister(self, node_id: int, /) -> Any:
        """Never let this node connect again."""

    def nodes(self) -> list[Any]:
        """Return every node, with at least `node_id`, `public_key` and `status`."""


@dataclass(frozen=True)
class Site:
    """A site that was approved. node_key: OpenSSH. ledger_key: hex. approved: when, UTC.

    groups: what `federation.members` may call it and others together; see `groups`.
    """

    node_id: int
    node_key: str
    ledger_key: str
    approved: str
    revoked: bool = False
    groups: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Take a list, as JSON has it, for the groups."""
        object.__setattr__(self, "groups", tuple(self.groups))


@dataclass(frozen=True)
class Question:
    """What the operator is shown before a site is approved; `notes` say what is unusual."""

    site: str
    node_key: str
    ledger_key: str
    notes: tuple[str, ...] = ()


class Declined(ValueError):
    """The operator has said no."""


def load(folder: Path) -> dict[str, Site]:
    """Return the sites in `COORD/sites.json` by name; raises ValueError when it is damaged."""
    path = folder / SITES
    try:
        return {name: Site(**values) for name, values in json.loads(path.read_bytes()).items()}
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path}: must hold the approved sites as JSON ({error}); restore it from a copy"
        ) from None


def approve(
    coordinator: Folder,
    request_path: Path,
    control: Nodes,
    confirm: Callable[[Question], bool],
    *,
    again: bool = False,
    groups: tuple[str, ...] | None = None,
) -> tuple[str, Site]:
    """Let the site that sent the request take part, or change its key; return its name and entry.

    again: also when it was revoked. groups: in which it is from now on; None: those it was in.
    Repeating it changes nothing, and completes what a crash has
    interrupted. Raises ValueError when a signature does not verify, the request answers another
    invitation or is of a release that speaks another protocol, or the name or a key is another
    site's; Declined when `confirm` says no; ConnectionError when the coordinator does not run.
    """
    folder = coordinator.path
    with locked(folder), _refusals(folder, request_path.name):
        request = document.read(
            request_path,
            Request.decode,
            "the site sends you its request.json, which `fedlite site join` wrote",
        )
        sites = load(folder)
        _check_answer(folder, request)
        notes = _check_identity(sites, request, again)
        known = sites.get(request.site)
        same = (
            known is not None
            and not known.revoked
            and (known.node_key, known.ledger_key) == (request.node_key, request.ledger_key)
        )
        if not same:
            shown = nodekey.fingerprint(request.node_key)
            question = Question(request.site, shown, request.ledger_key, notes)
            if not confirm(question):
                raise Declined(f"{request.site}: not approved; nothing was changed")
        number = _register(control, request)
        if same and known is not None and known.node_id == number:
            site = known
        else:
            kept = known.groups if known is not None else ()
            site = Site(number, request.node_key, request.ledger_key, _now(), groups=kept)
        if groups is not None and groups != site.groups:
            site = replace(site, groups=groups)
            Journal(folder / AUDIT).write("group", site=request.site, groups=", ".join(groups))
        if site != known:
            save(folder, sites | {request.site: site})
        if not same:
            Journal(folder / AUDIT).write(
                "approve",
                site=request.site,
                node_key=nodekey.fingerprint(request.node_key),
                ledger_key=request.ledger_key,
                rotation=bool(request.previous_node_key),
                again=again,
            )
        releases.note(folder, request.site, request.release)
        others = {one.node_key for name, one in sites.items() if name != request.site}
        past = {request.previous_node_key, known.node_key if known else ""}
        for old in past - {"", request.node_key} - others:
            _unregister(control, old)
        return request.site, site


def revoke(coordinator: Folder, name: str, control: Nodes) -> Site:
    """Never let the site's key connect again; no run uses the site from here on.

    Revoking again completes what a crash has interrupted. Raises ValueError for an unknown name.
    """
    folder = coordinator.path
    with locked(folder):
        sites = load(folder)
        if name not in sites:
            known = ", ".join(sorted(sites)) or "none yet"
            raise ValueError(f"{folder / SITES}: has no site {name!r}; those there: {known}")
        site = sites[name]
        if not site.revoked:
            site = replace(site, revoked=True)
            save(folder, sites | {name: site})
            Journal(folder / AUDIT).write(
                "revoke", site=name, node_key=nodekey.fingerprint(site.node_key)
            )
        _unregister(control, site.node_key)
    return site


def sites(coordinator: Folder, control: Nodes | None) -> list[dict[str, Any]]:
    """Return every site: name, node, fingerprints, release it was seen to run, state, groups.

    state: "online", "offline", "revoked"; "unregistered" when the SuperLink does not know its key,
    "unknown" when `control` is None.
    """
    found: dict[str, str] = {}
    if control is not None:
        found = {key: str(node["status"]) for key, node in _live(control).items()}
    rows = []
    noted = partial(releases.noted, coordinator.path)
    for name, site in sorted(load(coordinator.path).items()):
        if site.revoked:
            state = "revoked"
        elif control is None:
            state = "unknown"
        elif site.node_key not in found:
            state = "unregistered"
        else:
            state = "online" if found[site.node_key] == "online" else "offline"
        rows.append(
            {
                "name": name,
                "node_id": site.node_id,
                "node_key": nodekey.fingerprint(site.node_key),
                "ledger_key": site.ledger_key,
                "approved": site.approved,
                "release": release.version if (release := noted(name)) else "",
                "state": state,
                "groups": list(site.groups),
            }
        )
    return rows


def _check_answer(folder: Path, request: Request) -> None:
    """Raise ValueError unless the request answers this coordinator's invitation and protocol."""
    invitation = Invitation.decode((folder / INVITATION).read_bytes())
    if request.invitation != invitation.fingerprint:
        raise ValueError(
            f"invitation: must be that of this coordinator, {invitation.fingerprint}, got "
            f"{request.invitation}; send the site {folder / INVITATION}"
        )
    if problem := request.release.problem:
        raise ValueError(f"{request.site}: {problem}")


def _check_identity(sites: Mapping[str, Site], request: Request, again: bool) -> tuple[str, ...]:
    """Raise ValueError when name or keys are another's; return what the operator should know."""
    name = request.site
    for other, site in sites.items():
        if other != name and site.node_key == request.node_key:
            raise ValueError(f"node_key: is that of {other!r}; every site has its own key")
        if other != name and site.ledger_key == request.ledger_key:
            raise ValueError(f"ledger_key: is that of {other!r}; every site has its own key")
    known = sites.get(name)
    if known is None:
        if request.previous_node_key:
            raise ValueError(
                f"previous_node_key: there is no site {name!r} whose key could be changed; the "
                "site sends the request of `fedlite site join` first"
            )
        return ()
    notes = []
    if known.revoked:
        if not again:
            raise ValueError(f"{name}: was revoked; approve it anew with --again")
        if known.node_key == request.node_key:
            raise ValueError(
                f"node_key: of {name!r} was revoked for good; at the site, run `fedlite site "
                "rotate-key HOME`, which writes a request with a new key"
            )
        notes.append("was revoked")
    elif known.node_key != request.node_key and request.previous_node_key != known.node_key:
        raise ValueError(
            f"{name}: two sites with one name, or its node key was lost: the key in the request is "
            f"another than the one approved on {known.approved}, which has not signed it; the site "
            "takes another name, or runs `fedlite site rotate-key HOME`. If its key is lost: "
            f"`fedlite server revoke {name!r}`, then approve with --again"
        )
    if known.node_key != request.node_key:
        notes.append(f"node key changes from {nodekey.fingerprint(known.node_key)}")
    if known.ledger_key != request.ledger_key:
        notes.append(f"ledger key changes from {known.ledger_key}")
    return tuple(notes)


def _register(control: Nodes, request: Request) -> int:
    """Register the key, unless a call that was interrupted has done so; return its node."""
    node = _live(control).get(request.node_key)
    if node is not None:
        return int(node["node_id"])
    return int(control.register(request.node_key, request.site))


def _unregister(control: Nodes, key: str) -> None:
    node = _live(control).get(key)
    if node is not None:
        control.unregister(int(node["node_id"]))


def _live(control: Nodes) -> dict[str, dict[str, Any]]:
    """Return the nodes that are registered now, by their public keys in OpenSSH."""
    nodes = [node if isinstance(node, dict) else _fields(node) for node in control.nodes()]
    return {
        _openssh(node["public_key"]): node for node in nodes if node["status"] != "unregistered"
    }


def _fields(node: Any) -> dict[str, Any]:
    return {name: getattr(node, name) for name in ("node_id", "public_key", "status")}


def _openssh(key: bytes | str) -> str:
    """Return a public key in OpenSSH; Flower gives back the PEM that it was given."""
    data = key.encode("ascii") if isinstance(key, str) else key
    pem = data.startswith(b"-----")
    read = load_pem_public_key(data) if pem else load_ssh_public_key(data)
    return read.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode("ascii")


def save(folder: Path, sites: Mapping[str, Site]) -> None:
    """Write the sites by name; call it under `locked`."""
    values = {name: asdict(site) for name, site in sites.items()}
    text = json.dumps(values, indent=2, sort_keys=True, ensure_ascii=False)
    write_atomic(folder / SITES, text.encode() + b"\n")


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Let one command at a time change the sites; the lock ends with the process."""
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise ValueError(
            f"{folder}: is no coordinator's folder ({error.strerror}); run `fedlite server init "
            f"{folder}`"
        ) from None
    try:
        until = time.monotonic() + _LOCK_SECONDS
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise ValueError(
                        f"{folder}: another `fedlite server` command is changing the sites; "
                        "answer its question or end it, and try again"
                    ) from None
            time.sleep(0.1)
        yield
    finally:
        os.close(handle)


@contextmanager
def _refusals(folder: Path, file: str) -> Iterator[None]:
    """Write a refusal into the journal before it is told."""
    try:
        yield
    except ValueError as error:
        Journal(folder / AUDIT).write("refuse", what="approve", file=file, why=str(error)[:500])
        raise
