"""A stage that runs alone reads nothing that was made with other settings or from other data."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from offline.__main__ import _add_stage, app
from offline.errors import StageError
from offline.made import check_bytes, check_made, check_read
from offline.recipe import Recipe
from offline.stages import Job, Source, Stage, Summary
from offline.walk import STAGES, Walk


def write(job: Job) -> Summary:
    (job.folder / "out.txt").write_text(f"{job.source.data} {job.recipe.model_dump_json()}")
    return {}


CHAIN = {
    stage.name: stage
    for stage in (
        Stage("prepare", write, sections=("data",), outside=lambda _, source: {"data": str(source.data)}),
        Stage("train", write, needs=("prepare",), sections=("text", "train")),
        Stage("distill", write, needs=("prepare", "train"), sections=("text", "distill")),
        Stage("export", write, needs=("distill",), sections=("export",)),
        Stage("pack", write, needs=("prepare", "train", "export"), sections=("text", "pack")),
        Stage("publish", write, needs=("pack",)),
    )
}


def toy(work: Path, data: str = "data", **sections: object) -> Walk:
    return Walk(Recipe.model_validate({"name": "toy", **sections}), Source(data=Path(data)), work)


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a whole walk of toy stages was."""
    for module in ("made", "walk"):
        monkeypatch.setattr(f"offline.{module}.stage_of", CHAIN.__getitem__)
    for name in CHAIN:
        toy(tmp_path).run(name)
    return tmp_path


def test_what_fits_is_taken(work: Path) -> None:
    for name in CHAIN:
        check_made(toy(work), (name,))
    check_made(toy(work, pack={"golden_k": 3}), ("pack",))


@pytest.mark.parametrize(
    ("stage", "sections", "told"),
    [
        (
            "pack",
            {"text": {"query": {"template": "ZZZ {text}", "max_tokens": 8}}},
            r"train in .* was made with other settings \(text.query.max_tokens, text.query.template\)",
        ),
        (
            "pack",
            {"text": {"document": {"max_tokens": 8, "template": "{title}. {text}"}}},
            r"train in .* settings \(text.document.max_tokens\)",
        ),
        ("export", {"distill": {"layers": [0, 1, 2]}}, r"distill in .* settings \(distill.layers\)"),
        ("distill", {"train": {"epochs": 9}}, r"train in .* settings \(train.epochs\)"),
    ],
)
def test_other_settings_are_refused_by_name(work: Path, stage: str, sections: dict[str, object], told: str) -> None:
    with pytest.raises(StageError, match=f"{told}; give .* with, or .*python -m offline run"):
        check_made(toy(work, **sections), (stage,), of_older_data=True)


def test_other_data_is_refused(work: Path) -> None:
    with pytest.raises(StageError, match=r"prepare in .* was made from other data"):
        check_made(toy(work, "elsewhere"), ("pack",))


def test_a_new_student_may_be_of_older_data(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check_made(toy(work, "elsewhere"), ("distill",), of_older_data=True)
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: prepare in ")


def test_a_new_student_may_learn_from_what_was_prepared_after_the_towers(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    later = toy(work, "elsewhere")
    later.run("prepare")
    check_made(later, ("distill",), of_older_data=True)
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: train in ")


def test_what_lacks_is_named_by_the_stage_that_needs_it(work: Path) -> None:
    shutil.rmtree(work / "distill")
    with pytest.raises(StageError, match="export needs the output of distill, which has not finished"):
        check_made(toy(work), ("pack",))


def test_what_the_stages_make_themselves_is_not_looked_at(work: Path) -> None:
    check_made(toy(work, "elsewhere", text={"query": {"max_tokens": 8}}), tuple(CHAIN))


def test_what_is_sealed_says_itself_what_it_was_made_from(work: Path) -> None:
    check_made(toy(work, "elsewhere", text={"query": {"max_tokens": 8}}), ("publish",))


def test_a_command_reads_only_what_its_recipe_would_make(work: Path) -> None:
    check_read(toy(work), "distill", "mteb")
    with pytest.raises(StageError, match=r"distill in .* settings \(distill.layers\)"):
        check_read(toy(work, distill={"layers": [0, 1, 2]}), "distill", "mteb")
    with pytest.raises(StageError, match=r"prepare in .* was made from other data"):
        check_read(toy(work, "elsewhere"), "distill", "mteb")
    shutil.rmtree(work / "distill")
    with pytest.raises(StageError, match="mteb needs the output of distill, which has not finished"):
        check_read(toy(work), "distill", "mteb")


def test_a_file_of_the_same_size_is_told_from_the_one_that_was_written(work: Path) -> None:
    check_bytes(work, "train")
    path = work / "train" / "out.txt"
    path.write_text(path.read_text().swapcase())
    with pytest.raises(StageError, match=r"train/out.txt: not the file that the stage train wrote"):
        check_bytes(work, "train")


def test_a_setting_that_the_work_is_older_than_counts_as_its_default(work: Path) -> None:
    (work / "train" / "config.json").write_text('{"text": {}, "train": {}}')
    check_made(toy(work), ("distill",))
    (work / "train" / "config.json").write_text('{"text": {}, "train": {"gone": 1}}')
    with pytest.raises(StageError, match=r"other settings \(train\)"):
        check_made(toy(work), ("distill",))


def test_the_command_of_a_stage_asks_before_it_runs(tmp_path: Path, beir_folder: Callable[[], Path]) -> None:
    data = beir_folder()
    (tmp_path / "toy.toml").write_text('name = "toy"\n')
    for name in ("prepare", "train"):
        _add_stage(name, STAGES[name])

    def call(name: str, *more: str) -> BaseException | None:
        arguments = [name, str(tmp_path / "toy.toml"), "--data", str(data), "--out", str(tmp_path / "work"), *more]
        return CliRunner().invoke(app, arguments).exception

    assert call("prepare") is None
    told = call("train", "--set", "data.relevance=2")
    assert isinstance(told, StageError)
    assert "prepare in" in str(told)
    assert "(data.relevance)" in str(told)
    (data / "queries.jsonl").write_text((data / "queries.jsonl").read_text().replace("a", "b", 1))
    assert "was made from other data" in str(call("train"))
    assert not (tmp_path / "work" / "train").exists()
