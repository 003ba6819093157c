"""A bundle that somebody else has changed and signed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fedlite.identity import keys
from fedlite.inference import manifest


def edit(told: dict[str, Any], **values: Any) -> bytes:
    return json.dumps(told | values).encode()


def signed_anew(made: Path, to: Path, **changed: bytes) -> str:
    """Write the bundle with other files, signed by another key, and return that in hex."""
    files = {file.name: file.read_bytes() for file in made.iterdir()}
    files.pop("manifest.json")
    key = keys.load_or_generate(to.with_suffix(".pem"))
    manifest.write(to, files | {name.replace("_", "."): of for name, of in changed.items()}, key)
    return keys.public_hex(key)


def described(made: Path, **changed: Any) -> bytes:
    return edit(json.loads((made / "bundle.json").read_text()), **changed)
