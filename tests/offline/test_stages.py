"""Receipts: work is kept when nothing that it depends on changed, and only then."""

import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from safetensors import SafetensorError

from offline.errors import RecipeError, StageError, StorageError
from offline.recipe import Recipe
from offline.stages import Job, Source, Stage, Summary, run_stage, storage_errors

RECIPE = Recipe(name="toy")
FULL = Path("/dev/full")


class Usage(NamedTuple):
    free: int


class Toy:
    """Two stages that count how often they ran; the second copies the output of the first."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.partial: list[list[str]] = []
        self.fail: Exception | None = None
        self.outside: dict[str, str] = {}
        self.first = Stage("first", self.write, sections=("train",), outside=lambda _recipe, _source: self.outside)
        self.second = Stage("second", self.copy, needs=("first",))

    def write(self, job: Job) -> Summary:
        self.ran.append("first")
        self.partial.append(sorted(path.name for path in job.folder.iterdir()))
        (job.folder / "half").write_text("x")
        if self.fail:
            raise self.fail
        (job.folder / "out.txt").write_text(f"epochs {job.recipe.train.epochs}")
        return {"lines": 1}

    def copy(self, job: Job) -> Summary:
        self.ran.append("second")
        (job.folder / "copy.txt").write_text((job.inputs["first"] / "out.txt").read_text())
        return {}


@pytest.fixture
def toy() -> Toy:
    return Toy()


def run(toy: Toy, work: Path, recipe: Recipe = RECIPE) -> list[bool]:
    return [run_stage(stage, work, recipe, Source()).reused for stage in (toy.first, toy.second)]


def kill(*_: object) -> None:
    raise KeyboardInterrupt


def with_epochs(epochs: float) -> Recipe:
    return RECIPE.model_copy(update={"train": RECIPE.train.model_copy(update={"epochs": epochs})})


def test_nothing_changed_nothing_runs(toy: Toy, tmp_path: Path) -> None:
    assert run(toy, tmp_path) == [False, False]
    assert run(toy, tmp_path) == [True, True]
    receipt = json.loads((tmp_path / "first" / "receipt.json").read_text())
    assert receipt["summary"] == {"lines": 1}
    assert set(receipt["outputs"]) == {"half", "out.txt"}
    assert json.loads((tmp_path / "first" / "config.json").read_text())["train"]["epochs"] == 1.0


def test_a_changed_config_runs_the_stage_and_those_that_read_it(toy: Toy, tmp_path: Path) -> None:
    run(toy, tmp_path)
    assert run(toy, tmp_path, with_epochs(2)) == [False, False]
    assert (tmp_path / "second" / "copy.txt").read_text() == "epochs 2"


def test_a_section_that_no_stage_reads_changes_nothing(toy: Toy, tmp_path: Path) -> None:
    run(toy, tmp_path)
    assert run(toy, tmp_path, RECIPE.model_copy(update={"name": "other"})) == [True, True]


def test_what_lies_outside_counts(toy: Toy, tmp_path: Path) -> None:
    run(toy, tmp_path)
    toy.outside = {"corpus.jsonl": "another hash"}
    assert run(toy, tmp_path) == [False, True], "the first ran again; its output is the same, so the second did not"


def test_a_missing_output_is_made_again(toy: Toy, tmp_path: Path) -> None:
    run(toy, tmp_path)
    (tmp_path / "first" / "out.txt").unlink()
    assert run(toy, tmp_path) == [False, True]


def test_partial_work_is_kept_for_the_same_inputs_and_wiped_for_others(toy: Toy, tmp_path: Path) -> None:
    toy.fail = KeyError("killed")
    for recipe in (RECIPE, RECIPE, with_epochs(5)):
        with pytest.raises(KeyError):
            run_stage(toy.first, tmp_path, recipe, Source())
    assert ["half" in names for names in toy.partial] == [False, True, False]


def test_what_a_stage_took_counts_what_a_kill_left(toy: Toy, tmp_path: Path) -> None:
    run_stage(toy.first, tmp_path, RECIPE, Source())
    folder = tmp_path / "first"
    assert json.loads((folder / "receipt.json").read_text())["resident_bytes"] > 1_000_000
    (folder / "receipt.json").unlink()
    inputs = json.loads((folder / "inputs.json").read_text())
    last = max(path.stat().st_mtime for path in folder.iterdir() if path.name != "inputs.json")
    (folder / "inputs.json").write_text(json.dumps({**inputs, "began": last - 100.0, "seconds": 20.0}))
    run_stage(toy.first, tmp_path, RECIPE, Source())
    assert 120.0 <= json.loads((folder / "receipt.json").read_text())["seconds"] < 150.0


def test_what_a_kill_tore_is_not_kept(toy: Toy, tmp_path: Path) -> None:
    toy.fail = KeyError("killed")
    with pytest.raises(KeyError):
        run_stage(toy.first, tmp_path, RECIPE, Source())
    (tmp_path / "first" / "plots" / ".tower.tmp").mkdir(parents=True)
    for name in (".out.txt.12.tmp", "plots/.a.png.12.tmp", "plots/.tower.tmp/.b.12.tmp", "plots/.tower.tmp/c", "plots/a.png"):
        (tmp_path / "first" / name).write_text("torn")
    toy.fail = None
    run_stage(toy.first, tmp_path, RECIPE, Source())
    assert set(json.loads((tmp_path / "first" / "receipt.json").read_text())["outputs"]) == {"half", "out.txt", "plots/a.png"}
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_folder_of_the_users_own_is_left_alone(toy: Toy, tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    run_stage(toy.first, tmp_path / "empty", RECIPE, Source())
    (tmp_path / "first" / "thesis.txt").write_text("years of work")
    with pytest.raises(StageError, match=r"first is not a folder of ours.*no inputs\.json; choose another --out"):
        run_stage(toy.first, tmp_path, RECIPE, Source())
    assert [path.name for path in (tmp_path / "first").iterdir()] == ["thesis.txt"]


def test_a_kill_before_the_first_file_is_whole_does_not_make_the_folder_foreign(toy: Toy, tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / ".inputs.json.123.tmp").write_text("{")
    assert not run_stage(toy.first, tmp_path, RECIPE, Source()).reused
    assert toy.partial == [["config.json", "inputs.json"]]


def test_a_kill_while_wiping_leaves_nothing_to_go_on_from(toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy.fail = KeyError("killed")
    with pytest.raises(KeyError):
        run_stage(toy.first, tmp_path, RECIPE, Source())
    (tmp_path / "first" / "tower").mkdir()
    monkeypatch.setattr("offline.stages.shutil.rmtree", kill)
    with pytest.raises(KeyboardInterrupt):
        run_stage(toy.first, tmp_path, with_epochs(5), Source())
    monkeypatch.undo()
    toy.fail = None
    run_stage(toy.first, tmp_path, RECIPE, Source())
    assert toy.partial[-1] == ["config.json", "inputs.json"]


def test_a_stage_out_of_order_names_the_one_before(toy: Toy, tmp_path: Path) -> None:
    with pytest.raises(StageError, match="second needs the output of first"):
        run_stage(toy.second, tmp_path, RECIPE, Source())


def test_a_full_disk_says_what_to_do(toy: Toy, tmp_path: Path) -> None:
    toy.fail = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(StorageError, match="make room"):
        run_stage(toy.first, tmp_path, RECIPE, Source())


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a file system in which nothing can be made, as Linux has")
def test_a_folder_that_cannot_be_made_says_what_to_do() -> None:
    folder = Path("/proc/work/train")
    with (
        pytest.raises(StorageError, match="No such file or directory; choose another folder"),
        storage_errors(folder),
    ):
        folder.mkdir(parents=True)


def fail_by_torch() -> None:
    torch.save({"weights": torch.zeros(100_000)}, FULL)


def fail_by_numpy() -> None:
    with FULL.open("wb", buffering=0) as handle:
        np.save(handle, np.zeros(100_000))


def fail_by_safetensors() -> None:
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


def fail_by_short_write() -> None:
    raise OSError("384000 requested and 102368 written")


@pytest.mark.skipif(not FULL.is_char_device(), reason="needs a device that is always full, which Linux has")
@pytest.mark.parametrize("fail", [fail_by_torch, fail_by_numpy, fail_by_safetensors, fail_by_short_write])
def test_a_full_disk_is_told_whatever_library_wrote(
    fail: Callable[[], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("offline.stages.shutil.disk_usage", lambda path: Usage(free=1 << 20) if path.exists() else None)
    with pytest.raises(StorageError, match=r"not-there-yet: .*make room"), storage_errors(tmp_path / "not-there-yet"):
        fail()


@pytest.mark.parametrize(
    ("error", "free"), [(RuntimeError("shapes differ"), 1 << 30), (ValueError("x"), 0), (RecipeError("No space left"), 0)]
)
def test_other_errors_stay_as_they_are(error: Exception, free: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("offline.stages.shutil.disk_usage", lambda _path: Usage(free=free))
    with pytest.raises(type(error), match=str(error)) as caught, storage_errors(tmp_path):
        raise error
    assert caught.value is error
