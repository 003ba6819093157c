"""The console that every table is printed on."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Any, TextIO, cast

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_ANY_WIDTH = 10_000
_BLANKS = re.compile(r"[ \t]+$", re.MULTILINE)


class _Trimmed:
    """A text stream that writes lines without the blanks at their ends."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return self._stream.write(_BLANKS.sub("", text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def console(file: TextIO | None = None) -> Console:
    """Return a rich console on `file`, standard output unless given.

    Tables fill their lines with blanks. A terminal does not show them; where there is none, in a
    file or a pipe, they are left out.
    """
    from rich.console import Console

    stream = sys.stdout if file is None else file
    shown = Console(file=stream, highlight=False)
    if shown.is_terminal:
        return shown
    return Console(file=cast("TextIO", _Trimmed(stream)), highlight=False)


def print_whole(table: Table) -> None:
    """Print a table with every cell in full, in one line for each row, however narrow the page.

    What people copy (times, keys, ids of runs) is worth nothing when it is cut or folded.
    """
    for column in table.columns:
        column.no_wrap = True
    shown = console()
    widest = shown.options.update_width(_ANY_WIDTH)
    shown.width = max(shown.width, shown.measure(table, options=widest).maximum)
    shown.print(table)
