"""Flower: two lines that compress the messages of any Flower app, and how fedlite's own use it.

`ClientApp(mods=[compress()])` at the clients and `Compressed(FedAvg(...))` at the server:
docs/flower.md. Everything is imported when it is first asked for; these two change nothing else in
the process of the app.

The other names are those of `fedlite.flower.wire`, which only fedlite's own apps use. They are
found here, too, as the code of a bundle is of another release than the library of a site.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedlite.flower.mod import compress
    from fedlite.flower.strategy import Compressed
    from fedlite.flower.wire import (
        CHUNKED_ABOVE,
        KEY,
        STYPE,
        Message,
        answer,
        ask,
        code_of,
        context,
        decline,
        error,
        from_bytes,
        identify,
        set_message_id,
        to_bytes,
        unwrap,
        wrap,
    )

__all__ = [
    "CHUNKED_ABOVE",
    "KEY",
    "STYPE",
    "Compressed",
    "Message",
    "answer",
    "ask",
    "code_of",
    "compress",
    "context",
    "decline",
    "error",
    "from_bytes",
    "identify",
    "set_message_id",
    "to_bytes",
    "unwrap",
    "wrap",
]


def __getattr__(name: str) -> Any:
    """Import what is asked for and no more."""
    if name == "compress":
        from fedlite.flower.mod import compress

        return compress
    if name == "Compressed":
        from fedlite.flower.strategy import Compressed

        return Compressed
    if name in __all__:
        from fedlite.flower import wire

        return getattr(wire, name)
    raise AttributeError(f"module 'fedlite.flower' has no attribute {name!r}")
