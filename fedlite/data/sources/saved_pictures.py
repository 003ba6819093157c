"""A data set of the Hugging Face library whose records are pictures."""

from __future__ import annotations

import io
import logging
import math
from array import array
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlite.data.answers import Labels, in_order
from fedlite.data.cells import SITE_COLUMN, counted_in, in_unit, owner, wrong
from fedlite.data.dataset import Dataset, Source
from fedlite.data.pixels import pixels
from fedlite.data.rows import check_memory
from fedlite.data.sources.arrow import text
from fedlite.data.sources.saved import NAME, TABLE, Saved, parts, read
from fedlite.scenario.tabular import Columns
from fedlite.scenario.texts import Texts

log = logging.getLogger("fedlite.site")


def load(
    saved: Saved,
    column: str,
    target: str,
    *,
    whose: str,
    shape: tuple[int, ...],
    labels: tuple[str, ...],
    skip_wrong: bool,
) -> Source:
    """Return the pictures in a column, float32 [n, *shape] from 0 to 1, shape CxHxW, C 1 or 3.

    target: the column of the classes; whose: that of the sites, if there is one. Raises ValueError
    naming file, row, column, rule, value and mend; with skip_wrong such a row counts as absent.
    """
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise ValueError(
            f"data.shape: must be CxHxW for pictures, C 1 (grey) or 3 (colour), got {shape} with "
            f"data.name {NAME!r}; 1x28x28 for example"
        )
    with counted_in("row"):
        x, answers, owners, sites = _records(
            saved, column, target, whose, shape, labels, skip_wrong
        )
        called = labels or saved.labels.get(target) or tuple(answers.order())
    groups = sorted(sites)
    test = None
    if isinstance(saved.test, Saved):
        test = load(
            *(saved.test, column, target),
            whose="",
            shape=shape,
            labels=called,
            skip_wrong=skip_wrong,
        ).train
    return Source(
        name=NAME,
        train=Dataset(x, answers.y()),
        test=test,
        groups=in_order(sites, groups, owners) if whose in saved.header else None,
        group_names=tuple(groups),
        shape=shape,
        classes=len(called),
        labels=called,
        origin="pictures of one's own",
    )


def _records(
    saved: Saved,
    column: str,
    target: str,
    whose: str,
    shape: tuple[int, ...],
    labels: tuple[str, ...],
    skip_wrong: bool,
) -> tuple[NDArray[np.float32], Labels, array[int], dict[str, int]]:
    """Return pictures, classes, and the number of each one's site."""
    if target not in saved.header:
        rule, mend = "the label column `target` must be in the data set", "set `target`"
        raise wrong(saved.path, 1, target, rule, saved.header, mend)
    answers = Labels(saved.path, [target], target, labels or saved.labels.get(target, ()))
    wanted = [column, target, *([whose] if whose in saved.header else [])]
    found: list[NDArray[np.float32]] = []
    sites: dict[str, int] = {}
    owners: array[int] = array("q")
    line = 1
    for batch in saved.batches(wanted, checked=False):
        total = (len(found) + len(batch)) * math.prod(shape)
        check_memory(saved.path, total // 2, f"{len(found) + len(batch):,} pictures of {shape}")
        for record in batch.to_pylist():
            line += 1
            try:
                picture = _picture(saved.path, record[column], line, column, shape)
                cells = [text(record[name], saved.labels.get(name)) for name in wanted[1:]]
                answer = answers.read(cells[:1], line)
                site = owner(cells[1].strip(), saved.path, line, whose) if cells[1:] else ""
            except ValueError as error:
                if not skip_wrong:
                    raise
                log.warning("a picture counts as absent: %s", in_unit(error, "row"))
                continue
            answers.add(answer)
            owners.append(sites.setdefault(site, len(sites)) if site else 0)
            found.append(picture)
    x = np.stack(found) if found else np.empty((0, *shape), np.float32)
    return x, answers, owners, sites


def _picture(
    path: str, value: Any, line: int, column: str, shape: tuple[int, ...]
) -> NDArray[np.float32]:
    content = value.get("bytes") if isinstance(value, dict) else None
    if not isinstance(content, bytes):
        # A path beside it leads elsewhere, and is not followed.
        rule, mend = "a picture must be in the data set", "save it with embedded pictures"
        raise wrong(path, line, column, rule, "none", mend)
    try:
        return pixels(io.BytesIO(content), shape)
    except ValueError as error:
        rule = "a picture must be a PNG or JPEG that is whole and not huge"
        raise wrong(path, line, column, rule, str(error), "replace it") from None


def _column(saved: Saved, target: str, columns: Columns) -> str:
    """Return the column of pictures that is asked for; "" where the data set is a table."""
    others = {target, SITE_COLUMN, columns.owner, *columns.drop}
    names = columns.names or tuple(name for name in saved.header if name not in others)
    about = saved.features.get(names[0]) if len(names) == 1 else None
    return names[0] if isinstance(about, dict) and about.get("_type") == "Image" else ""


def _load(
    path: str = "",
    *,
    target: str = "",
    shape: tuple[int, ...] = (),
    labels: tuple[str, ...] = (),
    columns: Columns = Columns(),  # noqa: B008 - frozen
    skip_wrong: bool = False,
    **more: Any,
) -> Source:
    texts = more.get("texts", Texts())
    saved = read(path, columns, (), True) if path and not texts.tokenizer else None
    if saved is not None and (column := _column(saved, target, columns)):
        whose = columns.owner
        source = load(
            saved, column, target, whose=whose, shape=shape, labels=labels, skip_wrong=skip_wrong
        )
    else:
        more |= {"target": target, "shape": shape, "labels": labels, "columns": columns}
        source = TABLE.load(path=path, skip_wrong=skip_wrong, **more)
    if left := [str(name) for name in parts(path) or () if name not in ("train", "test")]:
        note = f"of the data set's parts, train and test are read, and not {', '.join(left)}"
        source = replace(source, notes=(*source.notes, note))
    return source


ENTRY = replace(TABLE, load=_load)
