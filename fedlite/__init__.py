"""fedlite: federated learning with small messages, valid privacy and budgets kept at the site."""

from __future__ import annotations

# As in `typing`, whose import takes longer than all the rest.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from fedlite.api import (
        Bundle,
        Compared,
        Run,
        Sweep,
        audit_ledgers,
        compare,
        load,
        load_bundle,
        load_scenario,
        resume,
        simulate,
        sweep,
    )

__version__ = "0.1.0"
__all__ = [
    "Bundle",
    "Compared",
    "Run",
    "Sweep",
    "__version__",
    "audit_ledgers",
    "compare",
    "load",
    "load_bundle",
    "load_scenario",
    "resume",
    "simulate",
    "sweep",
]


def __getattr__(name: str) -> Any:
    """Import what is asked for and no more: `import fedlite` takes no library with it."""
    if name in __all__:
        from fedlite import api

        return getattr(api, name)
    raise AttributeError(f"module 'fedlite' has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return the names that a notebook completes."""
    return sorted({*globals(), *__all__})
