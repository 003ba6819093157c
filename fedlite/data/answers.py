"""The columns of a table that hold what is to be answered: labels, or numbers."""

from __future__ import annotations

import math
from array import array
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fedlite.data.cells import FLOAT32_MAX, label, label_order, no_label, number, wrong
from fedlite.data.dataset import Answers, Indices
from fedlite.scenario import NUMERIC
from fedlite.scenario.tabular import Ranges, names

MAX_CLASSES = 1000
NONE = "at least one record is needed"


def in_order(found: dict[str, int], order: list[str], numbers: array[int]) -> Indices:
    """Return the numbers as indices into `order`."""
    place = np.zeros(len(found), np.int64)
    for index, name in enumerate(order):
        place[found[name]] = index
    return place[np.frombuffer(numbers, np.int64)]


@dataclass
class Unread:
    """Answers that nobody looks at: only how many rows there are."""

    targets: tuple[str, ...]
    rows: int = 0

    def __len__(self) -> int:
        """Return how many rows there are."""
        return self.rows

    def read(self, row: list[str], line: int) -> list[float]:
        """Return nothing."""
        return []

    def add(self, answer: list[float]) -> None:
        """Count a row."""
        self.rows += 1


@dataclass
class Labels:
    """One column of labels; `given` fixes them and their order, else the file's own are taken.

    absent: what stands for no value.
    """

    path: str
    header: list[str]
    target: str
    given: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    numbers: array[int] = field(default_factory=lambda: array("q"))
    classes: dict[str, int] = field(default_factory=dict)
    # By a cell's own text.
    _class_of: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Find the column."""
        self.classes = {name: place for place, name in enumerate(self.given)}
        self._at = self.header.index(self.target)

    def __len__(self) -> int:
        """Return how many rows there are."""
        return len(self.numbers)

    @property
    def targets(self) -> tuple[str, ...]:
        """The column."""
        return (self.target,)

    def read(self, row: list[str], line: int) -> list[float]:
        """Return the number of a row's label, in the order in which labels were first seen."""
        text = row[self._at]
        known = self._class_of.get(text)
        if known is not None:
            return [known]
        name = label(text.strip())
        if name not in self.classes:
            if why := no_label("" if text.strip() in self.absent else text.strip()):
                raise wrong(self.path, line, self.target, why[0], text.strip()[:80], why[1])
            if self.given:
                rule = f"the label must be one of {', '.join(self.given)}"
                mend = "correct it or extend `labels`"
                raise wrong(self.path, line, self.target, rule, name[:80], mend)
        found = self.classes.setdefault(name, len(self.classes))
        self._class_of[text] = found
        return [found]

    def add(self, answer: list[float]) -> None:
        """Keep a label's number."""
        self.numbers.append(int(answer[0]))

    def order(self) -> list[str]:
        """Return the classes by their numbers; raises ValueError where they are none."""
        if self.given:
            return list(self.given)
        if not self.classes:
            raise wrong(self.path, 2, self.target, NONE, 0, "add rows")
        present = sorted(self.classes, key=label_order)
        if not 2 <= len(present) <= MAX_CLASSES:
            rule = f"the labels must form 2 to {MAX_CLASSES} classes"
            shown = present[0] if len(present) == 1 else len(present)
            mend = "add records, or choose another target; a language model needs none"
            raise wrong(self.path, 2, self.target, rule, shown, mend)
        return present

    def y(self) -> Indices:
        """Return the class of each row, int64 [n]."""
        return in_order(self.classes, self.order(), self.numbers)


def limits_of(targets: tuple[str, ...], ranges: Ranges) -> NDArray[np.float64] | None:
    """Return what the targets -1 and 1 stand for by public ranges, float64 [2, width].

    None where no range is given. Raises ValueError where they do not fit the targets.

    >>> limits_of(("price", "rent"), (("rent", 0.0, 9.0), ("price", 1.0, 2.0))).tolist()
    [[1.0, 0.0], [2.0, 9.0]]
    """
    named = {name: (low, high) for name, low, high in ranges if name}
    if not ranges:
        return None
    if (named and set(named) != set(targets)) or (
        not named and len(ranges) not in (1, len(targets))
    ):
        raise ValueError(
            "data.target_ranges must be one for all targets, or one for each; name them, as in "
            f"`{targets[0]} 0:120`"
        )
    limits = [named.get(name) or ranges[at % len(ranges)][1:] for at, name in enumerate(targets)]
    return np.array(limits, np.float64).T


