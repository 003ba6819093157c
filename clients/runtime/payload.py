"""How many bytes of an answer are fedlite's own: what it says, its frame, and the ledger's head.

The coordinator's summary counts the same. What Flower and TLS put around them is not in it.
"""

from __future__ import annotations

from fedlite.compression.frame import HEADER_BYTES
from fedlite.messages import HEAD_BYTES, REPLY_BYTES
from fedlite.privacy import SharedMechanism
from fedlite.secure import shamir
from fedlite.secure.member import body_bytes
from fedlite.secure.messages import HEAD_BYTES as STEP_BYTES, SIGNATURE_BYTES

# What a site sends in the steps of a sum where nobody falls silent: it signs the list of those
# that are summed, and opens its own mask.
SUM_STEPS = 2 * STEP_BYTES + SIGNATURE_BYTES + shamir.BYTES
# What travels with a frame, for the limits of `site.toml`: Flower's record, and the ledger's head.
AROUND = 1024


def masked_body(mechanism: SharedMechanism) -> int:
    """Return the most bytes that the body of a masked vector has."""
    # Where members are divided into groups, with how many one shares depends on the group.
    least = mechanism.least if mechanism.groups == 1 else 0
    return body_bytes(mechanism.sites, least, mechanism.coordinates, mechanism.bits)


def in_all(body: int, *, ledger: bool) -> int:
    """Return the most bytes of an answer with such a body; `ledger`: whether a head goes with it.

    >>> in_all(64, ledger=False), in_all(64, ledger=True)
    (92, 260)
    """
    return HEADER_BYTES + body + (REPLY_BYTES if ledger else 0)


def parts(what: str, body: int, *, ledger: bool) -> str:
    """Return the parts of such an answer in words, `what` naming its body.

    >>> parts("update", 64, ledger=False)
    'update 64, frame 28'
    """
    said = f"{what} {body:,}, frame {HEADER_BYTES}"
    if ledger:
        said += f", ledger head {REPLY_BYTES} ({HEAD_BYTES} once the coordinator knows the ledger)"
    return said


def leaves(body: int, how: str, mechanism: object, *, ledger: bool) -> list[tuple[str, str]]:
    """Return what leaves in a round at most, as titles and texts.

    body: bytes of the frame's body. how: what makes it so long. mechanism: what protects it; sums
    under shared noise take further steps.
    """
    most = f"at most {in_all(body, ledger=ledger):,} bytes a round in all: "
    told = [("leaves", most + parts(f"update ({how})", body, ledger=ledger))]
    if isinstance(mechanism, SharedMechanism):
        more = f"{SUM_STEPS} bytes more in the steps of its sum, and some where a member is silent"
        told.append(("", more))
    return [*told, ("", "Flower's message around it, and TLS around that, come on top")]
