"""Folders of pictures against Pillow's own reading, and folders as they should not be.

Covers fedlite/data/pixels.py.
"""

from __future__ import annotations

import logging
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fedlite.data import find, load
from fedlite.data.pixels import pixels
from fedlite.data.spread import spread
from fedlite.scenario import Data, Federation, Scenario, ScenarioError, from_dict

RNG = np.random.default_rng(0)


def draw(path: Path, size: tuple[int, ...] = (6, 5), **options: Any) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = RNG.integers(0, 256, size, dtype=np.uint8)
    Image.fromarray(values).save(path, **options)
    return values


def folder(root: Path, *sites: str) -> Path:
    for site in sites or ("",):
        for name in ("cat", "dog"):
            for number in range(4):
                draw(root / site / name / f"{number}.png")
    return root


def test_classes_are_folders_and_numbers_are_pillows(tmp_path: Path) -> None:
    folder(tmp_path)
    draw(tmp_path / "dog" / "9.JPG")
    (tmp_path / "cat" / ".hidden.png").write_text("no picture")
    (tmp_path / "cat" / "notes.txt").write_text("no picture")
    source = load("images", path=str(tmp_path))
    assert source.labels == ("cat", "dog") and source.shape == (1, 6, 5)
    assert source.train.y.tolist() == [0] * 4 + [1] * 5 and not source.train.raw
    files = [*sorted((tmp_path / "cat").glob("[0-9].png")), *sorted((tmp_path / "dog").iterdir())]
    theirs = np.stack([np.asarray(Image.open(file), np.float32) / 255 for file in files])
    assert np.allclose(source.train.x[:, 0], theirs, atol=1e-7)
    assert source.notes == ("1 files are left out: they do not end in .png, .jpg or .jpeg",)
    assert source.groups is None and source.origin == "pictures of one's own"


def test_folders_of_sites_are_groups(tmp_path: Path) -> None:
    folder(tmp_path, "north", "south")
    data = Data(name="images", path=str(tmp_path), partition="natural")
    source, sites = spread(Scenario(Federation(sites=2), data))
    assert source.group_names == ("north", "south") and source.labels == ("cat", "dog")
    assert [len(site.train) + len(site.test) for site in sites] == [8, 8]
    look = find("images").survey
    assert look is not None and look(str(tmp_path), "") == (16, 2, ("north", "south"))


def test_train_and_test_are_no_sites(tmp_path: Path) -> None:
    folder(tmp_path, "train")
    draw(tmp_path / "test" / "dog" / "a.png")
    source = load("images", path=str(tmp_path))
    assert source.groups is None and source.test is not None
    assert (len(source.train), source.test.y.tolist()) == (8, [1])


@pytest.mark.parametrize(
    "parts", [("train", "val"), ("train", "test", "val"), ("Train", "Test"), ("test", "north")]
)
def test_parts_of_a_data_set_are_no_sites(tmp_path: Path, parts: tuple[str, ...]) -> None:
    """Else the pictures of its test set would be trained on, and nobody told."""
    folder(tmp_path, *parts)
    with pytest.raises(ValueError, match=r"train and test must be its only folders.*got "):
        load("images", path=str(tmp_path))
    look = find("images").survey
    assert look is not None
    with pytest.raises(ValueError, match="no site"):
        look(str(tmp_path), "")


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    for name in ("train", "bus"):
        draw(tmp_path / name / "1.png")
    assert load("images", path=str(tmp_path)).labels == ("bus", "train")


@pytest.mark.parametrize("sites", [(), ("north", "south")])
def test_pictures_of_no_class_are_told(tmp_path: Path, sites: tuple[str, ...]) -> None:
    folder(tmp_path, *sites)
    draw(tmp_path / "beside.png")
    for site in sites:
        draw(tmp_path / site / "beside.png")
    source = load("images", path=str(tmp_path))
    assert len(source.train) == 8 * max(1, len(sites))
    told = f"{1 + len(sites)} pictures are left out: they lie beside the folders of the classes"
    assert source.notes == (told,)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
