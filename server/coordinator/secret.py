"""The two secrets by which the SuperLink knows who speaks.

One is shown by the gateway on the sites' twelve paths, and opens these only. The other is shown by
the coordinator's own processes, and opens everything. Both are made anew at each start, in files of
mode 0600: whoever cannot read the coordinator's folder cannot speak to its SuperLink.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from fedlite.identity import keys
from server.coordinator.folder import Coordinator


def renew(coordinator: Coordinator) -> None:
    """Make both secrets anew."""
    for path in (coordinator.sites_secret, coordinator.control_secret):
        fresh = path.with_name(f"{path.name}.new")
        fresh.unlink(missing_ok=True)
        keys.create_private(fresh, secrets.token_hex(32).encode())
        os.replace(fresh, path)


def read(path: Path) -> str:
    """Return a secret.

    Raises ValueError when it cannot be read, others may read it, or it is none.
    """
    text = keys.read_private(path).decode("ascii", "replace")
    if len(text) != 64:
        raise ValueError(f"{path}: must hold 64 hex digits; run fedlite server start, which does")
    return text
