"""Code of the coordinator's own on the page that an operator approves: whole, and not run."""

from __future__ import annotations

from pathlib import Path

import pytest

from clients.runtime import approval
from fedlite.deployment import bundle as bundles
from fedlite.guard import guardian, policy_file
from fedlite.guard.policy import DataSet, Limits, SitePolicy
from fedlite.scenario import ScenarioError, from_dict
from simulations.run import check
from tests.clients.deployed import open_deployed_site
from tests.clients.runtime.test_approval import call, home, made, wait

__all__ = ["home"]

TRAP = "open('SPRUNG', 'w')\nmake = None\n"


@pytest.mark.long
@pytest.mark.parametrize("key", ["model.name", "uplink.compressor", "downlink.compressor"])
def test_a_file_that_a_bundle_names_is_shown_whole_and_not_run(
    home: Path, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither by the page that an operator looks at, nor by the site's own process."""
    monkeypatch.chdir(home)
    section, name = key.split(".")
    text = TRAP + "# the \t last line"
    content = made({"own/a/trap.py": text.encode(), "own/more.py": b""},
                   **{section: {name: "own/a/trap.py:make", "options": {"x": [1]}}})  # fmt: skip
    digest = wait(home, content)
    code, output = call(home, digest[:8], "--yes")
    assert code == 1 and "--changed-code" in output and "2 are not" in output
    assert "no version of fedlite has; read them" in " ".join(output.split())
    assert f'{key}: own/a/trap.py:make; options {{"x": [1]}}' in output
    for number, line in enumerate(text.replace("\t", "    ").splitlines(), 1):
        assert f"\n{number:5} | {line}\n" in output
    (own, _) = bundles.read(content).own.values()
    assert f"own/a/trap.py: CODE THAT IS NOT INSTALLED HERE, SHA-256 {own}" in output
    assert f"{key} name code that is not fedlite's" in " ".join(output.split())
    assert call(home, digest[:8], "--yes", "--changed-code")[0] == 0
    seen = approval.review(home, bundles.read(content), {})
    assert seen.to_dict()["own"]["own/a/trap.py"] == {"sha256": own, "text": text}
    guardian.deployed(seen.scenario, home, "0" * 16)
    assert not (home / "SPRUNG").exists()
    # A site that shuts nothing in runs none of it.
    policy_file.write(
        home / "site.toml",
        SitePolicy(data=(DataSet("digits", "digits"),), limits=Limits(sandbox=False)),
    )
    assert any(
        line.startswith("limits.sandbox: is false") and "own/a/trap.py" in line
        for line in approval.review(home, bundles.read(content), {}).refused
    )
    with pytest.raises(guardian.Decline, match=r"limits.sandbox is false, and the plan brings"):
        guardian.deployed(seen.scenario, home, "0" * 16)


@pytest.mark.parametrize("key", ["model.name", "uplink.compressor", "data.name", "data.partition"])
@pytest.mark.parametrize("name", ["TRAP:make", "os:system", "subprocess:run", "python:make"])
def test_other_code_is_refused_by_the_bundle_the_site_and_the_coordinator(
    home: Path, key: str, name: str
) -> None:
    (home / "trap.py").write_text(TRAP)
    name = name.replace("TRAP", str(home / "trap.py"))
    section, field = key.split(".")
    unit = {"privacy": {"unit": "none"}, "training": {"steps": 0}}
    content = made(**{section: {field: name}}, **unit)
    with pytest.raises(bundles.BundleError, match=key):
        bundles.read(content)
    scenario = from_dict({section: {field: name}})
    with pytest.raises(ScenarioError, match=rf"{key}: must be "):
        open_deployed_site(scenario, home, "0" * 16)
    with pytest.raises(ScenarioError, match=rf"{key}: must be "):
        check(scenario, deployed=True)
    assert not (home / "SPRUNG").exists()


def test_a_name_that_is_not_installed_here_is_told(home: Path) -> None:
    for key, name in (("model", "name"), ("uplink", "compressor")):
        seen = approval.review(home, bundles.read(made(**{key: {name: "theirs"}})), {})
        (line,) = (
            line for line in seen.refused if line.startswith(f"{key}.{name}: must be one of")
        )
        assert line.endswith("got 'theirs'")


def test_a_long_line_is_folded_so_that_none_of_it_passes_for_the_next(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A screen that folds by itself would show the code in the middle as a comment of line 2."""
    for columns in (40, 80, 200):
        monkeypatch.setenv("COLUMNS", str(columns))
        pad = " " * (columns - len("    1 | x = '"))
        text = f"x = '{pad}    2 | # only a remark ' ; print('code')\ny = '{'ä' * 300}'\n"
        content = made({"own/a.py": text.encode()}, model={"name": "own/a.py:make"})
        _, output = call(home, wait(home, content)[:8], "--yes")
        _, shown = output.split("--- own/a.py: ", 1)
        _, *rows = shown.partition("--- end of own/a.py")[0].splitlines()
        for row in rows:
            assert row[:8] in ("    1 | ", "    2 | ", "      > "), row
            assert len(row) + sum(not one.isascii() for one in row) <= columns
        whole = "\n".join(rows).replace("\n      > ", "")
        assert [line[8:] for line in whole.splitlines()] == text.splitlines()


def test_every_other_file_that_is_not_installed_here_is_shown_whole_too(home: Path) -> None:
    """Code of the user's own may import it: its name alone tells nothing."""
    model = b"from clients import tail\nmake = tail.make\n"
    tail = b"def make(shape, classes): ...  # \x1b[2J not a command\r\nx = 1 # \rrun()\n"
    content = made({"own/a.py": model, "clients/tail.py": tail, "clients/t.txt": b"\xff\x1b"},
                   model={"name": "own/a.py:make"})  # fmt: skip
    code, output = call(home, wait(home, content)[:8], "--yes", "--changed-code")
    digest = bundles.read(content).files["clients/tail.py"]
    assert f"clients/tail.py: CODE THAT IS NOT INSTALLED HERE, SHA-256 {digest}" in output
    assert r"    1 | def make(shape, classes): ...  # \x1b[2J not a command" in output
    assert "    2 | x = 1 # \n    3 | run()\n" in output and r"    1 | \xff\x1b" in output
    assert "\x1b" not in output
    # What is shown would not be what is run.
    assert code == 1 and "clients/tail.py: line 1: must hold no character that hides" in output
    seen = approval.review(home, bundles.read(content), {}).to_dict()
    assert sorted(seen["others"]) == ["clients/t.txt", "clients/tail.py"]
    assert sorted(seen["own"]) == ["own/a.py"]
    hidden = made({"clients/tail.py": b"# coding: utf-7\n# +AAo-run()\n"})
    assert any(
        line.startswith("clients/tail.py: must be UTF-8")
        for line in approval.review(home, bundles.read(hidden), {}).refused
    )


def test_no_bundle_names_a_file_of_weights_on_the_site_s_machine(home: Path) -> None:
    """The operator's own process would open it to tell the model's size, before he is asked."""
    file = home / "x.safetensors"
    file.write_bytes(b"the site's own")
    scenario = from_dict({"model": {"name": "mlp", "start": str(file)}})
    content = made(model={"name": "mlp", "start": str(file)})
    for attempt in (
        lambda: bundles.read(content),
        lambda: open_deployed_site(scenario, home, "0" * 16),
        lambda: check(scenario, deployed=True),
    ):
        with pytest.raises(ValueError, match=r"model.start: must be empty in a deployment"):
            attempt()
    _, output = call(home, wait(home, content)[:8], "--yes")
    assert "model.start: must be empty in a deployment" in " ".join(output.split())
