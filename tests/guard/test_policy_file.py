from __future__ import annotations

import errno
import fcntl
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from pathlib import Path

import pytest

from fedlite.guard.policy import ApprovedBundle, DataSet, Limits, PolicyError, SitePolicy, load
from fedlite.guard.policy_file import approve, list_server, revoke, write

ROOT = Path(__file__).parents[2]
KEY = "1a" * 32
DIGEST = "ab" * 32
BUNDLE = ApprovedBundle(
    DIGEST, "heart", "2026-11-22T15:00:00Z", "operator", {"federation.rounds": 30}
)


def saved(path: Path, text: str) -> Path:
    file = path / "site.toml"
    file.write_text(text, encoding="utf-8")
    return file


FULL = SitePolicy(
    epsilon=2.5,
    delta=1e-6,
    person=4.0,
    per_run=1.25,
    units=("client-server", "client-site", "none", "record"),
    metrics=("records",),
    servers=(KEY, "2b" * 32),
    site='Søsterhus "B" \\ 3',
    owner="3c" * 32,
    data=(
        DataSet("heart-disease", "heart-disease", part="cleveland", epsilon=1.5),
        DataSet("own scans", "csv", path="data/ä b.csv", target='the "label"'),
    ),
    limits=Limits("cpu", 4, 1000, 2000, 60, sandbox=False),
    bundles=(
        ApprovedBundle(
            "4d" * 32,
            "heart",
            "2026-11-22T15:00:00Z",
            "operator",
            {"federation.rounds": 30, "privacy.delta": 1e-5, "x.y": True, "data.name": "a\n\x7f"},
            {"federation.rounds": 90, "privacy.delta": 0.1},
        ),
        ApprovedBundle("5e" * 32),
    ),
)


@pytest.mark.parametrize("policy", [FULL, SitePolicy(), SitePolicy(epsilon=0.0, units=())])
def test_what_is_written_is_read_again(tmp_path: Path, policy: SitePolicy) -> None:
    file = tmp_path / "site.toml"
    write(file, policy)
    assert load(file) == policy


def test_a_written_policy_explains_every_key(tmp_path: Path) -> None:
    file = tmp_path / "site.toml"
    write(file, SitePolicy())
    lines = file.read_text(encoding="utf-8").splitlines()
    above = ""
    for line in lines:
        if " = " in line and not line.startswith("#"):
            assert above.startswith(("#", "[site]")) or line.startswith(("delta", "down"))
        above = line
    assert sum(" = " in line for line in lines if line[:1] != "#") == 21
    for field in fields(DataSet)[1:]:
        assert any(line.startswith(f"#   {field.name} = ") for line in lines)


TEXTS = [
    "",
    "# mine, without an end",
    "\n\n[budget] # mine\r\nepsilon = 2 # two\r\n\n\n# the end\n\n",
    f"[bundles.{'0f' * 32}]\nname = 'other'\n# behind\n",
    '[site]\nname = "x" # [bundles]\n\t[ limits ]\nup = 5\n',
]


@pytest.mark.parametrize("text", TEXTS)
def test_an_approval_leaves_every_other_byte_and_can_be_taken_back(
    tmp_path: Path, text: str
) -> None:
    file = tmp_path / "site.toml"
    file.write_bytes(text.encode())
    before = load(file)
    assert approve(file, BUNDLE) == load(file)
    assert load(file) == replace(before, bundles=(*before.bundles, BUNDLE))
    assert file.read_bytes().startswith(text.encode())
    again = replace(BUNDLE, name="again", at_most={"federation.rounds": 60})
    once = len(file.read_bytes())
    approve(file, again)
    assert load(file).bundle(DIGEST) == again and len(file.read_bytes()) < once + 200
    assert revoke(file, DIGEST) == before
    end = "" if text.endswith("\n") or not text else "\n"
    assert file.read_bytes() == (text + end).encode()


def test_what_the_operator_wrote_behind_an_approval_stays(tmp_path: Path) -> None:
    file = saved(tmp_path, "# first\n")
    approve(file, BUNDLE)
    other = replace(BUNDLE, sha256="cd" * 32)
    behind = "\n# why so low?\n[limits]\nup = 7\n"
    file.write_bytes(file.read_bytes() + behind.encode())
    approve(file, other)
    revoke(file, DIGEST)
    assert file.read_text().startswith("# first\n" + behind)
    assert load(file).bundles == (other,) and load(file).limits.up == 7


