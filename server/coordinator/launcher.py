"""Flower's own programs, started so that they show the coordinator's secret to its SuperLink.

The SuperLink and what it starts call each other's programs by name. `install` puts programs of
these names first on their PATH; each starts this file, which lets Flower's HTTP client carry the
secret and then does what Flower's program does.

Nothing of `server` is imported: in the process of a run that name belongs to the run's bundle.
Everything imported from `flwr` below is private to Flower 1.41, which the project pins.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

HEADER = "x-fedlite-secret"
_PROGRAMS = {
    "flower-superexec": "flwr.supercore.cli:flower_superexec",
    "flwr-serverapp": "flwr.superlink.cli:flwr_serverapp",
}


def install(folder: Path, secret: Path) -> None:
    """Write the programs into `folder` (0700); each reads `secret` when it is started."""
    folder.mkdir(mode=0o700, exist_ok=True)
    for name in _PROGRAMS:
        words = [sys.executable, "-P", __file__, str(secret), name]
        path = folder / name
        path.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
        path.chmod(0o700)


class Shown:
    """Adds the secret to each request of a Flower client (`ProtobufClientInterceptor`)."""

    def __init__(self, secret: str) -> None:
        """Keep the secret."""
        self._secret = secret

    def intercept(self, context: Any, call_next: Any) -> Any:
        """Send the request with the header."""
        context.request.headers[HEADER] = self._secret
        return call_next(context)


def show(secret: str) -> None:
    """Let every Flower client that this process makes show the secret."""
    from flwr.supercore.protobuf.client import ProtobufClient

    plain = ProtobufClient.__init__

    def init(self: Any, *given: Any, interceptors: Sequence[Any] = (), **others: Any) -> None:
        plain(self, *given, interceptors=[*interceptors, Shown(secret)], **others)

    setattr(ProtobufClient, "__init__", init)  # noqa: B010


def hide_tokens() -> None:
    """Let SuperExec hand a task's token over in a file without a name.

    In the list of processes, where Flower has it, every user of the machine reads it.
    """
    from flwr.supercore.superexec.executor import subprocess_executor

    def popen(words: list[str], **others: Any) -> subprocess.Popen[bytes]:
        at = words.index("--token")
        with os.fdopen(os.memfd_create("token"), "wb", buffering=0) as file:
            file.write(words[at + 1].encode())
            hidden = ["--token-file", f"/proc/self/fd/{file.fileno()}"]
            words = [*words[:at], *hidden, *words[at + 2 :]]
            return subprocess.Popen(words, pass_fds=[file.fileno()], **others)

    executor: Any = subprocess_executor
    executor.subprocess = SimpleNamespace(Popen=popen, DEVNULL=subprocess.DEVNULL)


def main(words: list[str]) -> None:
    """Be one of Flower's programs. words: the secret's file, the program's name, its options."""
    secret, program, *options = words
    show(Path(secret).read_text(encoding="ascii"))
    if program == "flower-superexec":
        hide_tokens()
    sys.argv = [program, *options]
    module, _, name = _PROGRAMS[program].partition(":")
    sys.exit(getattr(import_module(module), name)())


if __name__ == "__main__":
    main(sys.argv[1:])
