"""Files of one's own: what they import beside them, and that nobody else sees it.

Covers fedlite/registry/closure.py.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from fedlite.registry import closure, digest_of, stamps
from fedlite.registry.own import module_of


def write(folder: Path, **files: str) -> Path:
    """Write modules, `a_b` for a/b.py and `a_` for a/__init__.py, and return the folder."""
    for name, text in files.items():
        parts = [part or "__init__" for part in name.split("_")]
        path = folder.joinpath(*parts).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


FORMS = [
    ("import helper\nWHAT = helper.WHAT\n", ["helper.py"]),
    ("from helper import WHAT\n", ["helper.py"]),
    ("from . import helper\nWHAT = helper.WHAT\n", ["helper.py"]),
    ("from .helper import WHAT\n", ["helper.py"]),
    ("import helper as other\nWHAT = other.WHAT\n", ["helper.py"]),
    ("import parts.deep\nWHAT = parts.deep.WHAT\n", ["parts/deep.py"]),
    ("import parts.deep as d\nWHAT = d.WHAT\n", ["parts/deep.py"]),
    ("from parts import deep\nWHAT = deep.WHAT\n", ["parts/deep.py"]),
    ("from parts.deep import WHAT\n", ["parts/deep.py"]),
    ("import whole\nWHAT = whole.WHAT\n", ["helper.py", "whole/__init__.py", "whole/inner.py"]),
    ("from whole import inner\nWHAT = inner.WHAT\n",
     ["helper.py", "whole/__init__.py", "whole/inner.py"]),
    ("def late():\n    import helper\n    return helper.WHAT\nWHAT = late()\n", ["helper.py"]),
    ("try:\n    import no_such_thing\nexcept ImportError:\n    from helper import WHAT\n",
     ["helper.py"]),
]  # fmt: skip


@pytest.mark.parametrize(("code", "files"), FORMS)
def test_what_lies_beside_is_imported_and_is_foretold_without_running_it(
    tmp_path: Path, code: str, files: list[str]
) -> None:
    write(
        tmp_path,
        mine=code,
        helper="WHAT = 7\n",
        parts_deep="WHAT = 7\n",
        whole_="from .inner import WHAT\n",
        whole_inner="from helper import WHAT\n",
        unused="1 / 0\n",
    )
    path = tmp_path / "mine.py"
    assert closure(path) == tuple(sorted(tmp_path / name for name in ["mine.py", *files]))
    before, places = set(sys.modules), list(sys.path)
    assert module_of(path).WHAT == 7
    # What was run is what was foretold, and no name that anybody else would write was taken.
    added = [sys.modules[name] for name in set(sys.modules) - before]
    files_of = [Path(str(m.__file__)) for m in added if getattr(m, "__file__", None)]
    ran = {path.relative_to(tmp_path).as_posix() for path in files_of}
    assert ran == {"mine.py", *files}
    assert all(name.startswith("fedlite_own_") for name in set(sys.modules) - before)
    assert sys.path == places and "helper" not in sys.modules


def test_two_helpers_of_one_name_never_meet(tmp_path: Path) -> None:
    found = []
    for name in ("a", "b"):
        code = "def what():\n    import helper\n    return helper.WHAT\n"
        folder = write(tmp_path / name, mine=code, helper=f"WHAT = {name!r}\n")
        found.append(module_of(folder / "mine.py"))
    assert [one.what() for one in found] == ["a", "b"]


def test_a_changed_helper_makes_another_module_and_another_digest(tmp_path: Path) -> None:
    path = write(tmp_path, mine="from helper import WHAT\n", helper="WHAT = 1\n") / "mine.py"
    first, was, seen = module_of(path), digest_of(path), stamps(path)
    assert module_of(path) is first
    write(tmp_path, helper="WHAT = 2\n")
    assert module_of(path).WHAT == 2 and first.WHAT == 1
    assert digest_of(path) != was and stamps(path) != seen


def test_the_digest_of_one_file_is_that_of_its_bytes(tmp_path: Path) -> None:
    from hashlib import sha256

    path = write(tmp_path, mine="import os\n") / "mine.py"
    assert digest_of(path) == sha256(b"import os\n").hexdigest()


@pytest.mark.parametrize("name", ["random", "torch", "fedlite", "clients", "numpy"])
def test_what_lies_beside_stands_for_no_library(tmp_path: Path, name: str) -> None:
    code = f"import {name}\nWHERE = {name}.__file__\n"
    path = write(tmp_path, mine=code, **{name: "__file__ = 'taken'\n1 / 0\n"}) / "mine.py"
    assert closure(path) == (path,)
    assert module_of(path).WHERE != "taken"


def test_what_fails_is_run_anew(tmp_path: Path) -> None:
    path = write(tmp_path, mine="import helper\n", helper="1 / 0\n") / "mine.py"
    before = set(sys.modules)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            module_of(path)
    assert set(sys.modules) == before
    write(tmp_path, helper="\n")
    module_of(path)


def test_a_file_that_runs_itself_again_is_told_so(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    again = "from fedlite.registry.own import module_of\nfrom pathlib import Path\n"
    path.write_text(again + f"module_of(Path({str(path)!r}))\n")
    with pytest.raises(ImportError, match=r'if __name__ == "__main__"'):
        module_of(path)


@pytest.mark.parametrize(
    "content", [b"def (", b"\xff\xfe", b"x = '\0'", b"# -*- coding: nonsense -*-\n", b"(" * 5000]
)
def test_what_cannot_be_read_imports_nothing_and_raises_when_it_is_run(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "mine.py"
    path.write_bytes(content)
    assert closure(path) == (path,)
    with pytest.raises((SyntaxError, ValueError, MemoryError)):
        module_of(path)


def test_classes_and_dataclasses_find_their_module(tmp_path: Path) -> None:
    code = (
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "@dataclass(frozen=True)\nclass One:\n    x: int = 3\n"
    )
    found: Any = module_of(write(tmp_path, mine=code) / "mine.py")
    assert found.One().x == 3 and sys.modules[found.One.__module__] is found
