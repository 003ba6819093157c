"""The keys of a scenario's table `[data]`: which records, how they are read, and who holds what."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial

from fedlite.registry import is_own, label
from fedlite.scenario import tabular, texts
from fedlite.scenario.fields import base_setting, code_setting, named, path_setting
from fedlite.settings import anything, at_least, choice, options_of, positive, setting

# The sources of one's own, and which of them are tables; the catalogue's entries say so too.
OWN_TABLES = ("csv", "parquet", "jsonl", "hf")
OWN = (*OWN_TABLES, "npz", "images")
# How fedlite divides records itself, and by which of it no record decides where another goes.
PARTITIONS = ("iid", "dirichlet", "natural", "shards", "quantity", "column", "file")
ALONE = ("iid", "dirichlet", "natural", "quantity", "column")
_SIZES = "([1-9][0-9]*(x[1-9][0-9]*)*)?"
_NAMES = "empty, or names split by commas, each once"


@dataclass(frozen=True)
class Data:
    """Which records, and how they are spread over the sites.

    `partition_column` or `partition_file` says whose each record is, for the partition `column` or
    `file`. `labels` fixes the class numbers of one's own records, so that sites with a file each
    agree on them. A source of one's own without a `path` is at the sites only: the other keys are
    then all that is known of it. How a file's columns are read is said by `columns` to `ranges`;
    the lists in them follow `fedlite.scenario.tabular`. `target_ranges` are the public ranges of
    the numbers that a regression answers, which are mapped to -1..1. `text` to `words` say how
    texts become tokens, and what is done to them before (`fedlite.scenario.texts`).
    """

    name: str = named("digits")
    options: str = options_of("name")
    partition: str = named("iid")
    partition_options: str = options_of("partition")
    alpha: float = positive(0.3)
    shards: int = at_least(2, 1)
    least: int = at_least(1, 1)
    partition_column: str = anything("")
    partition_file: str = path_setting()
    test_fraction: float = setting(
        0.2, "at least 0 and at most 0.5", lambda v: 0 <= v <= 0.5, minimum=0, maximum=0.5
    )
    fold: int = at_least(0, 0)
    path: str = path_setting()
    target: str = anything("")
    scaling: str = choice("site", "site", "none")
    shape: str = setting(
        "",
        "empty, or sizes such as 6x100",
        lambda v: re.fullmatch(_SIZES, v) is not None,
        pattern=f"^{_SIZES}$",
    )
    labels: str = setting(
        "",
        "empty, or two or more names, each once, split by commas",
        tabular.reads(partial(tabular.distinct, least=2)),
    )
    columns: str = setting("", _NAMES, tabular.reads(tabular.distinct))
    drop: str = setting("", _NAMES, tabular.reads(tabular.distinct))
    categories: str = setting(
        "",
        "empty, or columns of text with two or more values each, as in 'sex: f, m; cp: a, b, c'",
        tabular.reads(tabular.categories),
    )
    missing: str = setting("NA", _NAMES, tabular.reads(tabular.distinct))
    dates: str = setting(
        "",
        "empty, or columns split by commas, with their format unless it is ISO 8601, as in "
        "'born, seen: %d/%m/%Y'",
        tabular.reads(tabular.dates),
    )
    ranges: str = setting(
        "",
        "empty, or LOW:HIGH with LOW < HIGH for all columns, for each in turn, or by name, as in "
        "'age 0:120, dose 0:5'",
        tabular.reads(tabular.ranges),
    )
    target_ranges: str = setting(
        "",
        "empty, or LOW:HIGH with LOW < HIGH for all targets, for each in turn, or by name, as in "
        "'price 0:500000'",
        tabular.reads(tabular.ranges),
    )
    text: str = anything("")
    tokenizer: str = base_setting()
    base_sha256: str = setting(
        "",
        "empty, or 64 lower-case hex digits",
        lambda v: re.fullmatch("([0-9a-f]{64})?", v) is not None,
        pattern="^([0-9a-f]{64})?$",
    )
    length: int = at_least(64, 4)
    redact: str = setting(
        "",
        f"empty, or any of {', '.join(texts.KINDS)}, split by commas",
        tabular.reads(texts.kinds),
    )
    redactor: str = code_setting()
    duplicates: str = choice("keep", *texts.DUPLICATES)
    words: str = setting(
        "", "empty, or LOW:HIGH, whole numbers from 1 with LOW <= HIGH", tabular.reads(texts.words)
    )
    perplexity: str = setting(
        "",
        "empty, or LOW:HIGH, numbers from 1 with LOW <= HIGH",
        tabular.reads(texts.perplexity),
    )
    perplexity_base: str = base_setting()

    @property
    def texts(self) -> texts.Texts:
        """How texts become records; without a tokenizer where records are none."""
        return texts.Texts(
            self.text,
            self.tokenizer,
            self.length,
            texts.kinds(self.redact),
            self.redactor,
            self.duplicates,
            texts.words(self.words),
            texts.perplexity(self.perplexity),
            self.perplexity_base or texts.DECODER,
        )

    @property
    def targets(self) -> tuple[str, ...]:
        """The columns that hold numbers to be answered, where the task has such."""
        return tabular.names(self.target)

    @property
    def reading(self) -> tabular.Columns:
        """How a table becomes features."""
        return tabular.Columns(
            tabular.names(self.columns),
            tabular.names(self.drop),
            tabular.categories(self.categories),
            tabular.names(self.missing),
            tabular.dates(self.dates),
            tabular.ranges(self.ranges),
            self.partition_column or tabular.Columns.owner,
            self.division == "natural",
        )

    @property
    def sizes(self) -> tuple[int, ...]:
        """The shape of one record; empty where the source says it."""
        if self.tokenizer:
            return self.texts.shape
        if not self.shape and self.columns:
            return (self.reading.width,)
        return tuple(int(size) for size in self.shape.split("x") if size)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes by their numbers; empty where the source says them."""
        return tabular.names(self.labels)

    @property
    def own(self) -> bool:
        """Whether the records are the user's: nothing about them is public (`Entry.own`)."""
        return self.name in OWN or is_own(self.name)

    @property
    def dataset(self) -> str:
        """What ledgers, policies and files call the data set: its name, without a folder."""
        return label(self.name)

    @property
    def own_table(self) -> bool:
        """Whether the records are rows of a file of the user's, with a column to be answered."""
        return self.name in OWN_TABLES

    @property
    def division(self) -> str:
        """How records are divided: those that a column or a file gives to a site are groups."""
        return "natural" if self.partition in ("column", "file") else self.partition

    @property
    def at_sites(self) -> bool:
        """Whether the records are at the sites only, so that no coordinator can evaluate."""
        return self.name in OWN and not self.path
