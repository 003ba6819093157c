"""A file of one's own whose records are texts: a column of it, whatever file its rows come from."""

from __future__ import annotations

import logging
import unicodedata
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fedlite.data.answers import Read, asked_of, begin, finish, given_labels, in_order
from fedlite.data.cells import counted_in, in_unit, owner, wrong
from fedlite.data.dataset import Indices, Source
from fedlite.data.header import choose
from fedlite.data.hints import differs_in_case
from fedlite.data.room import available_memory
from fedlite.data.rows import Opener, Reader
from fedlite.data.text.reading import records
from fedlite.scenario import NUMERIC
from fedlite.scenario.tabular import Columns, Ranges
from fedlite.scenario.texts import LANGUAGE, NLL, Texts

log = logging.getLogger("fedlite.site")

# Rows that do not fit and are named one by one in the log.
_NAMED = 20
# Of a longer one a tokenizer makes more than a machine holds, to cut it all but its beginning.
_MOST_LETTERS = 1_000_000
_UNSEEN = ("Cc", "Cf", "Zs", "Zl", "Zp")


def load_texts(
    open_: Opener,
    name: str,
    path: str,
    *,
    texts: Texts,
    target: str,
    labels: tuple[str, ...] = (),
    columns: Columns = Columns(),  # noqa: B008 - frozen
    task: str = "classification",
    target_ranges: Ranges = (),
    settled: bool = False,
    skip_wrong: bool = False,
    answered: bool = True,
    **_: Any,
) -> Source:
    """Return the texts of a file, a row each, as the source `name`; `open_` reads its rows.

    A record is int64 [2, texts.length] (`fedlite.data.text.reading.records`). Answers, owners and
    the other arguments are those of `load_table`; with the task `causal-lm` a text is its own
    answer. What is said of the texts together, as how many were cut, is in the source's `notes`,
    which go no further than the records.

    Raises ValueError naming file, row, column, rule, value and mend, and never the text itself.
    """
    targets = asked_of(target, task) if answered and task != LANGUAGE else ()
    alone = replace(columns, names=(texts.column,))
    reader = open_(path, alone, targets, settled or skip_wrong)
    if task not in NUMERIC:
        labels = labels or reader.labels.get(target, ())
    given = given_labels(labels, answered=bool(targets))

    def read(one: Reader, given: tuple[str, ...], ranges: Ranges) -> _Found:
        with counted_in(one.unit):
            _check(one, texts.column)
            choose(one.header, path, targets, alone, settled=True)
            answers = begin(
                path,
                one.header,
                target,
                task,
                given,
                ranges,
                columns.missing,
                answered=bool(targets),
            )
            return _Found.of(one, texts.column, answers, columns.owner, skip_wrong=skip_wrong)

    found = read(reader, given, target_ranges)
    with counted_in(reader.unit):
        y, called, scale, told = finish(found.answers, labels)
    called = (NLL,) if task == LANGUAGE else called
    groups = found.groups()
    made = records(
        found.texts, y, texts, owners=groups, task=task, where=path, skip_wrong=skip_wrong
    )
    if found.texts and not len(made.data) and not skip_wrong:
        raise ValueError(
            f"{path}: must hold a text that stays, and none does: {'; '.join(made.notes)}; widen "
            "data.words or data.perplexity, or name another file"
        )
    test = None
    if reader.test is not None and (targets or task == LANGUAGE):
        learnt = () if scale is None else tuple(zip(targets, *scale.tolist(), strict=True))
        more = read(reader.test, called if task not in NUMERIC else (), learnt)
        # A test text that training has, too, is asked for all the same: it is not ours to choose.
        whole = replace(texts, duplicates="keep")
        test = records(more.texts, finish(more.answers, called)[0], whole, task=task).data
    return Source(
        name=name,
        train=made.data,
        test=test,
        groups=None if groups is None else groups[made.kept],
        group_names=tuple(sorted(found.sites)) if found.owned else (),
        shape=texts.shape,
        classes=len(called),
        labels=called,
        # Neither its path nor its digest, as of a table.
        origin="texts of one's own",
        notes=(*made.notes, *told),
        scale=scale,
    )