@pytest.mark.parametrize(
    "text",
    [
        f'bundles = {{ {DIGEST} = {{ name = "x" }} }}\n',
        f"[bundles]\n{DIGEST}.name = 'x'\n",
    ],
)
def test_a_table_written_in_another_way_is_not_edited_by_guesses(tmp_path: Path, text: str) -> None:
    file = saved(tmp_path, text)
    with pytest.raises(PolicyError):
        revoke(file, DIGEST)
    assert file.read_text() == text


def test_an_approval_is_not_written_into_a_file_that_is_wrong(tmp_path: Path) -> None:
    file = saved(tmp_path, "[budget]\nepsilon = 'x'\n")
    with pytest.raises(PolicyError, match="a number"):
        approve(file, BUNDLE)
    good = saved(tmp_path, "")
    with pytest.raises(PolicyError, match="64 lower-case hex"):
        approve(good, replace(BUNDLE, sha256="abc"))
    with pytest.raises(PolicyError, match="no such table"):
        revoke(good, DIGEST)
    assert good.read_bytes() == b""


EDITOR = """
import sys
from dataclasses import replace
from pathlib import Path

from fedlite.guard.policy import ApprovedBundle
from fedlite.guard.policy_file import approve, revoke

file, mine, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
print("ready", flush=True)
sys.stdin.readline()
for number in range(count):
    bundle = ApprovedBundle(f"{mine:032x}{number:032x}", settings={"federation.rounds": number})
    approve(file, bundle)
    if number % 2:
        approve(file, replace(bundle, name="again"))
        revoke(file, f"{mine:032x}{number - 1:032x}")
"""


@pytest.mark.long
def test_of_edits_at_the_same_moment_none_is_lost(tmp_path: Path) -> None:
    file = saved(tmp_path, "# mine\n[limits]\nup = 7\n")
    count, ended = 8, []
    editors = [
        subprocess.Popen(
            [sys.executable, "-c", EDITOR, str(file), str(mine), str(count)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for mine in range(4)
    ]
    try:
        for editor in editors:
            assert editor.stdout is not None and editor.stdout.readline() == "ready\n"
        for editor in editors:
            assert editor.stdin is not None
            editor.stdin.write("go\n")
            editor.stdin.flush()
        ended = [editor.wait(timeout=60) for editor in editors]
    finally:
        for editor in editors:
            editor.kill()
            editor.communicate()
    assert ended == [0] * len(editors)
    held = load(file)
    expected = {f"{mine:032x}{n:032x}" for mine in range(4) for n in range(1, count, 2)}
    assert {one.sha256 for one in held.bundles} == expected
    assert {one.name for one in held.bundles} == {"again"} and held.limits.up == 7
    assert sorted(path.name for path in tmp_path.iterdir()) == ["site.toml"]


def test_threads_of_one_process_wait_for_each_other(tmp_path: Path) -> None:
    file = saved(tmp_path, "")
    digests = [f"{number:064x}" for number in range(16)]
    with ThreadPoolExecutor(8) as pool:
        listed = pool.submit(list_server, file, "ab" * 32)
        list(pool.map(lambda digest: approve(file, ApprovedBundle(digest)), digests))
        listed.result()
    assert sorted(one.sha256 for one in load(file).bundles) == digests
    assert load(file).servers == ("ab" * 32,)


def test_a_folder_that_cannot_be_locked_is_not_edited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = saved(tmp_path, "")

    def refuse(handle: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(PolicyError, match=r"cannot be locked .*No locks available"):
        approve(file, BUNDLE)
    assert file.read_bytes() == b""
    with pytest.raises(PolicyError, match=r"cannot be opened .*fedlite site init"):
        revoke(tmp_path / "none" / "site.toml", DIGEST)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a = 1\n[servers]\nkeys = []  # mine\n", 'a = 1\n[servers]\nkeys = ["k"]  # mine\n'),
        ("[servers] # all\n\n  keys=[ ]\n[x]\nkeys = []\n", None),
        ("[site]\nname = 's'", "[site]\nname = 's'\n\n[servers]\nkeys = [\"k\"]\n"),
        ("[x]\nkeys = []\n", '[x]\nkeys = []\n\n[servers]\nkeys = ["k"]\n'),
    ],
)
def test_listing_a_server_keeps_the_operators_text(
    tmp_path: Path, text: str, expected: str | None
) -> None:
    path = tmp_path / "site.toml"
    path.write_text(text)
    list_server(path, "k")
    assert path.read_text() == (expected or '[servers] # all\n\n  keys = ["k"]\n[x]\nkeys = []\n')


@pytest.mark.parametrize("text", ["servers = {keys = []}\n", "[servers]\nkeys = [\n]\n"])
def test_a_server_is_not_listed_by_guesses(tmp_path: Path, text: str) -> None:
    path = tmp_path / "site.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match="by hand"):
        list_server(path, "k")
    assert path.read_text() == text