@pytest.mark.parametrize("channels", [1, 3])
def test_any_kind_of_picture_becomes_the_shape_that_is_asked_for(
    tmp_path: Path, mode: str, channels: int
) -> None:
    grey = Image.fromarray(RNG.integers(0, 256, (8, 8), dtype=np.uint8))
    file = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    image = (
        Image.fromarray(np.asarray(grey, np.uint16) * 257) if mode == "I;16" else grey.convert(mode)
    )
    image.save(file)
    found = pixels(str(file), (channels, 8, 8))
    assert found.dtype == np.float32 and found.shape == (channels, 8, 8)
    assert 0 <= found.min() <= found.max() <= 1
    expected = np.asarray(grey.convert("1") if mode == "1" else grey, np.float32)
    expected = expected * 255 if mode == "1" else expected
    # A palette, CMYK and JPEG round.
    assert np.abs(found - expected / 255).max() < {"P": 0.03, "CMYK": 0.25}.get(mode, 1e-6)
    small = pixels(str(file), (channels, 4, 2))
    assert small.shape == (channels, 4, 2)
    if mode == "L":
        theirs = np.asarray(grey.resize((2, 4), Image.Resampling.BILINEAR), np.float32) / 255
        assert np.allclose(small[0], theirs)


def test_other_sizes_need_a_shape(tmp_path: Path) -> None:
    folder(tmp_path)
    draw(tmp_path / "dog" / "large.png", (12, 10))
    with pytest.raises(ValueError, match=r"large.png: must have the size of .*, 1x6x5, got 1x12x1"):
        load("images", path=str(tmp_path))
    assert load("images", path=str(tmp_path), shape=(1, 6, 5)).train.x.shape == (9, 1, 6, 5)
    coloured = load("images", path=str(tmp_path), shape=(3, 4, 4))
    assert coloured.train.x.shape == (9, 3, 4, 4)
    for shape in ((6, 5), (2, 6, 5)):
        with pytest.raises(ValueError, match=r"shape: must be CxHxW for pictures"):
            load("images", path=str(tmp_path), shape=shape)


