"""Models, most with an early exit: what sites train and devices run."""

from __future__ import annotations

from fedlite.models.branched import PARTS, Branched, Early
from fedlite.models.registry import Model, build, names
from fedlite.models.single import Single
from fedlite.models.start import load_start

__all__ = ["PARTS", "Branched", "Early", "Model", "Single", "build", "load_start", "names"]
