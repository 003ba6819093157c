"""Covers server/coordinator/launcher.py, by itself."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from flwr.proto.runtime_pb2 import GetNodesRequest
from flwr.supercore.protobuf.client import ProtobufClient
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.superexec.executor import subprocess_executor

from server.coordinator import launcher, secret
from server.coordinator.setup import init


def test_secrets_are_two_for_the_owner_only_and_new_at_each_start(tmp_path: Path) -> None:
    made = init(tmp_path / "c", "study", "h:1")
    files = (made.sites_secret, made.control_secret)
    first = {secret.read(path) for path in files}
    secret.renew(made)
    second = {secret.read(path) for path in files}
    assert len(first | second) == 4
    for path in files:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert len(bytes.fromhex(path.read_text())) == 32
    assert not list(made.gateway.glob("*.new"))


def test_every_client_of_flower_shows_the_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ProtobufClient, "__init__", ProtobufClient.__init__)
    launcher.show("s" * 64)
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, content=b"")

    client = RuntimeHttpClient.from_server_address("h:1", True, None, interceptors=[])
    client._client = httpx.Client(transport=httpx.MockTransport(answer))
    client.GetNodes(GetNodesRequest())
    assert [request.headers[launcher.HEADER] for request in seen] == ["s" * 64]


def test_a_token_is_handed_over_and_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess_executor, "subprocess", subprocess)
    launcher.hide_tokens()
    read, told = tmp_path / "read", tmp_path / "told"
    script = f"import pathlib,sys; at = sys.argv.index('--token-file'); \
pathlib.Path({str(read)!r}).write_text(pathlib.Path(sys.argv[at + 1]).read_text()); \
pathlib.Path({str(told)!r}).write_text(repr(sys.argv))"
    words = [sys.executable, "-c", script, "--a", "b", "--token", "very secret", "--insecure"]
    process = subprocess_executor.subprocess.Popen(words)
    assert process.wait(20) == 0
    assert read.read_text() == "very secret"
    assert "very secret" not in told.read_text() and "--insecure" in told.read_text()
    assert words[-2] == "very secret"


@pytest.mark.long
def test_the_programs_are_flowers_and_leave_the_name_server_to_the_bundle(
    tmp_path: Path,
) -> None:
    shown = tmp_path / "it's a secret"
    shown.write_text("s" * 64)
    launcher.install(tmp_path / "programs", shown)
    assert stat.S_IMODE((tmp_path / "programs").stat().st_mode) == 0o700
    for name in ("flower-superexec", "flwr-serverapp"):
        program = tmp_path / "programs" / name
        assert stat.S_IMODE(program.stat().st_mode) == 0o700
        done = subprocess.run([program, "--help"], capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0 and f"usage: {name}" in done.stdout
    code = (
        f"import sys; sys.argv = ['x']; import runpy; runpy.run_path({launcher.__file__!r}); "
        "print('server' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, env=dict(os.environ)
    )
    assert done.stdout.strip() == "False"
