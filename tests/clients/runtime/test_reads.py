"""Which columns and which answer an operator is told of before the yes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from clients.runtime import approval
from fedlite.deployment import bundle as bundles
from fedlite.guard import policy_file
from fedlite.guard.policy import DataSet, SitePolicy
from tests.clients.runtime.test_approval import OWN, call, home, made, wait

__all__ = ["home"]


def test_the_columns_that_are_read_and_the_answer_are_told_before_the_yes(home: Path) -> None:
    """Names as the site's own header has them; and no steering of the terminal by a class."""
    (home / "own.csv").write_text(OWN.replace("a,b,", 'age,"b, mg",'))
    given = DataSet("csv", "csv", path="own.csv", target="ill")
    policy_file.write(home / "site.toml", SitePolicy(units=("none",), data=(given,)))
    plan: dict[str, Any] = {"privacy": {"unit": "none"}, "training": {"steps": 0, "epochs": 1}}
    public = {"name": "csv", "shape": "2", "labels": "no, \x1b[2Jyes, maybe", "scaling": "none"}
    digest = wait(home, made(data=public | {"labels": "no, yes"}, **plan))
    code, output = call(home, digest, answer="n")
    before, _, _ = output.partition("May this run here")
    assert code == 1 and re.search(r'reads +"age", "b, mg"\n', before), output
    assert re.search(r'learns +"ill": tells apart "no", "yes"\n', before), output
    code, output = call(home, digest, "--yes", "--json")
    facts = json.loads(output)["facts"]
    assert code == 0 and facts["reads"] == '"age", "b, mg"'
    assert facts["learns"] == '"ill": tells apart "no", "yes"'
    _, output = call(home, wait(home, made(data=public, **plan)), answer="n")
    assert "\x1b" not in output and "maybe" in output
    # The file is not there: only what the plan and site.toml say.
    (home / "own.csv").unlink()
    seen = approval.review(home, bundles.read(made(data=public | {"columns": "age"}, **plan)), {})
    assert dict(seen.facts)["reads"] == '"age"' and "does not load" in seen.warnings[0]
    seen = approval.review(home, bundles.read(made(data=public | {"drop": "id"}, **plan)), {})
    assert dict(seen.facts)["reads"].endswith('whose a record is, and but "id"')
    # Pictures of a catalogue are no table.
    policy_file.write(home / "site.toml", SitePolicy(data=(DataSet("digits", "digits"),)))
    assert "reads" not in dict(approval.review(home, bundles.read(made()), {}).facts)
