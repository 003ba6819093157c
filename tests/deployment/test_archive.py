"""An archive: read by another tar, the same bytes for the same files, and nothing else accepted."""

from __future__ import annotations

import hashlib
import io
import os
import random
import tarfile
from pathlib import Path

import pytest

from fedlite.deployment import archive
from fedlite.deployment.archive import ArchiveError
from fedlite.identity.canonical import canonical

FILES = {
    "site.toml": b"x" * 700,
    "empty": b"",
    "keys/node.pem": bytes(range(256)) * 2,
    f"ledgers/{'ä病' * 32}.jsonl": b"row\n",
    "bundles/" + "/".join(["long" * 20] * 4): b"code",
}


def unpacked(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*")
            if p.is_file()}  # fmt: skip


def put(tmp_path: Path, data: bytes) -> tuple[Path, Path]:
    source, folder = tmp_path / "a.tar", tmp_path / "out"
    folder.mkdir(parents=True, exist_ok=True)
    source.write_bytes(data)
    return source, folder


def test_what_is_packed_comes_out_and_another_tar_reads_the_same(tmp_path: Path) -> None:
    data = archive.pack(FILES, {"site": "s"})
    assert data == archive.pack(dict(reversed(FILES.items())), {"site": "s"})
    source, folder = put(tmp_path, data)
    assert archive.is_one(source)
    assert archive.unpack(source, folder, lambda name: True) == {"site": "s"}
    assert unpacked(folder) == FILES
    assert all(p.stat().st_mode & 0o077 == 0 for p in folder.rglob("*") if p.is_file())
    with tarfile.open(fileobj=io.BytesIO(data)) as other:
        members = other.getmembers()
        assert {(m.mtime, m.uid, m.gid, m.mode, m.type) for m in members} == {
            (0, 0, 0, 0o600, tarfile.REGTYPE)
        }
        read = {m.name: other.extractfile(m).read() for m in members}  # type: ignore[union-attr]
    del read[archive.LIST]
    assert read == FILES


def test_no_byte_of_an_archive_may_differ(tmp_path: Path) -> None:
    good = archive.pack({"a": b"12345", "b/c": b""}, {})
    rng = random.Random(7)
    for at in [*range(0, 512, 3), *rng.sample(range(512, len(good)), 300)]:
        bad = bytearray(good)
        bad[at] ^= 1 << rng.randrange(8)
        source, folder = put(tmp_path, bytes(bad))
        with pytest.raises(ArchiveError):
            archive.unpack(source, folder, lambda name: True)
        for path in folder.rglob("*"):
            if path.is_file():
                path.unlink()
    for length in (0, 1, 511, 512, 1024, len(good) - 1):
        source, folder = put(tmp_path / str(length), good[:length])
        with pytest.raises(ArchiveError):
            archive.unpack(source, folder, lambda name: True)
    source, folder = put(tmp_path / "1", good + b"\0")
    with pytest.raises(ArchiveError, match="behind its end"):
        archive.unpack(source, folder, lambda name: True)


@pytest.mark.parametrize(
    "name",
    ["/etc/passwd", "../x", "a/../../x", "a//b", "a/", ".ssh/x", "a/.x", "", "a\\b", "a\nb",
     "x" * 256, "a/" * 600 + "a"],
)  # fmt: skip
def test_a_name_that_leads_elsewhere_is_neither_packed_nor_unpacked(
    tmp_path: Path, name: str
) -> None:
    with pytest.raises(ArchiveError):
        archive.pack({name: b""}, {})
    listed = [[name, 0, hashlib.sha256(b"").hexdigest()]]
    manifest = canonical({"kind": "fedlite-archive-1", "about": {}, "files": listed})
    data = archive._entry(archive.LIST, manifest) + archive._entry(name, b"") + bytes(1024)
    source, folder = put(tmp_path, data)
    with pytest.raises(ArchiveError):
        archive.unpack(source, folder, lambda name: True)
    assert unpacked(tmp_path) == {"a.tar": data}


@pytest.mark.parametrize(
    "files",
    [
        [["a", 0, "00"], ["a", 0, "00"]],
        [["b", 0, "00"], ["a", 0, "00"]],
        [["a", 0, "00"], ["a/b", 0, "00"]],
        [["a", -1, "00"]],
        [["a", True, "00"]],
        [["a", 10**10, "00"]],
        [["a", 3 * 10**9, "00"], ["b", 3 * 10**9, "00"]],
        [["a", 0]],
        [[0, 0, "00"]],
        [archive.LIST, 0, "00"],
        "x",
        None,
    ],
)
def test_a_list_that_breaks_a_rule_is_refused_before_anything_is_written(
    tmp_path: Path, files: object
) -> None:
    manifest = canonical({"kind": "fedlite-archive-1", "about": {}, "files": files})
    source, folder = put(tmp_path, archive._entry(archive.LIST, manifest))
    with pytest.raises(ArchiveError):
        archive.unpack(source, folder, lambda name: True)
    assert not any(folder.iterdir())


def test_links_devices_and_packed_archives_of_other_tars_are_refused(tmp_path: Path) -> None:
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, None):
        buffer = io.BytesIO()
        mode = "w:gz" if kind is None else "w"
        with tarfile.open(fileobj=buffer, mode=mode) as made:  # type: ignore[call-overload]
            info = tarfile.TarInfo(archive.LIST)
            info.type, info.linkname = kind or tarfile.REGTYPE, "/etc/passwd"
            made.addfile(info)
        source, folder = put(tmp_path, buffer.getvalue())
        assert not archive.is_one(source) or kind is not None
        with pytest.raises(ArchiveError):
            archive.unpack(source, folder, lambda name: True)
        assert not any(folder.iterdir())


def test_what_has_no_place_is_refused_whole(tmp_path: Path) -> None:
    source, folder = put(tmp_path, archive.pack({"a": b"", "b": b""}, {}))
    with pytest.raises(ArchiveError, match="holds 'b', which has no place here"):
        archive.unpack(source, folder, lambda name: name == "a")
    assert not any(folder.iterdir())


def test_nothing_is_written_through_what_lies_in_the_folder(tmp_path: Path) -> None:
    source, folder = put(tmp_path, archive.pack({"a": b"new"}, {}))
    (tmp_path / "outside").write_bytes(b"old")
    os.symlink(tmp_path / "outside", folder / "a")
    with pytest.raises(FileExistsError):
        archive.unpack(source, folder, lambda name: True)
    assert (tmp_path / "outside").read_bytes() == b"old"
