"""fedlite: federated learning with small messages, valid privacy and budgets kept at the site."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedlite.api import Run, audit_ledgers, load_scenario, resume, simulate

__version__ = "0.1.0"
__all__ = ["Run", "__version__", "audit_ledgers", "load_scenario", "resume", "simulate"]


def __getattr__(name: str) -> Any:
    """Import what is asked for and no more: `import fedlite` takes no library with it."""
    if name in __all__:
        from fedlite import api

        return getattr(api, name)
    raise AttributeError(f"module 'fedlite' has no attribute {name!r}")
