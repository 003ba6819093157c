from __future__ import annotations

import contextlib
import hashlib
import io
import os
import random
import stat
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest

from fedlite.deployment import bundle
from fedlite.deployment.bundle import BundleError, read, unpack

PROJECT = b"""
[tool.flwr.app.components]
serverapp = "server.app:app"
clientapp = "clients.app:app"
[tool.flwr.app.config.federation]
name = "heart"
rounds = 30
[tool.flwr.app.config.privacy]
epsilon = 3.0
[tool.flwr.app.config.run]
quiet = false
"""
FILES = {"pyproject.toml": PROJECT, "clients/app.py": b"app = 1\n", "server/app.py": b"app = 2\n"}


def archive(files: dict[str, bytes] = FILES, *more: tuple[Any, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in [*files.items(), *more]:
            file.writestr(name, data)
    return buffer.getvalue()


def entry(name: str, mode: int = stat.S_IFREG | 0o600, **values: Any) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    for key, value in values.items():
        setattr(info, key, value)
    return info


def test_a_bundle_says_what_it_holds(tmp_path: Path) -> None:
    content = archive()
    file = tmp_path / "x.fab"
    file.write_bytes(content)
    found = read(file)
    assert found == read(content)
    assert found.sha256 == hashlib.sha256(content).hexdigest()
    assert found.files == {n: hashlib.sha256(d).hexdigest() for n, d in FILES.items()}
    assert found.name == "heart"
    assert found.settings == {
        "federation.name": "heart",
        "federation.rounds": 30,
        "privacy.epsilon": 3.0,
        "run.quiet": False,
    }
    assert type(found.settings["privacy.epsilon"]) is float


def test_what_flower_builds_is_read_with_the_settings_flower_would_give(tmp_path: Path) -> None:
    from flwr.cli.build import build_fab_from_files
    from flwr.common.config import flatten_dict, get_fab_config

    head = '[project]\nname = "heart"\nversion = "1.0.0"\n[tool.flwr.app]\npublisher = "fedlite"\n'
    content, _ = build_fab_from_files({**FILES, "pyproject.toml": head.encode() + PROJECT})
    found = read(content)
    config = get_fab_config(content)["tool"]["flwr"]["app"]["config"]
    assert found.settings == flatten_dict(config)
    assert set(found.files) == set(FILES)
    unpack(found, tmp_path / "out")
    with zipfile.ZipFile(io.BytesIO(content)) as built:
        files = {name: built.read(name) for name in built.namelist()}
    assert read(archive(files)).files == found.files
    with pytest.raises(BundleError, match="must list exactly"):
        read(archive({**files, "clients/more.py": b""}))


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("../a.py", "must be named"),
        ("clients/../../a.py", "must be named"),
        ("/etc/a.py", "must be named"),
        ("C:/a.py", "must be named"),
        ("a\\b.py", "must be named"),
        ("a//b.py", "must be named"),
        ("./a.py", "must be named"),
        (".hidden/a.py", "must be named"),
        (".info/OTHER", "must be named"),
        ("clients/ä.py", "must be named"),
        ("a\nb.py", "must be named"),
        ("a.py\0.txt", "must be named"),
        ("clients/", "must be named"),
        ("a" * 300 + ".py", "at most 200"),
        ("lib.so", "must end in"),
        ("clients/lib.pyc", "must end in"),
        ("clients/LICENSE", "must end in"),
        ("clients/app.py", "twice"),
        ("Clients/App.py", "twice"),
        ("clients/app.py/x.py", "got both"),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_could_mean_another_place_is_refused(name: str, rule: str) -> None:
    # zipfile would tidy a name before it writes it, so it is put there afterwards.
    placeholder = "x" * len(name.encode())
    content = archive(FILES, (entry(placeholder), b""))
    with pytest.raises(BundleError, match=rule):
        read(content.replace(placeholder.encode(), name.encode()))


@pytest.mark.parametrize(
    ("info", "rule"),
    [
        (entry("a.py", stat.S_IFLNK | 0o777), "no link"),
        (entry("a.py", stat.S_IFDIR | 0o777), "no link and no folder"),
        (entry("a.py", stat.S_IFIFO | 0o777), "no link"),
        (entry("a.py", stat.S_IFCHR | 0o777), "no link"),
        (entry("a.py", compress_type=zipfile.ZIP_BZIP2), "stored or deflated"),
        (entry("a.py", compress_type=zipfile.ZIP_LZMA), "stored or deflated"),
    ],
)
def test_only_plain_files_are_taken(info: zipfile.ZipInfo, rule: str) -> None:
    with pytest.raises(BundleError, match=rule):
        read(archive(FILES, (info, b"x")))


def _central(content: bytes, at: int, form: str, value: int) -> bytes:
    """Return the archive with a field of its last central directory record changed."""
    start = content.rindex(b"PK\x01\x02") + at
    return content[:start] + struct.pack(form, value) + content[start + struct.calcsize(form) :]


def test_encrypted_entries_are_refused() -> None:
    with pytest.raises(BundleError, match="encrypted"):
        read(_central(archive(), 8, "<H", 1))


def test_a_size_that_is_not_true_is_refused() -> None:
    with pytest.raises(BundleError):
        read(_central(archive(), 24, "<L", 3))


def test_bombs_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    zeros = bytes(bundle.MAX_FILE)
    with pytest.raises(BundleError, match="at most 5000000 bytes"):
        read(archive({**FILES, "a.txt": zeros + b"0"}))
    many = [(f"a{i}.txt", zeros) for i in range(11)]
    with pytest.raises(BundleError, match="must unpack to at most"):
        read(archive(FILES, *many))
    with pytest.raises(BundleError, match="at most 500, got"):
        read(archive(FILES, *((f"a{i}.txt", b"") for i in range(500))))
    with pytest.raises(BundleError, match="at most 4000000 bytes"):
        read(bytes(bundle.MAX_BYTES + 1))


def test_noise_and_damage_end_in_one_kind_of_error() -> None:
    good, rng = archive(), random.Random(1)
    for _ in range(500):
        bad = bytearray(good)
        for _ in range(rng.randint(1, 4)):
            bad[rng.randrange(len(bad))] = rng.randrange(256)
        with contextlib.suppress(BundleError):
            read(bytes(bad))
    for content in (b"", b"PK", good[:-1], good[:50], bytes(1000)):
        with pytest.raises(BundleError):
            read(content)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no such file"):
        read(tmp_path / "no.fab")


@pytest.mark.parametrize(
    "project",
    [
        b"",
        b"\xff",
        b"tool = 1",
        b"[tool.flwr.app.components]",
        PROJECT.replace(b"clients.app:app", b"clients.evil:app"),
        PROJECT.replace(b"rounds = 30", b"rounds = [30]"),
        PROJECT.replace(b"rounds = 30", b"day = 2026-01-01"),
        PROJECT.replace(b"rounds = 30", b'"a.b" = 1\na = { b = 2 }'),
        b"[tool.flwr.app]\nconfig = 1\n" + PROJECT.split(b"[tool.flwr.app.config")[0],
    ],
)
def test_the_project_file_must_name_the_apps_and_plain_settings(project: bytes) -> None:
    with pytest.raises(BundleError, match=r"pyproject\.toml"):
        read(archive({**FILES, "pyproject.toml": project}))
    with pytest.raises(BundleError, match="must be in it"):
        read(archive({"a.py": b""}))


def test_it_is_unpacked_read_only_and_whole(tmp_path: Path) -> None:
    found = read(archive())
    place = tmp_path / "bundles" / found.sha256
    assert unpack(found, place) == place
    files = {p.relative_to(place).as_posix() for p in place.rglob("*") if p.is_file()}
    assert files == set(FILES)
    assert all(place.joinpath(name).read_bytes() == data for name, data in FILES.items())
    modes = {stat.S_IMODE(p.stat().st_mode) for p in place.rglob("*.py")}
    folders = {stat.S_IMODE(p.stat().st_mode) for p in (place, place / "clients")}
    assert (modes, folders) == ({0o444}, {0o555})
    assert [p.name for p in place.parent.iterdir()] == [found.sha256], "nothing half is left"
    before = place.stat().st_mtime_ns, (place / "clients/app.py").stat().st_ino
    unpack(found, place)
    assert before == (place.stat().st_mtime_ns, (place / "clients/app.py").stat().st_ino)
    bundle.remove(place)
    assert not place.exists()
    bundle.remove(place)


def test_an_altered_folder_is_never_used(tmp_path: Path) -> None:
    found = read(archive())
    place = unpack(found, tmp_path / "a")
    app = place / "clients/app.py"
    app.chmod(0o600)
    app.write_bytes(b"app = 3\n")
    with pytest.raises(ValueError, match="differs"):
        unpack(found, place)
    app.write_bytes(FILES["clients/app.py"])
    unpack(found, place)
    for folder in (place, place / "clients"):
        folder.chmod(0o700)
    (place / "clients/sneaked.py").write_text("")
    with pytest.raises(ValueError, match="must not be there"):
        unpack(found, place)
    (place / "clients/sneaked.py").unlink()
    app.unlink()
    with pytest.raises(ValueError, match=r"lacks clients/app\.py"):
        unpack(found, place)
    app.symlink_to(tmp_path / "elsewhere.py")
    (tmp_path / "elsewhere.py").write_bytes(FILES["clients/app.py"])
    with pytest.raises(ValueError, match="must not be there"):
        unpack(found, place)
    link = tmp_path / "link"
    link.symlink_to(unpack(found, tmp_path / "b"))
    with pytest.raises(ValueError, match="must be a folder"):
        unpack(found, link)


def test_nothing_half_is_left_when_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, calls = read(archive()), []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) > 1:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        unpack(found, tmp_path / "a")
    assert list(tmp_path.iterdir()) == []
