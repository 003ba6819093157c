"""What the sites run, as far as it was seen."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from fedlite.deployment.protocol import Release
from server.releases import note, noted


def test_the_last_that_was_seen_counts(tmp_path: Path) -> None:
    name = "\U0001f3e5" * 64  # 256 bytes, which no file may be called
    assert noted(tmp_path, name) is None
    for release in (Release("0.1.0"), Release("0.2.0", "1-2")):
        note(tmp_path, name, release)
        note(tmp_path, "other", Release("9.0"))
        assert noted(tmp_path, name) == release


def test_a_file_that_cannot_be_read_says_nothing(tmp_path: Path) -> None:
    note(tmp_path, "a", Release("0.1.0"))
    (path,) = (tmp_path / "releases").iterdir()
    for text in ("{", "[]", '{"version": "", "protocol": ""}', '{"version": 1, "protocol": 1}'):
        path.write_text(text)
        assert noted(tmp_path, "a") is None


def test_a_full_disk_ends_no_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "releases").write_text("in the way")
    with caplog.at_level(logging.ERROR):
        note(tmp_path, "a", Release("0.1.0"))
    assert "a: the site's release was not noted" in caplog.text