@dataclass
class Numbers:
    """Columns of numbers; `binary`: each is 0 or 1. ranges: public ones, as `tabular.ranges`.

    absent: what stands for no value.
    """

    path: str
    header: list[str]
    targets: tuple[str, ...]
    binary: bool = False
    ranges: Ranges = ()
    absent: tuple[str, ...] = ()
    values: array[float] = field(default_factory=lambda: array("d"))

    def __post_init__(self) -> None:
        """Find the columns."""
        self._at = [self.header.index(name) for name in self.targets]

    def __len__(self) -> int:
        """Return how many rows there are."""
        return len(self.values) // len(self._at)

    def read(self, row: list[str], line: int) -> list[float]:
        """Return a row's targets."""
        found = []
        for name, at in zip(self.targets, self._at, strict=True):
            if row[at].strip() in self.absent:
                rule, mend = "a target must be present", "drop the row, or see data.missing"
                raise wrong(self.path, line, name, rule, row[at].strip(), mend)
            value = number(row[at].strip())
            if value is None or not math.isfinite(value) or abs(value) > FLOAT32_MAX:
                rule, mend = "a target must be a finite number", "correct the cell, or drop the row"
                raise wrong(self.path, line, name, rule, row[at].strip(), mend)
            if self.binary and value not in (0.0, 1.0):
                rule, mend = "a label of several must be 0 or 1", "correct it, or choose regression"
                raise wrong(self.path, line, name, rule, row[at].strip(), mend)
            found.append(value)
        return found

    def add(self, answer: list[float]) -> None:
        """Keep a row's targets."""
        self.values.extend(answer)

    def y(self) -> tuple[Answers, NDArray[np.float64] | None, list[str]]:
        """Return the targets, float32 [n, width], what -1 and 1 stand for, and what to say of it.

        Without public ranges -1 and 1 are two standard deviations from the mean of the rows here.
        """
        raw = np.frombuffer(self.values, np.float64).reshape(-1, len(self.targets))
        if self.binary:
            return raw.astype(np.float32), None, []
        scale, said = self._given(), []
        if scale is None:
            scale = self._found(raw)
            limits = zip(self.targets, *scale, strict=True)
            told = ", ".join(f"{name} {low:.15g}:{high:.15g}" for name, low, high in limits)
            said.append(
                "targets are learnt in units of these rows; "
                f"data.target_ranges = {told!r} fixes them"
            )
        low, high = scale
        return ((raw - low) * (2 / (high - low)) - 1).astype(np.float32), scale, said

    def _given(self) -> NDArray[np.float64] | None:
        try:
            return limits_of(self.targets, self.ranges)
        except ValueError as error:
            rule, _, mend = str(error).partition("; ")
            raise wrong(self.path, 1, self.targets[0], rule, "", mend) from None

    def _found(self, raw: NDArray[np.float64]) -> NDArray[np.float64]:
        if not len(raw):
            raise wrong(self.path, 2, self.targets[0], NONE, 0, "add rows")
        middle, spread = raw.mean(axis=0), 2 * raw.std(axis=0)
        for name, width, value in zip(self.targets, spread, middle, strict=True):
            if not width > 1e-12 * abs(value):
                rule, mend = "a target must have two values at least", "choose another target"
                raise wrong(self.path, 2, name, rule, float(value), mend)
        # Three digits: it is a unit, and is written into a scenario by hand. More of numbers that
        # are far from 0 and near to each other, which would else become one.
        ends = np.array([middle - spread, middle + spread])
        digits = 3 + np.maximum(0, np.log10(np.abs(ends).max(axis=0) / spread)).astype(int)
        return np.array(
            [[float(f"{v:.{n}g}") for v, n in zip(row, digits, strict=True)] for row in ends]
        )


Read = Labels | Numbers | Unread
"""What has been read of the answers so far, row by row."""


def asked_of(target: str, task: str) -> tuple[str, ...]:
    """Return the columns that hold what is to be answered."""
    return names(target) if task in NUMERIC else (target,)


def given_labels(labels: tuple[str, ...], *, answered: bool) -> tuple[str, ...]:
    """Return the labels as they are compared; raises ValueError unless two or more are distinct."""
    given = tuple(label(name) for name in labels)
    if answered and labels and (len(labels) < 2 or len(set(given)) < len(labels)):
        raise ValueError(
            f"labels: must name at least two classes, each once, got {labels}; correct the list"
        )
    return given


def begin(
    path: str,
    header: list[str],
    target: str,
    task: str,
    given: tuple[str, ...],
    ranges: Ranges,
    missing: tuple[str, ...],
    *,
    answered: bool,
) -> Read:
    """Return what reads the answers of a file's rows; see `load_table` for the arguments."""
    if not answered:
        return Unread(())
    if task in NUMERIC:
        return Numbers(path, header, asked_of(target, task), task == "multilabel", ranges, missing)
    return Labels(path, header, target, given, missing)


def finish(
    read: Read, labels: tuple[str, ...]
) -> tuple[Answers, tuple[str, ...], NDArray[np.float64] | None, list[str]]:
    """Return the answers, their names, what -1 and 1 stand for, and what there is to say."""
    if isinstance(read, Labels):
        order = tuple(read.order())
        return read.y(), labels or order, None, []
    if isinstance(read, Unread):
        return np.zeros(len(read), np.int64), labels, None, []
    y, scale, said = read.y()
    return y, read.targets, scale, said
