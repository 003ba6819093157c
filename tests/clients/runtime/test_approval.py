"""What an operator sees before he lets code run.

Covers fedlite/commands/approval.py, clients/runtime/left.py, clients/runtime/difference.py,
clients/runtime/foreign.py, clients/runtime/planned.py, clients/runtime/sizes.py.
"""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from clients.runtime import approval, gate, left
from fedlite.commands.approval import approve as command
from fedlite.compression.frame import HEADER_BYTES
from fedlite.deployment import bundle as bundles, journal
from fedlite.guard import guardian, policy, policy_file
from fedlite.guard.policy import DataSet, Limits, SitePolicy
from fedlite.messages import Instruction, LedgerHead, Reply, site_id
from fedlite.plan import compressor
from fedlite.privacy.budget import Account
from fedlite.privacy.budget.outlook import Outlook
from fedlite.privacy.ledger import read
from fedlite.rooms import app_root
from fedlite.scenario import from_dict
from tests.clients.deployed import open_deployed_site

CODE = (app_root() / "clients" / "state.py").read_bytes()
app = typer.Typer()
app.command()(command)


def made(more: dict[str, bytes] | None = None, **tables: dict[str, Any]) -> bytes:
    import tomli_w

    plan: dict[str, Any] = {
        "federation": {"name": "heart", "rounds": 5},
        "privacy": {"unit": "record", "epsilon": 2.0, "expected_batch": 20},
        "training": {"steps": 1},
    }
    for name, table in tables.items():
        plan[name] = plan.get(name, {}) | table
    config = from_dict(plan).to_dict()
    components = {"serverapp": "server.app:app", "clientapp": "clients.app:app"}
    project = {"tool": {"flwr": {"app": {"components": components, "config": config}}}}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("pyproject.toml", tomli_w.dumps(project))
        for name, data in {"clients/state.py": CODE, **(more or {})}.items():
            archive.writestr(name, data)
    return buffer.getvalue()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    policy_file.write(tmp_path / "site.toml", SitePolicy(data=(DataSet("digits", "digits"),)))
    return tmp_path


def wait(home: Path, content: bytes) -> str:
    digest = bundles.digest(content)
    folder = home / "bundles" / "waiting"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{digest}.fab").write_bytes(content)
    return digest


def call(*words: object, answer: str = "") -> tuple[int, str]:
    done = CliRunner().invoke(app, [str(word) for word in words], input=answer)
    return done.exit_code, done.output


def test_an_approval_lets_exactly_this_bundle_run(home: Path) -> None:
    content = made()
    digest = wait(home, content)
    code, output = call(home, digest[:8], "--at-most", "federation.rounds=9", answer="y\n")
    assert code == 0, output
    for part in (digest, "1 files are those installed here, 0 are not", "20,640 parameters",
                 "epsilon 2 at delta 1e-05", "9, with 5 of 5 sites", "bytes a round"):  # fmt: skip
        assert part in output, part
    held = policy.load(home / "site.toml")
    (approved,) = held.bundles
    assert approved.name == "heart" and approved.settings == bundles.read(content).settings
    gate.check(held, content, {"run.id": "0" * 16, "federation.rounds": 9})
    assert (home / "bundles" / digest / "clients/state.py").read_bytes() == CODE
    assert approval.waiting(home) == []
    (line,) = journal.read(home / "audit")
    assert (line["action"], line["bundle"]) == ("approve", digest)
    with pytest.raises(gate.NotApproved):
        gate.check(held, content, {"federation.rounds": 10})

    code, output = call(home, "--revoke", digest[:10])
    assert code == 0 and not (home / "bundles" / digest).exists()
    with pytest.raises(gate.NotApproved):
        gate.check(policy.load(home / "site.toml"), content, {})
    assert journal.read(home / "audit")[-1]["action"] == "revoke"
    assert call(home, "--revoke", digest[:10])[0] == 2


