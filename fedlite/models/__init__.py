"""Models with an early exit: what sites train and devices run."""

from __future__ import annotations

from fedlite.models.branched import PARTS, Branched, losses, losses_of
from fedlite.models.registry import build, names, options

__all__ = ["PARTS", "Branched", "build", "losses", "losses_of", "names", "options"]
