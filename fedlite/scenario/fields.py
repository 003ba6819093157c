"""Settings that name code or a file."""

from __future__ import annotations

from dataclasses import field
from typing import Any


def named(default: str) -> Any:
    """A name of what the registry knows, or of code of one's own (`fedlite.registry.names`)."""
    rule = {"rule": "a non-empty name", "check": bool, "limits": {"minLength": 1}, "code": True}
    return field(default=default, metadata=rule)


def path_setting() -> Any:
    """Return a field that names a file or folder; see `load` for what it is relative to."""
    return field(default="", metadata={"rule": "", "check": lambda v: True, "path": True})


def base_setting() -> Any:
    """A base model: a name, or a folder, which is written with a slash."""
    kept = {"rule": "", "check": lambda v: True, "path": True, "or name": True}
    return field(default="", metadata=kept)


def code_setting() -> Any:
    """Empty, or a name as `named` takes it."""
    return field(default="", metadata={"rule": "", "check": lambda v: True, "code": True})
