"""Progress in a notebook: one line that changes, in place of many."""

from __future__ import annotations

import sys
from collections.abc import Callable


def in_notebook() -> bool:
    """Return whether this process is the kernel of a notebook; imports nothing to find out."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return shell is not None and "IPKernelApp" in getattr(shell, "config", {})


def changing_line() -> Callable[[str], None]:
    """Return what shows a line in the output of the running cell, in place of the one before."""
    from IPython.display import display

    shown = display({"text/plain": ""}, raw=True, display_id=True)

    def show(line: str) -> None:
        shown.update({"text/plain": line}, raw=True)

    return show
