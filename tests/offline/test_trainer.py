import json
import re
import signal

import numpy as np
import pytest
from forked import exit_codes
from tiny_training import curve_of, die_while_saving, make_job, run, vectors_of

from offline.data.negatives import read
from offline.errors import TrainingError
from offline.trainer import last_checkpoint, read_result, write_result


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "tower"), [("train", "document_tower"), ("distill", "student"), ("refine", "student")])
def test_killed_and_run_again_ends_as_if_never_killed(tmp_path, stage, tower):
    """With dropout, hard negatives mined each epoch, an average of the weights and the dev curve."""
    make_job(tmp_path, stage)
    if stage != "train":
        run(tmp_path, "train", train={"epochs": 0})
    if stage == "refine":
        run(tmp_path, "distill", distill={"epochs": 0})
        run(tmp_path, "encode")
    run(tmp_path, stage)
    (tmp_path / stage).rename(tmp_path / "untouched")

    make_job(tmp_path, stage)
    assert exit_codes(die_while_saving, (tmp_path, stage, 3)) == [-signal.SIGKILL]
    kept = last_checkpoint(tmp_path / stage / "checkpoints")
    assert kept is not None
    assert kept.name == "checkpoint-6"  # the third, number 9, was not complete and is gone
    assert [path.name for path in kept.parent.iterdir()] == ["checkpoint-6"]
    run(tmp_path, stage)
    for expected in (tmp_path / "untouched").rglob("*.safetensors"):
        found = tmp_path / stage / expected.relative_to(tmp_path / "untouched")
        assert found.read_bytes() == expected.read_bytes(), expected
    np.testing.assert_array_equal(vectors_of(tmp_path / stage / tower), vectors_of(tmp_path / "untouched" / tower))
    if stage == "train":
        assert curve_of(tmp_path / "train") == curve_of(tmp_path / "untouched")
        told, untouched = (json.loads((tmp_path / name / "training.json").read_text()) for name in ("train", "untouched"))
        assert told == untouched, "the log and the final loss among them"
        for mined in (tmp_path / "untouched" / "negatives").iterdir():
            assert read(tmp_path / "train" / "negatives" / mined.name).equals(read(mined))


def test_a_damaged_checkpoint_without_a_marker_is_removed(tmp_path):
    whole, half = tmp_path / "checkpoint-20", tmp_path / "checkpoint-100"
    for folder in (whole, half):
        folder.mkdir()
        (folder / "weights.pt").touch()
    (whole / "complete").touch()
    assert last_checkpoint(tmp_path) == whole
    assert not half.exists()


def test_without_checkpoints_training_begins_anew(tmp_path):
    assert last_checkpoint(tmp_path / "checkpoints") is None


def test_a_finished_training_is_not_repeated(tmp_path):
    first = run(tmp_path, "train")
    weights = tmp_path / "train" / "query_tower" / "model.safetensors"
    written = weights.stat().st_mtime_ns
    assert run(tmp_path, "train") == first
    assert weights.stat().st_mtime_ns == written


def test_the_result_stays_and_checkpoints_go(tmp_path):
    assert read_result(tmp_path) is None
    (tmp_path / "checkpoints" / "checkpoint-3").mkdir(parents=True)
    write_result(tmp_path, {"pairs": 3}, [{"step": 1, "loss": 2.0}])
    assert not (tmp_path / "checkpoints").exists()
    assert read_result(tmp_path) == {"pairs": 3}
    assert json.loads((tmp_path / "training.json").read_text())["log"] == [{"step": 1, "loss": 2.0}]


def test_a_loss_that_is_not_finite_stops_the_training(tmp_path, monkeypatch):
    monkeypatch.setattr("offline.losses.info_nce", lambda *given, **_: given[0].sum() * float("nan"))
    with pytest.raises(TrainingError, match=r"the loss is nan at step 1 of 14; lower learning_rate"):
        run(tmp_path, "train")


def test_progress_is_told_in_lines_and_nothing_else_is_written(tmp_path, monkeypatch, capfd):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    make_job(tmp_path, "train")
    capfd.readouterr()
    run(tmp_path, "train")
    captured = capfd.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert lines[:2] == [
        "  20 dev queries: 6 training queries are held out to measure on",
        "  54 pairs, 7 steps an epoch, 2 epochs",
    ]
    told = [re.sub(r"[\d.]+ ", "", line).strip() for line in lines[2:]]
    # A slow machine is told how far it is between the epochs too.
    assert [line for line in told if not re.match(r"train: |\w+ vectors, batches: ", line)] == [
        "dev nDCG@after epochs",
        "hard negatives of queries",
        "dev nDCG@after epochs",
        "hard negatives of queries",
        "dev nDCG@after epochs",
    ]
    assert list((tmp_path / "here").iterdir()) == []


@pytest.mark.parametrize(
    "fault", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")]
)
def test_too_little_memory_is_named_with_what_to_do(tmp_path, monkeypatch, fault):
    def fail(*_, **__):
        raise fault

    monkeypatch.setattr("offline.losses.info_nce", fail)
    with pytest.raises(TrainingError, match=r"out of memory at step 1 of 14\. Set mini_batch_size"):
        run(tmp_path, "train")


def test_other_faults_are_not_taken_for_it(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr("offline.losses.info_nce", fail)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        run(tmp_path, "train")
