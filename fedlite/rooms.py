"""Where the project's rooms are: in a checkout beside this package, in a wheel inside it."""

from __future__ import annotations

import sys
from pathlib import Path


def app_root() -> Path:
    """Return the folder that holds `clients/`, `server/`, `strategies/` and `simulations/`.

    In a checkout that is the repository; an installed wheel carries them inside the package.
    """
    package = Path(__file__).resolve().parent
    inside = package / "app"
    return inside if inside.is_dir() else package.parent


def open_rooms() -> None:
    """Let `server` and `simulations` be imported, which a wheel carries inside the package."""
    root = str(app_root())
    if root not in sys.path:
        sys.path.insert(0, root)
