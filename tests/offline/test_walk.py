"""One run at a time in a work folder."""

import errno
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from offline.__main__ import app
from offline.errors import StageError, StorageError
from offline.recipe import Recipe
from offline.stages import Source
from offline.walk import STAGES, Walk, alone

HOLD = """
import sys
from pathlib import Path
from offline.walk import alone
with alone(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def toy(work: Path, data: Path) -> Walk:
    return Walk(Recipe(name="toy"), Source(data=data), work)


def test_a_second_run_in_the_same_folder_is_refused_while_the_first_is_at_work(
    tmp_path: Path, beir_folder: Callable[[], Path]
) -> None:
    walk = toy(tmp_path / "work", beir_folder())
    command = [sys.executable, "-c", HOLD, str(walk.work)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(StageError, match="another run is at work"):
            walk.run("prepare")
        other.kill()
    assert walk.run("prepare").summary["documents"]


@pytest.mark.parametrize("command", ["ablate", "scaling"])
def test_a_second_grid_in_the_same_folder_is_refused_while_the_first_is_at_work(
    tmp_path: Path, beir_folder: Callable[[], Path], command: str
) -> None:
    (tmp_path / "toy.toml").write_text('name = "toy"\n')
    with alone(tmp_path / "work" / command):
        arguments = [command, str(tmp_path / "toy.toml"), "--data", str(beir_folder()), "--out", str(tmp_path / "work")]
        refused = CliRunner().invoke(app, arguments)
    assert isinstance(refused.exception, StageError)
    assert f"{command}: another run is at work here" in str(refused.exception)
    assert [path.name for path in (tmp_path / "work" / command).iterdir()] == [".lock"]


def test_a_work_folder_that_cannot_be_made_says_so(tmp_path: Path, beir_folder: Callable[[], Path]) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="choose another folder"):
        toy(tmp_path / "file" / "work", beir_folder()).run("prepare")


def test_every_stage_comes_after_those_that_it_needs() -> None:
    walk = list(STAGES)
    for name in walk:
        stage = __import__(f"offline.{name}", fromlist=["STAGE"]).STAGE
        assert stage.name == name
        assert all(walk.index(needed) < walk.index(name) for needed in stage.needs)


def test_a_registry_that_can_be_written_is_left_as_it_was(tmp_path: Path) -> None:
    for registry in (tmp_path, tmp_path / "not" / "there"):
        Walk(Recipe(name="toy"), Source(registry=registry), tmp_path).reach()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("below", ["", "registry"])
def test_a_file_in_the_place_of_the_registry_is_told_before_the_first_stage(tmp_path: Path, below: str) -> None:
    (tmp_path / "toy.toml").write_text('name = "toy"\n')
    registry = tmp_path / "toy.toml" / below
    arguments = ["run", str(tmp_path / "toy.toml"), "--out", str(tmp_path / "work"), "--registry", str(registry)]
    refused = CliRunner().invoke(app, arguments)
    assert isinstance(refused.exception, StorageError)
    assert f"--registry {registry}: {tmp_path / 'toy.toml'} is not a folder; name a folder" in str(refused.exception)
    assert not (tmp_path / "work").exists()


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a file system in which nothing can be made, as Linux has")
def test_a_registry_that_cannot_be_written_is_told_before_the_first_stage(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"--registry /proc/registry: cannot be written \(.*\); make /proc writable"):
        Walk(Recipe(name="toy"), Source(registry=Path("/proc/registry")), tmp_path).reach()


def test_a_registry_in_a_folder_that_cannot_be_looked_into_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Path) -> bool:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "exists", refuse)
    with pytest.raises(StorageError, match=r"--registry .*registry: cannot be written \(Permission denied\)"):
        Walk(Recipe(name="toy"), Source(registry=tmp_path / "registry"), tmp_path).reach()
