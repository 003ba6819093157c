"""Why a request gets no answer, in one line and one of gRPC's codes."""

from __future__ import annotations

# By name, so that what refuses needs no gRPC.
CODES = frozenset(
    "INVALID_ARGUMENT NOT_FOUND DEADLINE_EXCEEDED RESOURCE_EXHAUSTED UNAUTHENTICATED "
    "PERMISSION_DENIED FAILED_PRECONDITION UNAVAILABLE INTERNAL".split()
)
# As a header of HTTP/2, in which a text takes up to three bytes a character.
_LONGEST = 1000


class Refused(Exception):
    """A request that is not answered.

    code: one of CODES. text: which rule it breaks, and the mend.
    """

    def __init__(self, code: str, text: str) -> None:
        """Say why; raises ValueError for a code that is none."""
        if code not in CODES:
            raise ValueError(f"code: must be one of {', '.join(sorted(CODES))}, got {code!r}")
        super().__init__(text)
        self.code, self.text = code, text[:_LONGEST]
