"""Every rule of the audit is explained, and every explanation used."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from fedlite.audit import rules as audit_rules
from fedlite.privacy.budget import account
from fedlite.privacy.ledger import rules

MODULES = sorted(Path(audit_rules.__file__).parent.glob("*.py"))


def rule_words() -> set[str]:
    """Return every rule that the audit's own code names."""
    words = set()
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and node.args:
                name = getattr(node.func, "id", getattr(node.func, "attr", ""))
                first = node.args[0]
                if name in ("Issue", "issue", "_Wrong") and isinstance(first, ast.Constant):
                    words.add(first.value)
    return words


def test_every_rule_is_explained_and_every_explanation_used() -> None:
    words = rule_words()
    assert len(words) > 25
    known = set(audit_rules.AUDIT_RULES) | set(rules.RULES)
    # Those of accounts are explained, too, and looked at below.
    assert words - known <= {"plan-terms"}
    refused = {rule for rule in audit_rules.AUDIT_RULES if rule.startswith("refused-")}
    assert set(audit_rules.AUDIT_RULES) - refused <= words


def test_every_rule_of_accounts_is_explained() -> None:
    source = Path(account.__file__).read_text(encoding="utf-8")
    words = set(re.findall(r"_wrong\(\s*row,\s*\"([a-z-]+)\"", source))
    assert len(words) > 12
    for word in words - {"plan-above-ceiling"}:
        assert audit_rules.means(word) != audit_rules.means("no such rule"), word
