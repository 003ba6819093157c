"""A folder of pictures of one's own: a folder for each class, and around them one for each site."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fedlite.data.answers import MAX_CLASSES
from fedlite.data.cells import SITE_NAME, label_order
from fedlite.data.dataset import Dataset, Source
from fedlite.data.entry import Entry, nothing_to_fetch
from fedlite.data.hints import near_name
from fedlite.data.pixels import pixels, size_of
from fedlite.data.rows import check_memory

log = logging.getLogger("fedlite.site")

NAME = "images"
_SUFFIXES = (".png", ".jpg", ".jpeg")
_LAYOUT = "FOLDER/CLASS/*.png or FOLDER/SITE/CLASS/*.png"
# What parts of a data set are called: as sites, the test set would be trained on.
_PARTS = ("train", "training", "test", "testing", "val", "valid", "validation", "dev")


@dataclass
class _Found:
    """Files of pictures, the name of each one's class and site ("" where there are no sites).

    classes: in the order of the folders, with those that hold no picture. others: files that are
    left out. stray: pictures that are in no class's folder.
    """

    files: list[str] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)
    class_of: list[str] = field(default_factory=list)
    site_of: list[str] = field(default_factory=list)
    others: int = 0
    stray: int = 0


def _wrong(path: str, rule: str, got: object, mend: str) -> ValueError:
    # A name that is no UTF-8 can be shown nowhere.
    shown = path.encode(errors="backslashreplace").decode()
    return ValueError(f"{shown}: {rule}, got {got}; {mend}")


def _inside(folder: str) -> list[os.DirEntry[str]]:
    """Return what is in a folder by name, but for hidden files."""
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        rule, got = "must be a folder that can be read", error.strerror or error
        raise _wrong(folder, rule, got, "correct the path") from error
    return [entry for entry in entries if not entry.name.startswith(".")]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    return entry.is_dir(follow_symlinks=False)


def _linked(folder: str, entry: os.DirEntry[str]) -> ValueError:
    mend = "put what it leads to there"
    return _wrong(folder, "must hold no link, as none is followed", ascii(entry.name), mend)


def _folders(folder: str) -> list[os.DirEntry[str]]:
    """Return the folders in a folder; raises ValueError for a link and for a name to be shown."""
    entries = _inside(folder)
    for entry in entries:
        if entry.is_symlink():
            raise _linked(folder, entry)
        if not entry.name.isprintable():
            rule, got = "a folder's name must be printable UTF-8", ascii(entry.name)
            raise _wrong(folder, rule, got, "rename it")
    return [entry for entry in entries if _is_folder(entry)]


def _is_picture(entry: os.DirEntry[str]) -> bool:
    return not _is_folder(entry) and entry.name.lower().endswith(_SUFFIXES)


def _classes(folder: str, site: str, found: _Found, *, skip_wrong: bool) -> None:
    """Add the pictures of a folder of classes."""
    found.stray += sum(map(_is_picture, _inside(folder)))
    for one in _folders(folder):
        found.classes += [one.name] * (one.name not in found.classes)
        for entry in _inside(one.path):
            if entry.is_symlink():
                if not skip_wrong:
                    raise _linked(one.path, entry)
                log.warning("a picture counts as absent: %s", _linked(one.path, entry))
            elif not _is_picture(entry):
                found.others += 1
            else:
                found.files.append(entry.path)
                found.class_of.append(one.name)
                found.site_of.append(site)


def _look(folder: str, *, skip_wrong: bool = False) -> _Found:
    """Return what a folder holds; what is in its first folders says whether they are sites."""
    found, top = _Found(), _folders(folder)
    if not top:
        mend = f"arrange the pictures as {_LAYOUT}"
        raise _wrong(folder, "must hold a folder for each class", "none", mend)
    if not any(_is_folder(entry) for one in top for entry in _inside(one.path)):
        _classes(folder, "", found, skip_wrong=skip_wrong)
        return found
    found.stray += sum(map(_is_picture, _inside(folder)))
    for entry in top:
        if entry.name.lower() in _PARTS:
            rule = "train and test must be its only folders (rule: parts of a data set are no site)"
            mend = "move what is to be trained on into train, and all other folders away"
            raise _wrong(folder, rule, ", ".join(one.name for one in top), mend)
        if not SITE_NAME.fullmatch(entry.name):
            rule = "a site's name must be 1-64 of A-Z a-z 0-9 . _ - and begin with no sign"
            raise _wrong(folder, rule, ascii(entry.name), f"call it {near_name(entry.name)!r}")
        _classes(entry.path, entry.name, found, skip_wrong=skip_wrong)
    return found


def _below(folder: str, name: str, found: _Found) -> None:
    """Add all pictures in a folder and below it as of one class."""
    for entry in _inside(folder):
        if entry.is_symlink():
            raise _linked(folder, entry)
        if _is_folder(entry):
            _below(entry.path, name, found)
        elif _is_picture(entry):
            found.files.append(entry.path)
            found.class_of.append(name)
            found.site_of.append("")
        else:
            found.others += 1


def _halves(path: str, *, skip_wrong: bool = False) -> tuple[_Found, _Found | None]:
    """Return what a folder holds to train on, and its test set where it has one."""
    folder = str(Path(path).expanduser())
    if {entry.name for entry in _folders(folder)} != {"train", "test"}:
        return _look(folder, skip_wrong=skip_wrong), None
    train, test = (os.path.join(folder, name) for name in ("train", "test"))
    return _look(train, skip_wrong=skip_wrong), _look(test, skip_wrong=skip_wrong)


def _dataset(
    found: _Found, path: str, shape: tuple[int, ...], labels: tuple[str, ...], skip_wrong: bool
) -> tuple[Dataset, list[int]]:
    """Return the records and the places of their files; without `skip_wrong` of all of them."""
    numbers = {name: at for at, name in enumerate(labels)}
    what = f"{len(found.files):,} pictures of {shape}"
    check_memory(path, len(found.files) * int(np.prod(shape)) // 2, what)
    x = np.empty((len(found.files), *shape), np.float32)
    y, kept = np.empty(len(found.files), np.int64), list[int]()
    for at, (file, name) in enumerate(zip(found.files, found.class_of, strict=True)):
        try:
            if name not in numbers:
                rule = f"its folder must be one of the classes {', '.join(labels)}"
                raise _wrong(file, rule, repr(name), "correct data.labels, or rename the folder")
            x[len(kept)], y[len(kept)] = _picture(file, shape), numbers[name]
        except ValueError as error:
            if not skip_wrong:
                raise
            log.warning("a picture counts as absent: %s", error)
            continue
        kept.append(at)
    return Dataset(x[: len(kept)], y[: len(kept)]), kept


def _picture(file: str, shape: tuple[int, ...]) -> np.ndarray:
    try:
        return pixels(file, shape)
    except ValueError as error:
        rule = "must be a PNG or JPEG file that is whole and not huge"
        raise _wrong(file, rule, error, "replace it or take it away") from None


def _one_size(found: _Found) -> tuple[int, int, int]:
    """Return the shape of all pictures; raises ValueError where they differ."""
    shape, first = None, ""
    for file in found.files:
        try:
            size = size_of(file)
        except ValueError as error:
            rule = "must be a PNG or JPEG file that is whole and not huge"
            raise _wrong(file, rule, error, "replace it or take it away") from None
        if shape is None:
            shape, first = size, file
        elif size != shape:
            told = "x".join(map(str, size))
            rule = f"must have the size of {first}, {'x'.join(map(str, shape))}"
            mend = f'data.shape = "{"x".join(map(str, shape))}" resizes all'
            raise _wrong(file, rule, told, mend)
    if shape is None:
        raise ValueError(f"data.path: must hold pictures as {_LAYOUT}, got none; add some")
    return shape


def load(
    path: str = "",
    shape: tuple[int, ...] = (),
    labels: tuple[str, ...] = (),
    settled: bool = False,
    skip_wrong: bool = False,
    answered: bool = True,
) -> Source:
    """Return the pictures of a folder, float32 [n, channels, height, width] from 0 to 1.

    The folder holds one for each class, or one for each site that does; `train` and `test` in that
    place are no sites, but the records and a test set. `shape` makes all pictures grey (1) or
    coloured (3) and resizes them; without it they must be of one size. Class numbers follow
    `labels`, else the sorted names of the folders. Files with other endings than .png, .jpg and
    .jpeg are left out, and the source's notes say so; links are refused.

    settled, skip_wrong: as in `table.load_table`; they need `shape` and `labels`.

    answered: without it folders are no classes: all pictures in the folder and below are read, in
    the order of their paths, and all answers are class 0 of `labels`.

    Raises ValueError naming the file, the rule, the value and the mend.
    """
    if not path:
        raise ValueError("data.path: images needs the path of your folder")
    if shape and (len(shape) != 3 or shape[0] not in (1, 3)):
        raise ValueError(
            f"shape: must be CxHxW for pictures, C 1 (grey) or 3 (colour), got {shape}; 1x28x28 "
            "for example"
        )
    if settled and not (shape and labels):
        raise ValueError(
            "shape, labels: must be set for pictures that are private or at several sites (rule: "
            f"no record decides how others are read), got {shape} and {labels}; set data.shape and "
            "data.labels"
        )
    if answered:
        found, test = _halves(path, skip_wrong=skip_wrong)
    else:
        found, test = _Found(), None
        _below(str(Path(path).expanduser()), labels[0] if labels else "", found)
    classes = {*found.classes, *(test.classes if test else ())}
    labels = labels or tuple(sorted(classes, key=label_order))
    if not 2 <= len(labels) <= MAX_CLASSES:
        mend = f"arrange the pictures as {_LAYOUT}"
        raise _wrong(path, f"must hold 2 to {MAX_CLASSES} classes", ", ".join(labels), mend)
    shape = shape or _one_size(found)
    train, kept = _dataset(found, path, shape, labels, skip_wrong)
    owners = [found.site_of[at] for at in kept]
    groups = sorted(set(found.site_of) - {""})
    return Source(
        name=NAME,
        train=train,
        test=_dataset(test, path, shape, labels, skip_wrong)[0] if test else None,
        groups=np.array([groups.index(one) for one in owners], np.int64) if groups else None,
        group_names=tuple(groups),
        shape=shape,
        classes=len(labels),
        labels=labels,
        origin="pictures of one's own",
        notes=tuple(_notes(found, labels if answered else ())),
    )


def _notes(found: _Found, labels: tuple[str, ...]) -> Iterator[str]:
    if found.others:
        yield f"{found.others} files are left out: they do not end in .png, .jpg or .jpeg"
    if found.stray:
        yield f"{found.stray} pictures are left out: they lie beside the folders of the classes"
    if empty := [name for name in labels if name not in found.class_of]:
        yield f"no picture is of {', '.join(empty)}"


def survey(
    path: str, target: str = "", *, lenient: bool = False
) -> tuple[int, int, tuple[str, ...]]:
    """Return how many pictures there are, of how many classes, and the sites; none is opened."""
    found, _ = _halves(path, skip_wrong=lenient)
    return len(found.files), len(found.classes), tuple(sorted(set(found.site_of) - {""}))


ENTRY = Entry(
    name=NAME,
    what="your own pictures: a folder for each class, or for each site such folders",
    records=0,
    licence="yours",
    size=0,
    how="give `path`, a folder",
    load=load,
    fetch=nothing_to_fetch(NAME),
    available=lambda: True,
    takes=("path", "shape", "labels", "settled", "skip_wrong", "answered"),
    survey=survey,
    own=True,
)
