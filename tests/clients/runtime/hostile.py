"""A ClientApp that is hostile in the way that the message says, by the name of its group."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Context, Message, MetricRecord
from flwr.clientapp import ClientApp

from fedlite import compression, flower
from fedlite.guard import remote
from fedlite.inference import told
from fedlite.messages import Code, Hello

app = ClientApp()


@app.train()
@app.query()
@app.evaluate()
def answer(message: Message, context: Context) -> Message:
    deed, home = message.metadata.group_id, Path(context.node_config["folder"])
    pipe = remote.of_this_process().pipe
    frame = bytes(28) + b"frame"
    if deed == "sleep":
        os.write(pipe.fileno(), b"\x01")
        time.sleep(3600)
    elif deed == "flood":
        os.write(pipe.fileno(), (3 << 30).to_bytes(8, "little"))
        while True:
            os.write(pipe.fileno(), bytes(1 << 20))
    elif deed == "fill":
        for number in range(100):
            (home / f"{number}").write_bytes(bytes(5_000_000))
        time.sleep(3600)
    elif deed == "litter":
        for number in range(5000):
            (home / f"{number}").touch()
        time.sleep(3600)
    elif deed == "hide":
        _hide(home)
        time.sleep(3600)
    elif deed == "unlinked":
        kept = [_unlinked(home / f"{number}") for number in range(20)]
        time.sleep(3600 + len(kept))
    elif deed == "deep":
        os.chdir(home)
        for _ in range(5000):
            os.mkdir("x")
            os.chdir("x")
        time.sleep(3600)
    elif deed == "later":
        threading.Thread(target=_later, args=(home,), daemon=True).start()
    elif deed == "metrics":
        content = flower.wrap(frame)
        content["mean"] = MetricRecord({"age": 47.1})
        return Message(content, reply_to=message)
    elif deed == "raw":
        pipe.send(remote.RESERVE)
        pipe.receive()
        pipe.send(remote.ANSWER + frame)
        time.sleep(3600)
    elif deed == "die":
        os.abort()
    elif deed == "twice":
        for _ in range(2):
            pipe.send(remote.RESERVE)
            pipe.receive()
    elif deed == "nonsense":
        pipe.send(b"q")
        pipe.receive()
    elif deed == "empty":
        pipe.send(b"")
        pipe.receive()
    elif deed == "head":
        pipe.send(remote.RESERVE)
        pipe.receive()
        frame = b"FH" + bytes([1, 0]) + bytes(100) + frame
    elif deed in ("hello", "long hello"):
        layout = "ab" * 8 if deed == "hello" else "x" * 64
        return flower.answer(Hello("a", layout, "1").encode(), message)
    elif deed in ("honest", "chatter"):
        if deed == "chatter":
            _chatter(home)
        pipe.send(remote.RESERVE)
        if (said := pipe.receive()) != remote.GRANTED:
            return flower.decline(Code(said[1:].decode()), message)
    elif deed.startswith("counts"):
        if deed != "counts unasked":
            pipe.send(remote.RESERVE)
            if (said := pipe.receive()) != remote.GRANTED:
                return flower.decline(Code(said[1:].decode()), message)
        frame = _counts(deed)
    elif deed == "pry":
        frame += _pry(home).encode()
    # "unasked" goes on: it hands over what nobody wrote down.
    return flower.answer(frame, message)


def _counts(deed: str) -> bytes:
    """Return a frame of counts, or of what is none, by the name of the deed."""
    exact = deed.startswith("counts exact")
    cells = np.zeros((2, 118 if exact else 12), np.int64)
    cells[0, 0] = {"counts negative": -1000, "counts exact others": 51}.get(deed, 50)
    body = told.encode(told.Cells(cells, 0.0 if exact else 3.7))
    if deed == "counts long":
        body += b"a patient's name"
    codec = 1 if deed == "counts update" else told.CODEC
    envelope = compression.Envelope(bytes(8), 6, 7, bytes(8), bytes(8))
    return compression.pack(envelope, codec, body, 9 if deed == "counts records" else 0)


def _hide(folder: Path) -> None:
    """Write below a path that is too long to be named, and where nobody else may look."""
    (folder / "closed").mkdir(0o300)
    os.chdir(folder)
    for _ in range(20):
        os.mkdir("x" * 250)
        os.chdir("x" * 250)
    for number in range(20):
        Path(f"{number}").write_bytes(bytes(5_000_000))


def _unlinked(path: Path) -> Any:
    """Return a file that takes room and has no name."""
    file = path.open("wb")
    path.unlink()
    file.write(bytes(5_000_000))
    file.flush()
    return file


def _later(folder: Path) -> None:
    """Write while nobody asks."""
    for number in range(1000):
        time.sleep(0.2)
        (folder / f"{number}").write_bytes(bytes(1_000_000))


def _chatter(folder: Path) -> None:
    """Print for whoever looks at a terminal, more than a disk may be given, and try to stay."""
    os.write(1, b"\x1b]0;mine\x07\x1b[2J")
    for _ in range(40):
        os.write(2, b"\x1b[31mred " * 10_000)
    try:
        if os.fork() == 0:
            time.sleep(3600)
    except OSError:
        return
    (folder / "forked").write_bytes(b"")


def _pry(folder: Path) -> str:
    """Return which of these succeeded."""
    home = folder.parents[1]
    other = home / "state" / ("ff" * 8)
    deeds: dict[str, Any] = {
        "read ledger key": lambda: (home / "keys" / "ledger.pem").read_bytes(),
        "read node key": lambda: (home / "keys" / "node.pem").read_bytes(),
        "read data secret": lambda: (home / "keys" / "data.secret").read_bytes(),
        "read policy": lambda: (home / "site.toml").read_bytes(),
        "list ledgers": lambda: os.listdir(home / "ledgers"),
        "delete ledger": lambda: (home / "ledgers" / "digits.jsonl").unlink(),
        "write ledger": lambda: (home / "ledgers" / "digits.jsonl").write_bytes(b""),
        "rename ledgers": lambda: (home / "ledgers").rename(home / "gone"),
        "read other run": lambda: (other / "state.safetensors").read_bytes(),
        "write other run": lambda: (other / "mine").write_bytes(b""),
        "read other data": lambda: (home / "other.csv").read_bytes(),
        "read journal": lambda: os.listdir(home / "audit"),
        "read inflight": lambda: os.listdir(home / "inflight"),
        "link outside": lambda: (folder / "out").symlink_to(home / "keys"),
        "pipe in state": lambda: os.mkfifo(folder / "fifo"),
    }
    done = []
    for name, deed in deeds.items():
        try:
            deed()
            done.append(name)
        except OSError:
            continue
    return ", ".join(done)
