"""Whose each record is, as a file of one's own says: `data.partition_file`."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from fedlite.data.cells import SITE_NAME
from fedlite.data.dataset import Source
from fedlite.data.hints import near_name

_KEY = "data.partition_file"
_LARGEST = 1 << 28
_FORMS = 'a CSV with the header record,site, or JSON: {"north": [0, 2], ...} or ["north", ...]'


def by_file(source: Source, path: str) -> Source:
    """Return the source with the groups that a file gives to its records, numbered from 0.

    The file is a CSV with the columns `record` and `site`, or JSON: an object from a site to its
    records, or a list of the records' sites. Every record stands in it once.

    Raises ValueError naming the file, the line or record, the rule, the value and the mend.
    """
    owners: dict[int, str] = {}
    for place, record, site in _pairs(path):
        if not isinstance(record, int) or not 0 <= record < len(source.train):
            rule = f"a record must be a whole number from 0 to {len(source.train) - 1}"
            raise _wrong(path, place, rule, record, f"{source.name} has no other")
        if not isinstance(site, str) or not SITE_NAME.fullmatch(site):
            rule = "a site's name must be 1-64 of A-Z a-z 0-9 . _ - and begin with no sign"
            raise _wrong(path, place, rule, site, f"write {near_name(str(site))!r} for example")
        if record in owners:
            raise _wrong(path, place, "a record must stand in it once", record, "take one away")
        owners[record] = site
    if len(owners) < len(source.train):
        missing = next(number for number in range(len(source.train)) if number not in owners)
        rule = f"each of the {len(source.train)} records of {source.name} must stand in it"
        raise _wrong(path, "", rule, f"none for record {missing}", "add it")
    names = sorted(set(owners.values()))
    place_of = {name: at for at, name in enumerate(names)}
    groups = np.array([place_of[owners[record]] for record in range(len(owners))], np.int64)
    return replace(source, groups=groups, group_names=tuple(names))


def _pairs(path: str) -> Iterator[tuple[str, Any, Any]]:
    """Yield a place in the file, a record and its site, as they stand there."""
    text = _text(path)
    if text.lstrip()[:1] not in ("{", "["):
        yield from _lines(path, text)
        return
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _wrong(path, "", f"must be {_FORMS}", error, "correct it") from None
    if isinstance(found, list):
        yield from ((f"record {number}", number, site) for number, site in enumerate(found))
        return
    for site, records in found.items():
        if not isinstance(records, list):
            raise _wrong(path, site, "a site must have a list of records", records, "write [...]")
        for record in records:
            # True is a number to Python.
            yield f"site {site}", None if isinstance(record, bool) else record, site


def _lines(path: str, text: str) -> Iterator[tuple[str, Any, Any]]:
    rows = csv.reader(text.splitlines())
    header = [name.strip().lower() for name in next(rows, [])]
    if header != ["record", "site"]:
        raise _wrong(path, "line 1", f"must be {_FORMS}", header, "correct the header")
    for line, row in enumerate(rows, 2):
        if not row:
            continue
        if len(row) != 2:
            rule = "a line must have a record and its site"
            raise _wrong(path, f"line {line}", rule, row, "correct it")
        number = row[0].strip()
        whole = number.isascii() and number.isdigit() and len(number) < 16
        yield f"line {line}", int(number) if whole else number, row[1].strip()


def _text(path: str) -> str:
    try:
        with Path(path).expanduser().open("rb") as file:
            content = file.read(_LARGEST + 1)
        if len(content) > _LARGEST:
            raise _wrong(path, "", f"must have at most {_LARGEST} bytes", "more", "shorten it")
        return content.decode("utf-8-sig")
    except OSError as error:
        told = error.strerror or error
        raise _wrong(path, "", "must be a file that can be read", told, "correct it") from error
    except UnicodeDecodeError as error:
        raise _wrong(path, "", "must be UTF-8", error.reason, "save it so") from error


def _wrong(path: str, place: str, rule: str, got: object, mend: str) -> ValueError:
    shown = got if isinstance(got, Exception) else f"{got!r:.80}"
    return ValueError(f"{_KEY}: {path}{', ' * bool(place)}{place}: {rule}, got {shown}; {mend}")
