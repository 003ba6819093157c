"""Fashion-MNIST (Xiao, Rasul, Vollgraf 2017, arXiv 1708.07747): 28x28 pictures of clothes.

Debian packs the publisher's files anew, so the pins are of the unpacked IDX files: they hold for
both, and nothing is parsed before its pin agreed.
"""

from __future__ import annotations

import gzip
import io
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedlite.data.cache import cache_folder, download, locked, read_cached, verify
from fedlite.data.dataset import Dataset, Features, Indices, Source
from fedlite.data.entry import Entry
from fedlite.storage import write_atomic

NAME = "fashion-mnist"
SYSTEM_FOLDER = Path("/usr/share/datasets/fashion-mnist")
PACKAGE = "dataset-fashion-mnist"
ARCHIVES = (
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
)
PACKED_LIMIT = 64 << 20
SUBPROCESS_SECONDS = 300
LABELS = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


@dataclass(frozen=True)
class _Idx:
    """One IDX file: name when packed, header bytes, unpacked size in bytes, unpacked SHA-256."""

    file: str
    header: int
    size: int
    sha256: str


TRAIN_X = _Idx(
    "train-images-idx3-ubyte.gz",
    16,
    16 + 60_000 * 784,
    "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
)
TRAIN_Y = _Idx(
    "train-labels-idx1-ubyte.gz",
    8,
    8 + 60_000,
    "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
)
TEST_X = _Idx(
    "t10k-images-idx3-ubyte.gz",
    16,
    16 + 10_000 * 784,
    "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
)
TEST_Y = _Idx(
    "t10k-labels-idx1-ubyte.gz",
    8,
    8 + 10_000,
    "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
)
FILES = (TRAIN_X, TRAIN_Y, TEST_X, TEST_Y)


def _folders() -> tuple[Path, Path]:
    return SYSTEM_FOLDER, cache_folder() / NAME


def _complete(folder: Path) -> bool:
    return all((folder / idx.file).is_file() for idx in FILES)


def available() -> bool:
    """Say whether all four files are present, in Debian's folder or in the cache."""
    return any(_complete(folder) for folder in _folders())


def _unpack(packed: bytes, idx: _Idx, path: Path) -> bytes:
    """Return the verified content of a packed IDX file; never unpacks more than it should hold."""
    try:
        with gzip.open(io.BytesIO(packed)) as archive:
            content = archive.read(idx.size + 1)
    except (OSError, EOFError) as error:
        raise ValueError(
            f"{path}: must be a whole gzip file ({error}); "
            f"delete it and run `fedlite data fetch {NAME}`"
        ) from error
    return verify(content, idx.sha256, name=NAME, path=path)


def _read(folder: Path, idx: _Idx) -> NDArray[np.uint8]:
    path = folder / idx.file
    content = _unpack(read_cached(path, name=NAME), idx, path)
    return np.frombuffer(content, np.uint8, offset=idx.header)


def _usable() -> Path | None:
    """Return the first folder whose four files all agree with their pins, if there is one."""
    for folder in _folders():
        if not _complete(folder):
            continue
        try:
            for idx in FILES:
                _read(folder, idx)
        except ValueError:
            continue
        return folder
    return None


def _run(command: list[str], cwd: Path) -> None:
    """Run a command; raises OSError with the end of its error output when it fails."""
    try:
        done = subprocess.run(
            command, cwd=cwd, capture_output=True, text=True, timeout=SUBPROCESS_SECONDS
        )
    except subprocess.TimeoutExpired as error:
        raise OSError(f"{command[0]} took over {SUBPROCESS_SECONDS} s") from error
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
        raise OSError(f"{' '.join(command[:2])} failed: {lines[-1]}")


def _from_debian(target: Path) -> None:
    """Fill `target` from Debian's package, without root: download it, then unpack its files."""
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        raise OSError("apt-get and dpkg-deb are not on this machine")
    with tempfile.TemporaryDirectory(dir=target, prefix=".deb-") as name:
        work = Path(name)
        _run(["apt-get", "download", PACKAGE], work)
        packages = sorted(work.glob("*.deb"))
        if len(packages) != 1:
            raise OSError(f"apt-get download left {len(packages)} packages instead of 1")
        _run(["dpkg-deb", "-x", str(packages[0]), "unpacked"], work)
        unpacked = work / "unpacked" / SYSTEM_FOLDER.relative_to("/")
        for idx in FILES:
            packed = (unpacked / idx.file).read_bytes()
            _unpack(packed, idx, unpacked / idx.file)
            write_atomic(target / idx.file, packed)


def _from_archive(base: str, target: Path) -> None:
    """Fill `target` from a public archive, resuming what an earlier call left in `.part` files."""
    for idx in FILES:
        path = target / idx.file
        if path.is_file():
            try:
                _read(target, idx)
                continue
            except ValueError:
                path.unlink()
        part = target / f"{idx.file}.part"
        packed = download(base + idx.file, part, limit=PACKED_LIMIT)
        try:
            _unpack(packed, idx, part)
        except ValueError:
            # Resuming from wrong bytes could never succeed.
            part.unlink()
            raise
        write_atomic(path, packed)
        part.unlink()


def fetch() -> Path:
    """Return a folder with the four verified files, fetching them into the cache where needed.

    Tries what is already here, then Debian's package, then the public archives, and resumes an
    interrupted download. Raises ConnectionError telling what each way answered.
    """
    usable = _usable()
    if usable is not None:
        return usable
    target = cache_folder() / NAME
    reasons = []
    with locked(target):
        for way, fill in (
            (f"Debian's {PACKAGE}", partial(_from_debian, target)),
            *((base, partial(_from_archive, base, target)) for base in ARCHIVES),
        ):
            try:
                fill()
                return target
            except (OSError, ValueError) as error:
                reasons.append(f"{way}: {error}")
    raise ConnectionError(
        f"{NAME} could not be fetched ({'; '.join(reasons)}); call it again with a network, or "
        f"put {', '.join(idx.file for idx in FILES)} into {target}"
    )


def _images(raw: NDArray[np.uint8]) -> Features:
    return raw.reshape(-1, 1, 28, 28).astype(np.float32) / np.float32(255)


def _labels(raw: NDArray[np.uint8]) -> Indices:
    return raw.astype(np.int64)


def load() -> Source:
    """Return 60,000 training and 10,000 test images (1, 28, 28) in [0, 1].

    Raises ValueError when no folder holds the four files as pinned.
    """
    complete = [folder for folder in _folders() if _complete(folder)]
    folder = complete[0] if len(complete) == 1 else _usable()
    # With no usable folder, reading the cache raises the error that names the file and the mend.
    folder = folder or _folders()[1]
    train = Dataset(_images(_read(folder, TRAIN_X)), _labels(_read(folder, TRAIN_Y)))
    test = Dataset(_images(_read(folder, TEST_X)), _labels(_read(folder, TEST_Y)))
    return Source(
        name=NAME,
        train=train,
        test=test,
        groups=None,
        group_names=(),
        shape=(1, 28, 28),
        classes=10,
        labels=LABELS,
        origin=f"{folder}, content sha256:{TRAIN_X.sha256} (training images)",
    )


ENTRY = Entry(
    name=NAME,
    what="pictures of clothes, 28x28 grey, 10 classes",
    records=70_000,
    licence="MIT",
    size=30_878_551,
    how=f"Debian's {PACKAGE} (installed, or unpacked without root), else its public archive",
    load=load,
    fetch=fetch,
    available=available,
)
