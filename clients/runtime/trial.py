"""A stranger's bundle is tried out in a process of its own, which may take so long and so much.

A graph is no code, and may compute for ever all the same: it can loop, or make tensors of any size.
"""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

# Of processor time and of the clock, and of address space. Bundles of ours take a second.
_SECONDS, _PATIENCE, _BYTES = 120, 600, 16 << 30
_WRONG = 3


def try_out(folder: Path, signed_by: str, seconds: int = _SECONDS) -> None:
    """Raise ValueError where a bundle does not load, or does not answer as where it was made.

    seconds: of processor time that it may take.
    """
    words = [sys.executable, "-P", "-m", "clients.runtime.trial", str(folder), signed_by]
    try:
        done = subprocess.run(
            [*words, str(seconds)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=_PATIENCE,
        )
    except subprocess.TimeoutExpired:
        code, told = None, ""
    else:
        code, told = done.returncode, done.stdout.decode("utf-8", "replace").strip()
    if code == _WRONG:
        raise ValueError(told[:2000])
    if code != 0:
        raise ValueError(
            f"{folder}: must answer its stored inputs within {seconds} s of processor time and "
            f"{_BYTES >> 30} GiB, and does not; it is no bundle to use"
        )


def main(folder: str, signed_by: str, seconds: str) -> int:
    """Load a bundle within the limits; print why it is refused."""
    resource.setrlimit(resource.RLIMIT_CPU, (int(seconds), int(seconds) + 5))
    resource.setrlimit(resource.RLIMIT_AS, (_BYTES, _BYTES))
    from fedlite.inference.bundle import load

    try:
        load(folder, signed_by=signed_by)
    except (ValueError, OSError) as error:
        sys.stdout.buffer.write(str(error).encode("utf-8", "replace"))
        return _WRONG
    return 0


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
