"""How a private training ends that goes wrong: in one way, whatever it was.

With which error training ends, or whether it diverges, may hang on the records, and a code is seen.
"""

from __future__ import annotations

import logging

from fedlite.guard.guardian import Decline
from fedlite.messages import Code
from fedlite.registry import explain

log = logging.getLogger("fedlite.site")


def diverged(most: float) -> Decline:
    """Return what a site declines with whose training moved a parameter by more than `most`."""
    return Decline(
        Code.DATA,
        f"training diverged: no parameter may move by more than {most:g} in a round; lower "
        "training.learning_rate, or see whether the server's model is sound",
    )


def failed(name: str, error: Exception) -> Decline:
    """Return what the site declines with, and say in its own log what it was."""
    # Of what was meant to be read its text says enough.
    known = isinstance(error, ValueError | Decline)
    log.error("%s: training failed: %s", name, explain(error), exc_info=None if known else error)
    return Decline(Code.FAILED, "training failed, as this log says")
