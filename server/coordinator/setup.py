"""How a coordinator's folder is made."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import tomli_w

import fedlite
from fedlite.deployment.invitation import Invitation
from fedlite.deployment.protocol import spoken
from fedlite.identity import keys
from fedlite.settings import section
from fedlite.storage import write_atomic
from server.coordinator import authority, gateway, secret
from server.coordinator.folder import Coordinator, Settings, absolute

_FOLDERS = ("ca", "tls", "flwr", "gateway", "logs", "jobs", "bundles", "runs", "audit", "witness")


def init(path: Path, name: str, address: str, **others: Any) -> Coordinator:
    """Make a coordinator's folder; called again, complete one whose making was interrupted.

    others: further keys of `coordinator.toml`. No key is ever made anew, and the invitation, which
    is written last, says that the folder is complete.

    Raises ValueError when the folder is complete already, holds something else, or was begun with
    other settings.
    """
    coordinator = Coordinator(absolute(path))
    if coordinator.invitation.exists():
        raise ValueError(
            f"{path}: is a coordinator already, and is never overwritten; start it with fedlite "
            f"server start {path}, or name another folder"
        )
    errors: list[str] = []
    table = {"name": name, "address": address, **others}
    settings = section("coordinator", Settings, table, errors)
    if errors:
        raise ValueError("\n".join(errors))
    text = tomli_w.dumps({"coordinator": asdict(settings)}).encode()
    if coordinator.toml.exists():
        if coordinator.settings != settings:
            raise ValueError(
                f"{coordinator.toml}: was begun with other settings; call init with those again, "
                "or remove the folder"
            )
    elif coordinator.path.exists() and any(coordinator.path.iterdir()):
        raise ValueError(f"{path}: must be a new or an empty folder; name another")
    coordinator.path.mkdir(mode=0o700, parents=True, exist_ok=True)
    coordinator.path.chmod(0o700)
    if not coordinator.toml.exists():
        write_atomic(coordinator.toml, text)
    _ = coordinator.settings  # the rules between keys, too
    for folder in _FOLDERS:
        (coordinator.path / folder).mkdir(mode=0o700, exist_ok=True)
    authority.ensure(coordinator)
    keys.load_or_generate(coordinator.witness_key)
    if not coordinator.sites.exists():
        write_atomic(coordinator.sites, b"{}\n")
        coordinator.sites.chmod(0o600)
    secret.renew(coordinator)
    gateway.write(coordinator)
    gateway.write_services(coordinator)
    invitation = _invitation(coordinator)
    coordinator.journal.write("init", address=address, fingerprint=invitation.fingerprint)
    write_atomic(coordinator.invitation, invitation.encode())
    return coordinator


def renew_invitation(coordinator: Coordinator) -> Invitation:
    """Write the invitation anew where the release or `coordinator.toml` says more; return it."""
    invitation = _invitation(coordinator)
    if coordinator.invitation.read_bytes() != invitation.encode():
        write_atomic(coordinator.invitation, invitation.encode())
    return invitation


def _invitation(coordinator: Coordinator) -> Invitation:
    settings = coordinator.settings
    return Invitation(
        name=settings.name,
        address=settings.address,
        ca_pem=coordinator.ca_cert.read_text(encoding="ascii"),
        witness=keys.public_hex(keys.load(coordinator.witness_key)),
        fedlite=fedlite.__version__,
        federation=settings.federation,
        protocol=spoken(),
    )
