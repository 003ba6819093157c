from __future__ import annotations

from fedlite.guard import code as digest


def test_the_code_digest_covers_the_library_and_the_app() -> None:
    names = [name for name, _ in digest.sources()]
    assert "fedlite/privacy/dpsgd.py" in names and "clients/site.py" in names
    assert len(names) == len(set(names)) and not any("app/" in name for name in names)
    assert len(digest.code_digest()) == 64
