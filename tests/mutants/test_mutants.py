"""Every mutant fails every check that is named beside it; the code itself passes them all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from fedlite.guard.guardian import Decline
from tests.mutants import rooms, steps
from tests.mutants.mutants import MUTANTS, Check, Mutant, table

README = Path(__file__).with_name("README.md")


def cases() -> list[Any]:
    """Return each check once."""
    checks: dict[tuple[str, str], Check] = {}
    for one in MUTANTS:
        for check in one.killed_by:
            checks.setdefault((check.name, repr(check.case)), check)
    return [pytest.param(check, id=check.name) for check in checks.values()]


@pytest.fixture(autouse=True)
def _no_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    # Whether a row is flushed is what one check looks at; none needs the disk to be quick.
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.mark.long
@pytest.mark.parametrize("check", cases())
def test_the_code_as_it_is_passes(check: Check, tmp_path: Path) -> None:
    check.run(tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda one: one.name.replace(" ", "-"))
def test_a_mutant_is_killed(
    mutant: Mutant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert mutant.killed_by
    for number, check in enumerate(mutant.killed_by):
        folder = tmp_path / str(number)
        folder.mkdir()
        with monkeypatch.context() as patch:
            mutant.patch(patch)
            # Nothing but a failed check counts: a mutant that cannot run proves nothing.
            with pytest.raises((AssertionError, pytest.fail.Exception, Decline)) as found:
                check.run(folder)
        # What fails within private training, a check too, is told to the server by one code.
        failed = found.value.__cause__ if isinstance(found.value, Decline) else found.value
        assert isinstance(failed, AssertionError | pytest.fail.Exception)
        why = str(failed).strip().splitlines()[0]
        print(f"\n{mutant.name}: killed by {check.name}: {why}", end="")


def test_every_mutant_is_in_the_table_once_and_the_page_has_it() -> None:
    defined = {
        name
        for module in (steps, rooms)
        for name, value in vars(module).items()
        if callable(value)
        and getattr(value, "__module__", "") == module.__name__
        and list(getattr(value, "__annotations__", {})) == ["patch", "return"]
    }
    names = [one.patch.__name__ for one in MUTANTS]
    assert set(names) == defined and len(names) == len(defined)
    page = README.read_text(encoding="utf-8").splitlines()
    # The last column is what `fedlite audit mechanism` says of it, and not of this table.
    assert [line.rsplit("|", 2)[0].rstrip() for line in page if line.startswith("|")] == [
        line.rsplit("|", 1)[0].rstrip() for line in table()
    ]
