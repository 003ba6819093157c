"""One process works from a site's folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from clients.runtime import lock


def test_the_folder_is_held_until_the_first_lets_go(tmp_path: Path) -> None:
    with lock.hold(tmp_path), pytest.raises(lock.Held, match="stop that one first"):
        lock.hold(tmp_path)
    lock.hold(tmp_path).close()
