"""Which release of fedlite each site was seen to run: one small file for each.

It is for people: what is understood is decided by the protocol, in every hello.
"""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path

from fedlite.deployment.protocol import Release
from fedlite.storage import write_atomic

log = logging.getLogger("fedlite.server")


def note(root: Path, site: str, release: Release) -> None:
    """Remember what a site runs. root: the coordinator's folder."""
    path = _path(root, site)
    told = {"site": site, "version": release.version, "protocol": release.protocol}
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        write_atomic(path, json.dumps(told).encode() + b"\n")
    except OSError as error:
        log.error("%s: the site's release was not noted: %s", site, error)


def noted(root: Path, site: str) -> Release | None:
    """Return what a site was seen to run last; None where it never was, or that cannot be read."""
    try:
        told = json.loads(_path(root, site).read_bytes())
        return Release(told["version"], told["protocol"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _path(root: Path, site: str) -> Path:
    # A name may be longer than a file system lets one be.
    return root / "releases" / f"{hashlib.sha256(site.encode()).hexdigest()[:32]}.json"
