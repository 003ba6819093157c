"""Whose key a request shows, and whether it was signed with it: asked before a body is read.

Flower checks the same once it has read and parsed the body, and whose node it is besides.
Everything imported from `flwr` below is private to Flower 1.41, which the project pins.
"""

from __future__ import annotations

import base64
import binascii
import datetime
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_public_key
from flwr.common.constant import SYSTEM_TIME_TOLERANCE, TIMESTAMP_HEADER, TIMESTAMP_TOLERANCE
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
from flwr.supercore.date import now
from flwr.supercore.primitives.asymmetric import (
    bytes_to_public_key,
    public_key_to_bytes,
    verify_signature,
)

from server.coordinator import enrolment

log = logging.getLogger("fedlite.coordinator")


@dataclass(frozen=True)
class Known:
    """A key that was approved once: whose it is, and whether it was revoked since."""

    site: str
    key: ec.EllipticCurvePublicKey
    revoked: bool


class Unauthenticated(Exception):
    """The request is signed by nobody, by another key than it shows, or at another time."""


class Sites:
    """The keys in `COORD/sites.json`, as it is at this moment."""

    def __init__(self, folder: Path) -> None:
        """Name the folder; raises ValueError when its list of sites is damaged."""
        self._folder, self._stamp = folder, stamp(folder)
        self._known = keys(folder)

    def signer(self, headers: Mapping[str, str]) -> Known | None:
        """Return who signed a request; None where its key is no site's.

        headers: by name in lower case. Raises Unauthenticated; the time is looked at first, so
        that a site whose clock is off hears that, and no time is spent on the signature of a key
        that nobody knows.
        """
        self._refresh()
        try:
            shown, time = headers[FLEET_HTTP_PUBLIC_KEY_HEADER], headers[TIMESTAMP_HEADER]
            signature = base64.b64decode(headers[FLEET_HTTP_SIGNATURE_HEADER], validate=True)
            age = (now() - datetime.datetime.fromisoformat(time)).total_seconds()
        except (KeyError, ValueError, TypeError, binascii.Error):
            raise Unauthenticated from None
        if not -SYSTEM_TIME_TOLERANCE < age < TIMESTAMP_TOLERANCE + SYSTEM_TIME_TOLERANCE:
            raise Unauthenticated
        known = self._known.get(shown)
        if known is None:
            return None
        if not verified(known.key, time.encode("ascii", "replace"), signature):
            raise Unauthenticated
        return known

    def _refresh(self) -> None:
        found = stamp(self._folder)
        if found == self._stamp:
            return
        self._stamp = found
        try:
            self._known = keys(self._folder)
        except ValueError as error:
            # Revocations are written whole, so this is a hand's work: the list before stays.
            log.error("%s", error)


def verified(key: ec.EllipticCurvePublicKey, message: bytes, signature: bytes) -> bool:
    """Tell whether a signature is good, in place of Flower's own `verify_signature`.

    The answer about the same three never changes, so it is worked out once: Flower asks again about
    each request that was let through, and whether the time is the right one is no part of it.
    """
    return _verified(public_key_to_bytes(key), message, signature)


@lru_cache(maxsize=4096)
def _verified(pem: bytes, message: bytes, signature: bytes) -> bool:
    return verify_signature(bytes_to_public_key(pem), message, signature)


def stamp(folder: Path) -> tuple[int, int, int]:
    """Return what changes whenever the list of sites is written."""
    try:
        found = os.stat(folder / enrolment.SITES)
    except FileNotFoundError:
        return (0, 0, 0)
    return (found.st_ino, found.st_mtime_ns, found.st_size)


def keys(folder: Path) -> dict[str, Known]:
    """Return the sites' keys by what a request shows of them: base64 of the PEM.

    Raises ValueError when the list of sites is damaged.
    """
    found = {}
    for name, site in enrolment.load(folder).items():
        key = load_ssh_public_key(site.node_key.encode("ascii"))
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise ValueError(
                f"{folder / enrolment.SITES}: node_key of {name!r} is none; restore it"
            )
        shown = base64.b64encode(public_key_to_bytes(key)).decode("ascii")
        found[shown] = Known(name, key, site.revoked)
    return found