def test_a_no_changes_nothing_and_is_written_down(home: Path) -> None:
    digest, before = wait(home, made()), (home / "site.toml").read_bytes()
    code, output = call(home, digest, answer="n\n")
    assert code == 1 and "the operator said no" in output
    assert (home / "site.toml").read_bytes() == before
    assert not (home / "bundles" / digest).exists() and len(approval.waiting(home)) == 1
    assert journal.read(home / "audit")[-1]["action"] == "refuse"


def test_other_code_than_the_installed_is_named_and_needs_a_word(
    home: Path, tmp_path: Path
) -> None:
    file = tmp_path / "x.fab"
    file.write_bytes(made({"clients/app.py": b"import os\n", "torch.py": b""}))
    code, output = call(home, file, "--yes")
    assert code == 1 and "--changed-code" in output
    assert "clients/app.py" in output and "torch.py" in output and "2 are not" in output
    assert policy.load(home / "site.toml").bundles == ()
    assert call(home, file, "--yes", "--changed-code")[0] == 0
    assert len(policy.load(home / "site.toml").bundles) == 1


@pytest.mark.long
@pytest.mark.parametrize(
    ("tables", "allowed", "key"),
    [
        ({"privacy": {"epsilon": 3.5}}, {}, "budget.epsilon"),
        ({}, {"data": (DataSet("digits", "digits", epsilon=1.0),)}, "budget.epsilon"),
        ({}, {"per_run": 1.0}, "budget.per_run"),
        ({"privacy": {"unit": "none"}, "training": {"steps": 0}}, {}, "budget.units"),
        ({"privacy": {"simulate_seed": 3}}, {}, "budget.units"),
        ({}, {"data": ()}, "data: must have a table"),
        ({"privacy": {"sampling_rate": 0.1, "max_batch": 400, "max_records": 1700}}, {},
         "data.digits.records_at_most"),
        ({}, {"delta": 1e-3}, "budget.delta"),
        ({}, {"limits": Limits(up=1100)}, "limits.up"),
        ({}, {"limits": Limits(down=80_000)}, "limits.down"),
        ({"training": {"device": "cuda"}}, {"limits": Limits(device="cpu")}, "limits.device"),
        ({"privacy": {"unit": "none"}, "federation": {"weighting": "records"}},
         {"units": ("none",)}, "egress.metrics"),
        ({"inference": {"calibration": 0.2, "epsilon": 1.0}}, {}, "egress.metrics"),
        ({"inference": {"calibration": 0.2, "epsilon": 1.0}},
         {"metrics": ("counts",), "per_run": 2.5}, "budget.per_run"),
    ],
)  # fmt: skip
def test_a_plan_beyond_the_site_s_policy_is_refused_by_the_key(
    home: Path, tables: dict[str, Any], allowed: dict[str, Any], key: str
) -> None:
    given = {"data": (DataSet("digits", "digits"),), **allowed}
    policy_file.write(home / "site.toml", SitePolicy(**given))
    code, output = call(home, wait(home, made(**tables)), "--yes", "--changed-code")
    assert code == 1 and key in output
    assert policy.load(home / "site.toml").bundles == ()


def test_a_clock_that_no_reply_could_keep_is_told(home: Path) -> None:
    digest = wait(home, made(federation={"deadline_seconds": 60.0}))
    for clock, told in ((60, True), (59, False), (0, False)):
        one = SitePolicy(data=(DataSet("digits", "digits"),), clock=clock)
        policy_file.write(home / "site.toml", one)
        assert ("egress.clock" in call(home, digest, answer="n")[1]) is told


def test_what_is_loosened_is_held_against_the_policy_at_its_most(home: Path) -> None:
    digest = wait(home, made())
    assert call(home, digest, "--yes", "--at-most", "privacy.epsilon=3.5")[0] == 1
    for wrong in ("privacy.epsilon=1", "federation.rounds=9.5", "federation.name=x", "x=1",
                  "federation.rounds", "privacy.epsilon=nan",
                  "training.logit_adjustment=true"):  # fmt: skip
        code, output = call(home, digest, "--yes", "--at-most", wrong)
        assert code == 2 and "--at-most" in output, wrong
    assert call(home, digest, "--yes", "--at-most", "privacy.epsilon=3")[0] == 0


