"""The process in which approved code runs: warm, and shut in.

It is started before there is anything to do, imports what takes long (torch, Flower), and waits.
The first message names the unpacked bundle; from then on the process can reach what it was told
and no more (`fedlite.deployment.sandbox`), imports the bundle's ClientApp, and answers messages one
by one. It serves one bundle in its life: two would share `sys.modules`. Everything crosses the pipe
as bytes; nothing is pickled.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import traceback
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fedlite.deployment.bounds import bound_process, die_with
from fedlite.guard.code import installation
from fedlite.guard.pipe import Pipe


@dataclass(frozen=True)
class Task:
    """What a worker is for.

    folder: the unpacked bundle. app: module and attribute of its ClientApp. run_id, node_id:
    Flower's numbers. node_config: what the site tells its own code. run_config: the run's settings.
    read, write: what the code may reach beside the interpreter; closed: what it must not, which the
    kernel is asked before the bundle is imported. threads: torch threads. sandbox: whether to shut
    the process in; without it the code may do whatever the site's user can.
    """

    folder: str
    app: str
    run_id: int
    node_id: int
    node_config: dict[str, Any]
    run_config: dict[str, Any]
    read: list[str] = field(default_factory=list)
    write: list[str] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)
    threads: int = 1
    sandbox: bool = True

    def encode(self) -> bytes:
        """Return it as JSON."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def decode(cls, data: bytes) -> Task:
        """Read it back."""
        return cls(**json.loads(data))


def main() -> None:
    """Serve a pipe until it is closed: its file descriptor, and the parent's process, are given."""
    die_with(int(sys.argv[2]))
    pipe = Pipe(int(sys.argv[1]))
    # The runtime ends its workers; an interrupt at the terminal is meant for the runtime.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Before anything that takes long: the site does not work with another than its own.
    pipe.send(installation().encode())
    import torch

    from fedlite.flower import wire
    from fedlite.guard import remote

    pipe.send(b"ready")
    try:
        task = Task.decode(pipe.receive())
        if task.sandbox:
            _shut_in(task)
        # A second thread before that would have stayed outside.
        torch.set_num_threads(task.threads)
        app = _load(task)
    except EOFError:
        return
    except Exception:
        traceback.print_exc()
        pipe.send(b"failed")
        return
    pipe.send(b"loaded")
    context = wire.context(task.run_id, task.node_id, task.node_config, task.run_config)
    remote.connect(pipe)
    while True:
        try:
            message = wire.from_bytes(pipe.receive()[1:])
        except EOFError:
            return
        said = app(message, context)
        # Only bytes: what Flower makes of a message takes far more room and time than it has bytes.
        if code := wire.code_of(said):
            pipe.send(remote.DECLINED + code.value.encode())
        else:
            pipe.send(remote.ANSWER + wire.unwrap(said))


def _shut_in(task: Task) -> None:
    from fedlite.deployment import sandbox
    from fedlite.deployment.readable import python_paths, refuse_open

    bound_process()
    read = [*python_paths(), Path(task.folder), *map(Path, task.read)]
    sandbox.restrict(read=read, write=[Path(path) for path in task.write])
    refuse_open(map(Path, task.closed))


def _load(task: Task) -> Any:
    """Import the ClientApp from the bundle, before any other place where the name may be found."""
    sys.path.insert(0, task.folder)
    sys.dont_write_bytecode = True
    name, _, attribute = task.app.partition(":")
    module = importlib.import_module(name)
    origin = Path(module.__file__ or "").resolve()
    if not origin.is_relative_to(Path(task.folder).resolve()):
        raise ImportError(f"{name}: came from {origin}, not from the approved bundle")
    return getattr(module, attribute)


if __name__ == "__main__":
    os.umask(0o077)
    main()
