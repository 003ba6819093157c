"""The wheel that a kit holds: what the project's build tool makes, and the same from each side."""

from __future__ import annotations

import io
import zipfile
from email.parser import Parser
from importlib.metadata import PathDistribution
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

from fedlite.deployment import wheel

ROOT = Path(__file__).resolve().parents[2]


def contents(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def own() -> dict[str, bytes]:
    name, data = wheel.own_wheel()
    assert name == "fedlite-0.1.0-py3-none-any.whl"
    assert wheel.own_wheel() == (name, data)
    return contents(data)


def test_it_is_what_the_build_tool_makes(own: dict[str, bytes], tmp_path: Path) -> None:
    (made,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    theirs = contents(Path(made).read_bytes())
    assert own.keys() == theirs.keys()
    written = ("/METADATA", "/WHEEL", "/RECORD")
    for name in own:
        if not name.endswith(written):
            assert own[name] == theirs[name], name
    ours, others = (
        Parser().parsestr(files["fedlite-0.1.0.dist-info/METADATA"].decode())
        for files in (own, theirs)
    )
    for header in ("Name", "Version", "Requires-Dist", "Requires-Python", "License-Expression"):
        assert ours.get_all(header) == others.get_all(header), header


def installed(own: dict[str, bytes], folder: Path) -> PathDistribution:
    """Unpack a wheel as an installer does, whose own files are beside it then."""
    for name, data in own.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    info = folder / "fedlite-0.1.0.dist-info"
    for name in ("INSTALLER", "REQUESTED", "direct_url.json"):
        (info / name).write_text("pip")
    with (info / "RECORD").open("a") as file:
        file.write("../../bin/fedlite,sha256=AAAA,9\nfedlite/__pycache__/cli.cpython-311.pyc,,\n")
        file.write("fedlite-0.1.0.dist-info/INSTALLER,sha256=AAAA,3\n")
    return PathDistribution(info)


def test_an_installation_gives_the_files_of_its_wheel(
    own: dict[str, bytes], tmp_path: Path
) -> None:
    found = wheel._recorded(installed(own, tmp_path))
    left_out = {"fedlite-0.1.0.dist-info/RECORD", "fedlite-0.1.0.dist-info/WHEEL"}
    assert found == {name: data for name, data in own.items() if name not in left_out}


@pytest.mark.parametrize("how", ["changed", "removed", "no record"])
def test_an_installation_that_is_not_whole_is_refused(
    own: dict[str, bytes], tmp_path: Path, how: str
) -> None:
    found = installed(own, tmp_path)
    if how == "changed":
        with (tmp_path / "fedlite" / "cli.py").open("a") as file:
            file.write("# patched by hand\n")
    elif how == "removed":
        (tmp_path / "fedlite" / "cli.py").unlink()
    else:
        (tmp_path / "fedlite-0.1.0.dist-info" / "RECORD").unlink()
    with pytest.raises(ValueError, match="install fedlite again"):
        wheel._recorded(found)


def test_a_checkout_of_another_release_is_refused(own: dict[str, bytes], tmp_path: Path) -> None:
    found = installed(own, tmp_path)
    needs = sorted({wheel._name(t) for t in found.requires or () if "extra ==" not in t})
    project = {"project": {"version": "0.1.0", "dependencies": needs}}
    wheel._refuse_stale(found, project)
    for change in ({"version": "0.2.0"}, {"dependencies": [*needs, "new-thing>=1"]}):
        with pytest.raises(ValueError, match="make setup"):
            wheel._refuse_stale(found, {"project": project["project"] | change})
