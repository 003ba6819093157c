"""The models that simulated sites hold: one array for all of a process, one file for all of a disk.

After a round nearly all sites hold the same model. A real site decodes and keeps its own; of a
thousand in one simulation each would do the same work again, and a thousand files would be alike.
Models are known by their digest, so who has the digest has the model.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

import numpy as np

from clients.remembered import Remembered
from fedlite.parameters import Vector, vector_digest
from fedlite.storage import write_quickly

# What is remembered beyond the two models of a round; older ones are read from their files.
_BYTES = 64_000_000

Led = tuple[bytes, Vector]


class Replicas:
    """Models by their digest. Those that it returns are read-only, as many sites share them.

    size: how many float32 values a model has. states: what sites remember beside them, of which a
    process has one, however many kinds of models there are.
    """

    def __init__(self, size: int, states: Remembered[Any] | None = None) -> None:
        """Know no model yet."""
        self.states: Remembered[Any] = Remembered() if states is None else states
        self._known: OrderedDict[bytes, Vector] = OrderedDict()
        self._led: OrderedDict[Hashable, Led] = OrderedDict()
        self._files: dict[bytes, Path] = {}
        self._most = max(2, _BYTES // max(1, 4 * size))

    def led(self, key: Hashable, decode: Callable[[], Vector]) -> Led:
        """Return digest and model that a frame leads to; `decode` is called once for a `key`.

        key: all that the result depends on. What `decode` raises is not remembered.
        """
        found = self._led.get(key)
        if found is None:
            model = _shared(decode())
            found = vector_digest(model), model
            self._led[key] = found
            self._remember(*found)
            if len(self._led) > self._most:
                self._led.popitem(last=False)
        return found

    def hold(self, path: Path, digest: bytes, model: Vector) -> None:
        """Let the site whose state is `path` hold a model, also when this process has ended.

        The file is another name of the one that others hold, where the file system has such names;
        it goes with the last of them. Raises OSError.
        """
        mine = file_of(path, digest)
        if mine.exists():
            return
        self._remember(digest, model)
        if (other := self._files.get(digest)) is not None:
            try:
                os.link(other, mine)
            except OSError:
                # That site holds another by now, or there are no second names here.
                self._files.pop(digest)
            else:
                return
        write_quickly(mine, model.tobytes())
        self._files = {digest: mine}

    def let_go(self, path: Path, digest: bytes) -> None:
        """Remove a model that the site whose state is `path` held before."""
        file_of(path, digest).unlink(missing_ok=True)

    def find(self, path: Path, digest: bytes) -> Vector:
        """Return the model that the site holds, float32 [n]. Raises OSError where it is gone."""
        if digest not in self._known:
            self._remember(digest, read(path, digest))
        self._known.move_to_end(digest)
        return self._known[digest]

    def _remember(self, digest: bytes, model: Vector) -> None:
        self._known[digest] = model
        if len(self._known) > self._most:
            self._known.popitem(last=False)


def read(path: Path, digest: bytes) -> Vector:
    """Return the model that the site whose state is `path` holds, read-only, from its file.

    Raises OSError where it is gone, ValueError where it is not the one of that digest: such files
    are not flushed, so a crash of the machine may tear one.
    """
    model = np.frombuffer(file_of(path, digest).read_bytes(), np.float32)
    if vector_digest(model) != digest:
        raise ValueError(f"{file_of(path, digest)}: is damaged; it is not the model of its name")
    return model


def file_of(path: Path, digest: bytes) -> Path:
    """Return where that file is."""
    return path.with_suffix(f".{digest.hex()}.replica")


def _shared(model: Vector) -> Vector:
    view = model.view()
    view.setflags(write=False)
    return view