def _claims(width: int, height: int) -> bytes:
    """Return a PNG of a hundred bytes that claims to be of that size."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + rows + chunk(b"IEND", b"")


def _whole() -> bytes:
    import io

    buffer = io.BytesIO()
    Image.fromarray(RNG.integers(0, 256, (64, 64), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


BAD = {
    "claims to be huge": _claims(100_000, 100_000),
    "claims to be very large": _claims(17_000, 17_000),
    "claims more rows than it has": _claims(300, 300),
    "is cut": _whole()[:-1500],
    "is changed": _whole()[:60] + b"\0\0\0\0" + _whole()[64:],
    "is empty": b"",
    "is a GIF": b"GIF89a\1\0\1\0\x80\0\0\0\0\0\xff\xff\xff,\0\0\0\0\1\0\1\0\0\2\2D\1\0;",
    "is text": b"no picture",
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_picture_is_named_or_counts_as_absent(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder(tmp_path)
    whole = load("images", path=str(tmp_path), shape=(1, 6, 5))
    bad = tmp_path / "cat" / "bad.png"
    bad.write_bytes(BAD[name])
    for shape in ((1, 6, 5), ()):
        with pytest.raises(ValueError, match=r"bad.png: must .*, got .*; ") as caught:
            load("images", path=str(tmp_path), shape=shape)
        assert len(str(caught.value)) < len(str(bad)) + 300
    with caplog.at_level(logging.WARNING):
        source = load(
            "images",
            path=str(tmp_path),
            shape=(1, 6, 5),
            labels=("cat", "dog"),
            settled=True,
            skip_wrong=True,
        )
    assert np.array_equal(source.train.x, whole.train.x) and "bad.png" in caplog.text


def test_no_link_is_followed(tmp_path: Path) -> None:
    secret = tmp_path / "elsewhere" / "secret.png"
    draw(secret)
    root = folder(tmp_path / "own")
    (root / "dog" / "link.png").symlink_to(secret)
    with pytest.raises(ValueError, match=r"must hold no link.*got 'link.png'; put what it leads"):
        load("images", path=str(root))
    settings = {"shape": (1, 6, 5), "labels": ("cat", "dog"), "skip_wrong": True}
    assert len(load("images", path=str(root), **settings).train) == 8
    (root / "dog" / "link.png").unlink()
    (root / "owl").symlink_to(secret.parent)
    for more in ({}, settings):
        with pytest.raises(ValueError, match=r"must hold no link.*got 'owl'"):
            load("images", path=str(root), **more)


def test_names_that_are_no_utf8(tmp_path: Path) -> None:
    folder(tmp_path)
    odd = os.fsencode(tmp_path / "dog") + b"/\xff\xfe.png"
    with open(odd, "wb") as file:
        file.write(BAD["is text"])
    with pytest.raises(ValueError, match=r"dog/\\udcff\\udcfe.png: must be a PNG") as caught:
        load("images", path=str(tmp_path))
    str(caught.value).encode()
    os.remove(odd)
    os.mkdir(os.fsencode(tmp_path) + b"/\xff")
    with pytest.raises(ValueError, match=r"a folder's name must be printable UTF-8") as caught:
        load("images", path=str(tmp_path))
    str(caught.value).encode()


def test_a_class_without_pictures_is_one_and_is_said(tmp_path: Path) -> None:
    folder(tmp_path)
    (tmp_path / "owl").mkdir()
    source = load("images", path=str(tmp_path))
    assert source.labels == ("cat", "dog", "owl") and source.notes == ("no picture is of owl",)
    fixed = load("images", path=str(tmp_path), labels=("dog", "cat", "emu", "owl"))
    assert fixed.classes == 4 and fixed.train.y.tolist() == [1] * 4 + [0] * 4
    with pytest.raises(ValueError, match=r"0.png: its folder must be one of the classes dog, emu"):
        load("images", path=str(tmp_path), labels=("dog", "emu"))


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda root: None, r"must be a folder that can be read, got No such file"),
        (lambda root: root.mkdir(), r"must hold a folder for each class, got none"),
        (lambda root: draw(root / "a.png"), r"must hold a folder for each class, got none"),
        (lambda root: draw(root / "cat" / "a.png"), r"must hold 2 to 1000 classes, got cat"),
        (lambda root: folder(root, "Zürich Nord"), r"call it 'zurich-nord'"),
        (lambda root: root.write_text("a,b"), r"must be a folder that can be read, got Not a dir"),
        (
            lambda root: [(root / name).mkdir(parents=True) for name in ("a", "b")],
            r"must hold pictures as .*, got none",
        ),
    ],
)
def test_another_layout_is_refused_with_the_layout(tmp_path: Path, make: Any, told: str) -> None:
    root = tmp_path / "own"
    make(root)
    with pytest.raises(ValueError, match=told):
        load("images", path=str(root))


def test_private_pictures_need_their_shape_and_classes_and_no_ranges(tmp_path: Path) -> None:
    tables = {
        "data": {"name": "images", "path": str(tmp_path)},
        "privacy": {"unit": "record", "expected_batch": 4},
        "training": {"steps": 1},
    }
    with pytest.raises(ScenarioError) as caught:
        from_dict(tables)
    keys = {line.split(":")[0] for line in str(caught.value).splitlines()}
    assert keys == {"data.labels", "data.shape"}
    tables["data"] |= {"labels": "cat, dog", "shape": "1x6x5"}
    assert from_dict(tables).private
    with pytest.raises(ValueError, match=r"shape, labels: must be set for pictures"):
        load("images", path=str(tmp_path), settled=True)
    with pytest.raises(ValueError, match=r"target: is only for data 'csv'"):
        load("images", path=str(tmp_path), target="label")
