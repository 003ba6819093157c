"""What people see of an audit.

Covers fedlite/audit/table.py, fedlite/reporting/terminal.py.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fedlite.audit import audit, page as audit_page
from fedlite.audit.table import print_audit
from tests.privacy.federation import Site, World, plan_body, policy_body


def hostile(tmp_path: Path) -> Path:
    site = Site(tmp_path, "[red]<script>alert(1)</script>".replace("/", "|"))
    site.genesis(plan_body(), policy_body())
    site.take_part(1)
    return site.path


def test_a_hostile_name_steers_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = audit([hostile(tmp_path)])
    page = audit_page.build(result)
    assert "<script" not in page and "&lt;script" in page
    print_audit(result)
    assert "[red]<script>" in capsys.readouterr().out.replace("\n", "")


@pytest.mark.parametrize("spoilt", [False, True])
def test_the_page_stands_alone(world: World, spoilt: bool) -> None:
    if spoilt:
        world.copy_of(world.sites[0]).write_bytes(b"")
    page = audit_page.build(audit([world.run]))
    assert page.count("<svg") == (2 if spoilt else 3)
    assert not re.search(r"https?://|src=|href=|<script|@import", page)
    assert ("What to do" in page) == spoilt
    assert "no file can prove that" in page


def test_no_file_of_another_kind_is_overwritten(world: World, tmp_path: Path) -> None:
    result, path = audit([world.run]), tmp_path / "page.html"
    audit_page.write(result, path)
    audit_page.write(result, path)
    path.write_text("<title>fedlite: quickstart</title>")
    with pytest.raises(ValueError, match="never overwritten"):
        audit_page.write(result, path)
    assert path.read_text() == "<title>fedlite: quickstart</title>"
    assert not audit_page.may_write(tmp_path)


def test_what_was_passed_over_is_named(world: World, tmp_path: Path) -> None:
    (world.run / "more").mkdir()
    (world.run / "ledgers" / ".hidden.jsonl").write_text("?")
    (world.root / "elsewhere").symlink_to(tmp_path)
    result = audit([world.root])
    named = {Path(issue.path).name for issue in result.notes if issue.rule == "not-audited"}
    assert {"more", ".hidden.jsonl", "elsewhere"} <= named
