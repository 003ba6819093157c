"""What a site answers to an invitation: its name and public keys, signed by each of them.

The signatures prove that whoever sends the request holds the keys, so nobody can enrol another's.
A site that changes its node key signs with the old one as well; a request without that signature
never replaces a key.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields

from fedlite.deployment import document
from fedlite.deployment.protocol import Release
from fedlite.identity import keys, nodekey
from fedlite.identity.canonical import canonical
from fedlite.identity.names import site_problem

KIND = "fedlite-request"
_SIGNATURES = ("node_signature", "ledger_signature", "previous_signature")


@dataclass(frozen=True)
class Request:
    """A site's name, its public keys, and which invitation it answers.

    site: by the rule of site names. node_key: OpenSSH, ECDSA P-384. ledger_key: Ed25519, 64 hex
    digits. invitation: the fingerprint of the coordinator's CA. fedlite: the site's release;
    protocol: what that speaks. previous_node_key: the one in use so far when the site changes it,
    otherwise empty.
    Raises ValueError for anything else.
    """

    site: str
    node_key: str
    ledger_key: str
    invitation: str
    fedlite: str
    previous_node_key: str = ""
    protocol: str = ""

    def __post_init__(self) -> None:
        """Check every field."""
        problem = site_problem(self.site)
        if problem:
            raise ValueError(problem)
        nodekey.check("node_key", self.node_key)
        if self.previous_node_key:
            nodekey.check("previous_node_key", self.previous_node_key)
        if self.previous_node_key == self.node_key:
            raise ValueError("previous_node_key: must be another key than node_key")
        if not re.fullmatch(r"[0-9a-f]{64}", self.ledger_key):
            raise ValueError(
                f"ledger_key: must be 64 lower-case hex digits, got {self.ledger_key[:80]!r}"
            )
        if not re.fullmatch(r"(?:[0-9A-F]{2}:){31}[0-9A-F]{2}", self.invitation):
            raise ValueError(
                f"invitation: must be a SHA-256 fingerprint, got {self.invitation[:100]!r}"
            )
        _ = self.release

    @property
    def release(self) -> Release:
        """What the site ran when it wrote this."""
        return Release(self.fedlite, self.protocol)

    def encode(
        self,
        node: nodekey.NodeKey,
        ledger: keys.Key,
        previous: nodekey.NodeKey | None = None,
    ) -> bytes:
        """Sign with every key that the request names, and return it as a text file.

        Raises ValueError when a key is not the one that the request names.
        """
        named = (self.node_key, self.ledger_key, self.previous_node_key)
        given = (
            nodekey.public(node),
            keys.public_hex(ledger),
            nodekey.public(previous) if previous else "",
        )
        if named != given:
            raise ValueError("keys: must be those that the request names, got others")
        said = self._message()
        signatures = (
            nodekey.sign(node, said),
            keys.sign(ledger, said),
            nodekey.sign(previous, said) if previous else "",
        )
        told = document.told(self) | dict(zip(_SIGNATURES, signatures, strict=True))
        return document.encode(KIND, told)

    @classmethod
    def decode(cls, data: bytes) -> Request:
        """Read a request and verify all its signatures; raises ValueError."""
        names = [field.name for field in fields(cls)]
        read = document.decode(KIND, [*names, *_SIGNATURES], data, optional=("protocol",))
        request = cls(**{name: text for name, text in read.items() if name in names})
        said = request._message()
        node, ledger, previous = (read[name] for name in _SIGNATURES)
        good = {
            "node_signature": nodekey.verify(request.node_key, node, said),
            "ledger_signature": keys.verify(request.ledger_key, ledger, said),
            "previous_signature": nodekey.verify(request.previous_node_key, previous, said)
            if request.previous_node_key
            else previous == "",
        }
        for name, holds in good.items():
            if not holds:
                raise ValueError(
                    f"{name}: does not verify; the file was changed on its way, or the sender "
                    "does not hold the key: ask the site for request.json anew"
                )
        return request

    def _message(self) -> bytes:
        return b"fedlite-request-v1\n" + canonical(document.told(self))
