"""Where the project's rooms are: in a checkout beside this package, in a wheel inside it."""

from __future__ import annotations

from pathlib import Path


def app_root() -> Path:
    """Return the folder that holds `clients/`, `server/`, `strategies/` and `simulations/`.

    In a checkout that is the repository; an installed wheel carries them inside the package.
    """
    package = Path(__file__).resolve().parent
    inside = package / "app"
    return inside if inside.is_dir() else package.parent
