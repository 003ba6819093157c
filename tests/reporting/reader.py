"""A reader of pages, for the tests of what stands on them."""

from __future__ import annotations

import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

VOID = {"meta", "img", "br"}
Make = Callable[..., Any]


class Reader(HTMLParser):
    """Checks that tags balance and collects the text outside the style sheet."""

    def __init__(self) -> None:
        """Start with nothing open."""
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a tag, and open it unless it has no end."""
        self.seen.add(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """Close the innermost tag, which must be this one."""
        assert self.open and self.open.pop() == tag, tag

    def handle_data(self, data: str) -> None:
        """Collect what a reader sees."""
        if "style" not in self.open:
            self.texts.append(data)


def read(page: Path) -> tuple[str, Reader]:
    reader = Reader()
    reader.feed(page.read_text(encoding="utf-8"))
    reader.close()
    assert reader.open == []
    return re.sub(r"\s+", " ", " ".join(reader.texts)), reader