def test_bundles_that_wait_are_listed_and_found_by_their_first_digits(home: Path) -> None:
    assert "No bundle is waiting" in call(home)[1]
    digest = wait(home, made())
    (home / "bundles/waiting" / f"{'0' * 64}.fab").write_bytes(b"junk")
    code, output = call(home)
    assert code == 0 and f"{digest}  heart" in output and "zip archive" in output
    rows = json.loads(call(home, "--json")[1])["waiting"]
    assert {row["sha256"] for row in rows} == {digest, "0" * 64}
    for wrong in (digest[:7], "f" * 8, ""):
        with pytest.raises(ValueError, match="must be a file, or the first 8"):
            approval.find(home, wrong)
    (home / "bundles/waiting" / f"{'1' * 64}.fab").write_bytes(made())
    with pytest.raises(ValueError, match="must hold what its name says"):
        approval.find(home, "1" * 8)


def test_a_key_that_a_bundle_makes_up_does_not_steer_the_terminal(home: Path) -> None:
    with zipfile.ZipFile(io.BytesIO(made())) as archive:
        project = archive.read("pyproject.toml").decode()
    key = '"ev\\u001b[31mil\\nfedlite: approved" = '
    for line in (key + "1", key + "[1]"):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            table = "[tool.flwr.app.config.data]\n"
            archive.writestr("pyproject.toml", project.replace(table, table + line + "\n"))
            archive.writestr("clients/state.py", CODE)
        digest = wait(home, buffer.getvalue())
        for words in ((home, digest), (home,)):
            _, output = call(*words, "--yes")
            assert "\x1b" not in output and "\nfedlite: approved" not in output
            assert "ev" in output or words == (home,)


def test_scripts_get_one_object_and_are_not_asked(home: Path) -> None:
    digest = wait(home, made())
    assert call(home, digest, "--json")[0] == 2
    code, output = call(home, digest, "--json", "--yes")
    found = json.loads(output)
    assert code == 0 and found["approved"] and found["sha256"] == digest


def test_data_that_do_not_load_leave_only_the_sizes_out(home: Path) -> None:
    given = DataSet("digits", "csv", path="missing.csv", target="y")
    policy_file.write(home / "site.toml", SitePolicy(data=(given,)))
    public = {"labels": "no,yes", "scaling": "none"}
    seen = approval.review(home, bundles.read(made(data=public)), {})
    assert "model" not in dict(seen.facts) and not seen.refused
    assert "does not load" in seen.warnings[0]
    # Own records under a public name may not say what classes there are.
    seen = approval.review(home, bundles.read(made()), {})
    assert any(line.startswith("data.labels: must be set") for line in seen.refused)


def test_a_name_cannot_steer_the_terminal(home: Path) -> None:
    content = made(federation={"name": "hostile"}, data={"target": "\x1b[2Jheart[bold]"})
    digest = wait(home, content)
    for words in ((digest,), ()):
        _, output = call(home, *words, answer="n\n")
        assert "\x1b" not in output and "hostile" in output


OWN = "a,b,ill\n" + "".join(f"{n % 7},{n % 5},{('no', 'yes')[n % 2]}\n" for n in range(40))


