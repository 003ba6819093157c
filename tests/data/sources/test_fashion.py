import gzip
import shutil
from pathlib import Path

import numpy as np
import pytest

from fedlite.data import available, cache_folder, fetch, load
from fedlite.data.sources import fashion

NAME = "fashion-mnist"


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty machine: no Debian folder, no cache, no network. Returns the cache's folder."""
    monkeypatch.setattr(fashion, "SYSTEM_FOLDER", tmp_path / "usr")
    monkeypatch.setattr(fashion, "ARCHIVES", ("http://127.0.0.1:9/",))
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setenv("FEDLITE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / NAME


def test_missing_files_name_the_mend(elsewhere: Path) -> None:
    assert not available(NAME)
    with pytest.raises(ValueError, match=r"train-images.*run `fedlite data fetch fashion-mnist`"):
        load(NAME)


def test_a_fetch_without_any_way_tells_what_each_answered(elsewhere: Path) -> None:
    with pytest.raises(ConnectionError, match=r"Debian's.*not on this machine; http://127.*put tr"):
        fetch(NAME)


@pytest.mark.parametrize("content", [b"not gzip", gzip.compress(b"\0" * 100, mtime=0), b""])
def test_corrupt_files_are_never_parsed(elsewhere: Path, content: bytes) -> None:
    elsewhere.mkdir(parents=True)
    for idx in fashion.FILES:
        (elsewhere / idx.file).write_bytes(content)
    assert available(NAME)
    with pytest.raises(ValueError, match=r"train-images.*`fedlite data fetch fashion-mnist`"):
        load(NAME)


def test_a_gzip_bomb_is_not_unpacked(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    read = gzip.GzipFile.read

    def spy(self: gzip.GzipFile, size: int = -1) -> bytes:
        asked.append(size)
        return read(self, size)

    monkeypatch.setattr(gzip.GzipFile, "read", spy)
    with pytest.raises(ValueError, match="sha256"):
        fashion._unpack(gzip.compress(b"\0" * 10_000_000), fashion.TEST_Y, Path("f"))
    assert asked == [fashion.TEST_Y.size + 1]


@pytest.mark.data(NAME)
def test_images_and_labels_are_the_published_ones() -> None:
    source = load(NAME)
    assert source.test is not None
    assert source.train.x.shape == (60_000, 1, 28, 28) and source.test.x.shape == (
        10_000,
        1,
        28,
        28,
    )
    assert np.bincount(source.train.y).tolist() == [6000] * 10
    assert np.bincount(source.test.y).tolist() == [1000] * 10
    assert source.train.x.min() == 0 and source.train.x.max() == 1
    # Mean and deviation of the training pixels, as commonly published.
    assert source.train.x.mean(dtype=np.float64) == pytest.approx(0.2860, abs=1e-4)
    assert source.train.x.std(dtype=np.float64) == pytest.approx(0.3530, abs=1e-4)
    assert source.labels[source.train.y[0]] == "Ankle boot"
    assert source.origin.startswith((str(fashion.SYSTEM_FOLDER), str(cache_folder())))


@pytest.mark.long
@pytest.mark.data(NAME)
def test_a_damaged_copy_gives_way_to_a_good_one_and_fetch_repairs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = fetch(NAME)
    system, cache = tmp_path / "usr", tmp_path / "cache" / NAME
    for folder in (system, cache):
        shutil.copytree(good, folder)
    (system / fashion.TEST_Y.file).write_bytes(b"damaged")
    monkeypatch.setattr(fashion, "SYSTEM_FOLDER", system)
    monkeypatch.setenv("FEDLITE_CACHE", str(tmp_path / "cache"))
    assert fetch(NAME) == cache
    (cache / fashion.TEST_Y.file).write_bytes(b"damaged too")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(fashion, "ARCHIVES", ("http://mirror/",))
    asked = []

    def served(url: str, part: Path, *, limit: int) -> bytes:
        asked.append(url)
        part.write_bytes((good / fashion.TEST_Y.file).read_bytes())
        return part.read_bytes()

    monkeypatch.setattr(fashion, "download", served)
    assert fetch(NAME) == cache
    assert asked == ["http://mirror/" + fashion.TEST_Y.file], "only the damaged file"
    assert not list(cache.glob("*.part"))
