"""The rules of a ledger themselves, and what the room needs."""

from __future__ import annotations

import copy
import re
import subprocess
import sys
from pathlib import Path

from fedlite.privacy import ledger as module
from fedlite.privacy.ledger import (
    RULES,
    LedgerBusy,
    LedgerError,
)


def test_every_rule_is_used_and_explained_in_a_sentence() -> None:
    folder = Path(module.__file__).parent
    names = ("bodies", "chain", "files", "ledger", "lock", "rows")
    source = "".join((folder / f"{name}.py").read_text() for name in names)
    words = set(re.findall(r'"([a-z]+(?:-[a-z]+)*)"', source))
    for rule, sentence in RULES.items():
        assert re.fullmatch(r"[a-z]+(-[a-z]+)*", rule) and rule in words
        assert sentence[0].isupper() and sentence.endswith(".") and "\n" not in sentence
    raised = re.findall(r'(?:Error|Busy|Poisoned|_Bad|Finding)\(\s*"([a-z-]+)"', source)
    assert len(raised) > 40 and set(raised) <= set(RULES)


def test_errors_survive_another_process() -> None:
    # A copy is made by the same protocol as the message to another process.
    for kind in (LedgerError, LedgerBusy, module.LedgerPoisoned):
        error = copy.copy(kind("hash", "text", 3, "a.jsonl"))
        assert type(error) is kind and isinstance(error, ValueError)
        assert str(error) == "a.jsonl: row 3: hash: text" and error.row == 3


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys, fedlite.privacy.ledger, fedlite.identity.keys\n"
        "print({'torch', 'flwr', 'dp_accounting', 'numpy', 'scipy'} & set(sys.modules))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "set()"