@pytest.mark.parametrize("private", [False, True])
def test_the_model_that_is_shown_is_the_one_that_trains(home: Path, private: bool) -> None:
    """The page was made without `labels`: 10 parameters were shown, and 15 trained."""
    # A private site leaves out a row that does not fit; the page then showed no size at all.
    (home / "own.csv").write_text(OWN + "x,1,no\n" * private)
    given = DataSet("csv", "csv", path="own.csv", target="ill", records_at_most=99)
    policy_file.write(home / "site.toml", SitePolicy(units=("none", "record"), data=(given,)))
    content = made(
        data={"name": "csv", "shape": "2", "labels": "no, maybe, yes", "scaling": "none"},
        model={"name": "linear"},
        privacy={"expected_batch": 20} if private else {"unit": "none"},
    )
    seen = approval.review(home, bundles.read(content), {})
    layout = open_deployed_site(seen.scenario, home, "0" * 16).learner.layout
    # Three classes: the exit reads one of two columns, the tail both, each with its offset.
    assert layout.size == 3 * (1 + 1) + 3 * (2 + 1)
    facts = dict(seen.facts)
    assert facts["model"] == '"linear", 15 parameters'
    up = HEADER_BYTES + compressor(seen.scenario.uplink, layout.sizes).limit(layout.size)
    # As an answer is packed: with the head of the ledger, where there is one, and its names.
    named = LedgerHead(1, bytes(32), bytes(64), bytes(32), bytes(32)) if private else None
    most = len(Reply(bytes(up), named).encode())
    assert facts["leaves"].startswith(
        f"at most {most:,} bytes a round in all: update ({seen.scenario.uplink.compressor}) "
        f"{up - HEADER_BYTES}, frame 28"
    )
    assert ("ledger head 168 (104 once" in facts["leaves"]) is private
    # The limits are held against that size.
    tight = Limits(up=up + 1023)
    policy_file.write(
        home / "site.toml", SitePolicy(units=("none", "record"), data=(given,), limits=tight)
    )
    (refused,) = approval.review(home, bundles.read(content), {}).refused
    assert refused.startswith("limits.up: ")


def begin(home: Path, seen: approval.Review, run: str) -> None:
    """Let the site's own process charge a run, as its first round does."""
    guard = guardian.deployed(seen.scenario, home, run)
    guard.reserve(Instruction(bytes.fromhex(run), 1, site_id("site"), 0, bytes(8), ()))


@pytest.mark.long
def test_what_is_left_of_the_budget_is_what_the_guardian_then_charges(home: Path) -> None:
    """Before: the page told what a plan asks for, and nobody saw that nothing was left."""
    content = made(privacy={"epsilon": 1.2, "sampling_rate": 1.0})
    ledger, fits = home / "ledgers" / "digits.jsonl", []
    for number in range(9):
        seen = approval.review(home, bundles.read(content), {})
        assert seen.budget is not None and seen.budget.ceiling == 3.0
        plans = Account.of(read(ledger)).plans if ledger.exists() else []
        assert seen.budget.spent == (plans[-1].charged if plans else 0.0)
        facts = dict(seen.facts)
        assert f"in {len(plans)} run{'s' * (len(plans) != 1)}" in facts["budget"]
        fits.append(seen.budget.fits)
        if not seen.budget.fits:
            break
        begin(home, seen, f"{number:016x}")
        assert Account.of(read(ledger)).plans[-1].charged == seen.budget.charged
    assert fits == list(range(fits[0], -1, -1)) and fits[0] >= 2
    (warning,) = (text for text in seen.warnings if text.startswith("budget: "))
    assert f"budget: {seen.budget.steps} of 5 rounds fit" in warning
    last = "does not fit whole" if seen.budget.steps else "no round of it fits"
    assert last in facts["with it"] and not seen.refused
    # A ledger that does not verify: nobody knows, and the page says so.
    ledger.write_bytes(ledger.read_bytes().replace(b'"steps":1', b'"steps":2', 1))
    seen = approval.review(home, bundles.read(content), {})
    assert seen.budget is None and "budget is not known" in seen.warnings[0]


def test_where_no_round_fits_nothing_is_said_to_be_charged() -> None:
    spent = Outlook(
        runs=1, spent=3.0, ceiling=3.0, delta=1e-5, charged=3.0, steps=0, asked=20, fits=0
    )
    assert left.how_often(spent) == "no round of it fits, and nothing is charged"
    assert left.how_often(replace(spent, steps=4)) == "it does not fit whole"