@dataclass
class _Found:
    """What has been read of a file: texts, answers, and the number of each one's site."""

    answers: Read
    owned: bool
    texts: list[str]
    sites: dict[str, int]
    owners: array[int]
    letters: int = 0

    @classmethod
    def of(
        cls, reader: Reader, column: str, answers: Read, whose: str, *, skip_wrong: bool
    ) -> _Found:
        """Read all rows; with skip_wrong those that do not fit count as absent."""
        found = cls(answers, whose in reader.header, [], {}, array("q"))
        # What is cut or left out is held until then, more than once, and up to 4 bytes a letter.
        skipped, most = 0, available_memory() // 16
        for row in found._rows(reader, column, whose):
            if found.letters > most:
                raise ValueError(
                    f"{reader.path}: must have at most {most:,} characters of text (rule: it has "
                    "to fit into the memory that is available), has more; split the file, or end "
                    "other programs"
                )
            if row is None:
                continue
            if not skip_wrong:
                raise row
            skipped += 1
            if skipped <= _NAMED:
                log.warning("a row counts as absent: %s", in_unit(row, reader.unit))
        if skipped > _NAMED:
            log.warning("%s: %d rows count as absent in all", reader.path, skipped)
        return found

    def _rows(self, reader: Reader, column: str, whose: str) -> Iterator[ValueError | None]:
        """Add row after row; yield what is wrong with one, None where nothing is."""
        at = reader.header.index(column)
        place = reader.header.index(whose) if self.owned else -1
        targets = getattr(self.answers, "targets", ())
        for line, row, _ in reader.rows({column, whose, *targets}):
            try:
                if isinstance(row, ValueError):
                    raise row
                text = check_text(row[at], reader.path, line, column)
                answer = self.answers.read(row, line)
                site = owner(row[place].strip(), reader.path, line, whose) if self.owned else ""
            except ValueError as error:
                yield error
                continue
            self.owners.append(self.sites.setdefault(site, len(self.sites)))
            self.answers.add(answer)
            self.texts.append(text)
            self.letters += len(text)
            yield None

    def groups(self) -> Indices | None:
        """Return the place of each text's site among their sorted names; None without a column."""
        if not self.owned:
            return None
        if not self.texts:
            return np.zeros(0, np.int64)
        return in_order(self.sites, sorted(self.sites), self.owners)


def read_column(reader: Reader, column: str) -> list[str]:
    """Return the texts of a column, a row each, as `load_texts` reads them.

    Raises ValueError naming file, row, column, rule, value and mend.
    """
    _check(reader, column)
    at, found = reader.header.index(column), []
    for line, row, _ in reader.rows({column}):
        if isinstance(row, ValueError):
            raise row
        found.append(check_text(row[at], reader.path, line, column))
    return found


def _check(reader: Reader, column: str) -> None:
    if column in reader.header:
        return
    close = differs_in_case(column, reader.header)
    mend = f"did you mean {close!r}?" if close else "name one of these"
    raise wrong(reader.path, 1, column, "data.text must be in the header", reader.header, mend)


def check_text(cell: str, path: str, line: int, column: str) -> str:
    """Return a text without blanks around it.

    Raises ValueError, which tells where it stands, for an empty one, half a character, and one that
    is longer than any is read.
    """
    text = cell.strip()
    if len(text) > _MOST_LETTERS:
        rule = f"a text must have at most {_MOST_LETTERS:,} characters"
        raise wrong(path, line, column, rule, f"{len(text):,}", "cut it, or drop the row")
    # What no screen shows is no text, and of some tokenizers no token.
    if all(unicodedata.category(one) in _UNSEEN for one in text):
        raise wrong(
            path, line, column, "a text must not be empty", "nothing", "fill it in, or drop the row"
        )
    try:
        text.encode()
    except UnicodeEncodeError:
        rule = "a text must be Unicode"
        raise wrong(path, line, column, rule, "half a character", "save it as UTF-8") from None
    return text
