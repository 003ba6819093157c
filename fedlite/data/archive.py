"""Arrays of a `.npz` file, looked at before they are loaded: it may be a stranger's."""

from __future__ import annotations

import math
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from fedlite.data.rows import check_memory

_BROKEN = (
    *(zipfile.BadZipFile, zlib.error, EOFError, OSError),
    *(RuntimeError, NotImplementedError, ValueError, SyntaxError, KeyError),
)


@dataclass(frozen=True)
class Arrays:
    """The arrays in a file by their names: what their headers say, and what they hold."""

    path: str

    def headers(self) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
        """Return shape and dtype of every array; no value is read.

        Raises ValueError for a file that is no `.npz`, and for an array of Python objects, which
        could run code when it is loaded.
        """
        found = {}
        with self._open() as archive:
            for info in archive.infolist():
                name = info.filename.removesuffix(".npy")
                if name == info.filename or name in found:
                    raise self._broken(f"it holds {ascii(info.filename)[:80]}, or that twice")
                found[name] = self._header(archive, info)
        return found

    def _header(
        self, archive: zipfile.ZipFile, info: zipfile.ZipInfo
    ) -> tuple[tuple[int, ...], np.dtype[Any]]:
        try:
            with archive.open(info) as file:
                shape, dtype = _read_header(file)
        except _BROKEN as error:
            raise self._broken(error) from error
        if dtype.hasobject:
            raise self._broken(
                f"{info.filename} holds Python objects, which are never loaded: use numbers or text"
            )
        if any(size < 0 for size in shape):
            raise self._broken(f"{info.filename} has the shape {shape}")
        return shape, dtype

    def read(self, name: str) -> NDArray[Any]:
        """Return an array; raises ValueError where it is damaged or too large for this machine."""
        shape, dtype = self.headers()[name]
        # What is read, and as numbers of 8 bytes.
        size = math.prod(shape) * max(8, dtype.itemsize)
        check_memory(self.path, size // 8, f"{name} of {dtype} {shape}")
        with self._open() as archive:
            try:
                with archive.open(f"{name}.npy") as file:
                    found: NDArray[Any] = npy.read_array(file, allow_pickle=False)
            except (*_BROKEN, MemoryError) as error:
                raise self._broken(f"{name}: {error}") from error
        return found

    def _open(self) -> zipfile.ZipFile:
        try:
            return zipfile.ZipFile(Path(self.path).expanduser())
        except _BROKEN as error:
            raise self._broken(getattr(error, "strerror", None) or error) from error

    def _broken(self, why: object) -> ValueError:
        told = " ".join(str(why).split())[:200]
        return ValueError(
            f"data.path: must name a .npz file that is whole, got {self.path!r} ({told}); write it "
            "by numpy.savez(..., x=..., y=...)"
        )


def _read_header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = npy.read_magic(file)
    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f"version {version} of the format")
    shape, _, dtype = readers[version](file)
    return shape, dtype