def test_a_ceiling_that_was_lowered_in_the_ledger_counts_on_the_page(home: Path) -> None:
    content = made(privacy={"epsilon": 0.5, "sampling_rate": 1.0})
    begin(home, approval.review(home, bundles.read(content), {}), "1" * 16)
    text = (home / "site.toml").read_text()
    (home / "site.toml").write_text(text.replace("epsilon = 3.0", "epsilon = 1.0"))
    seen = approval.review(home, bundles.read(content), {})
    assert seen.budget is not None and seen.budget.ceiling == 1.0
    assert "of 1 spent" in dict(seen.facts)["budget"]


@pytest.mark.long
def test_the_difference_to_the_last_approval_of_the_name_is_shown(home: Path) -> None:
    files = {"clients/same.py": b"a\nb\n", "clients/gone.py": b"1\n", "clients/moved.py": b"x\ny\n"}
    first = wait(home, made(files))
    code, output = call(home, first, "--yes", "--changed-code")
    assert code == 0 and "before" not in output
    files = {
        "clients/same.py": b"a\nc\nd\n", "clients/new.py": b"n\n", "clients/moved.py": b"y\nx\n",
    }  # fmt: skip
    other = made(files, federation={"rounds": 7}, training={"learning_rate": 0.25})
    second = wait(home, other)
    code, output = call(home, second)
    for part in (
        f"before    {first[:16]}, approved 20", "federation.rounds: 5 -> 7",
        "training.learning_rate: ", " -> 0.25", "clients/same.py: changed, +2 -1 lines",
        "clients/gone.py: gone, 1 line", "clients/new.py: new, 1 line",
        "clients/moved.py: the same lines in another order",
    ):  # fmt: skip
        assert part in output, part
    facts, _, _ = output.partition("\n--- ")
    page = [line for line in facts.splitlines() if not line.startswith("fedlite: ")]
    assert max(map(len, page)) <= 80 and "…" not in output
    code, output = call(home, second, "--yes", "--changed-code", "--json")
    since = json.loads(output)["since"]
    assert code == 0 and since["settings"]["federation.rounds"] == ["5", "7"]
    assert len(since["settings"]) == 2 and len(since["files"]) == 4
    # The last one counts, not the first; another name is another matter.
    third = wait(home, made(federation={"rounds": 9}))
    assert f"before    {second[:16]}" in call(home, third)[1]
    assert "before" not in call(home, wait(home, made(federation={"name": "lung"})))[1]
    bundles.remove(home / "bundles" / second)
    assert "only settings are compared" in call(home, third)[1]


def test_what_was_the_same_and_what_differs_by_its_kind_only(home: Path) -> None:
    first = wait(home, made())
    assert call(home, first, "--yes")[0] == 0
    content = made(training={"learning_rate": 1})
    seen = approval.review(home, bundles.read(content), {})
    assert seen.since is not None and seen.since.files == ()
    assert "the code is the same" in [text for _, text in seen.facts]


def test_what_a_weak_site_trains_is_on_its_page(home: Path) -> None:
    """Its own numbers, and that it trains a part; another site's page says that it trains all."""
    name = policy.load(home / "site.toml").site
    facts: dict[str, dict[str, str]] = {}
    for weak in (name, "another"):
        tables = {"federation": {"weak_sites": weak}, "model": {"name": "mlp"}}
        digest = wait(home, made(**tables))
        found = approval.review(home, approval.find(home, digest), {})
        facts[weak] = dict(found.facts)
        assert not found.refused, found.refused
    part, whole = facts[name], facts["another"]
    assert part["this site trains"].startswith("its shallow branch alone")
    assert whole["this site trains"].startswith("all of the model")
    assert part["model"] == '"mlp", 2,410 of 3,796 parameters'
    assert whole["model"] == '"mlp", 3,796 parameters'
    most = [int(one["leaves"].split()[2].replace(",", "")) for one in (part, whole)]
    assert most[0] < most[1]
