"""What is measured and removed, and what stays where it cannot be."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fedlite.deployment import retention
from fedlite.deployment.retention import InUse, days, leftover, remove


def age(path: Path, count: float) -> None:
    then = time.time() - count * 86400
    for entry in (*path.rglob("*"), path):
        os.utime(entry, (then, then), follow_symlinks=False)


def test_the_last_write_anywhere_in_a_folder_counts(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "file").write_text("x")
    age(tmp_path / "a", 9.5)
    assert days(tmp_path / "a") == 9
    os.utime(tmp_path / "a" / "b" / "file")
    assert days(tmp_path / "a") == 0
    assert days(tmp_path / "none") == -1


def test_a_read_only_folder_goes_whole_and_a_link_leads_nowhere(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("precious")
    folder = tmp_path / "bundle"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "link").symlink_to(outside)
    (folder / "sub").chmod(0o555)
    folder.chmod(0o555)
    (tmp_path / "link").symlink_to(outside)
    found = [leftover(folder, "old"), leftover(tmp_path / "link", "old")]
    removed, kept = remove(found)
    assert removed == found and kept == []
    assert [p.name for p in tmp_path.iterdir()] == ["outside"]
    assert (outside / "file").read_text() == "precious"


def test_what_is_in_use_or_has_gone_does_not_stop_the_others(tmp_path: Path) -> None:
    @contextmanager
    def busy() -> Iterator[None]:
        raise InUse("a worker uses it now")
        yield

    for name in "abc":
        (tmp_path / name).write_text(name)
    found = [leftover(tmp_path / "a", "", busy), *(leftover(tmp_path / n, "") for n in "bc")]
    (tmp_path / "b").unlink()
    removed, kept = remove(found)
    assert [one.path.name for one in removed] == ["c"]
    assert kept == [f"{tmp_path / 'a'}: a worker uses it now"] and (tmp_path / "a").exists()


def test_what_an_interrupted_removal_has_left_is_in_no_ones_way(tmp_path: Path) -> None:
    for name in ("a", ".a.gone"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("x")
    remove([leftover(tmp_path / "a", "old")])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("count", [0, -1])
def test_less_than_a_day_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        retention.check_days(count)
