"""Ids and paths are names inside their folder, on every file system."""

import pytest

from snapshot.errors import UnsafePathError
from snapshot.paths import check_paths, is_id


@pytest.mark.parametrize(
    "names",
    [
        [],
        ["query_tower/model.onnx", "index/index.faiss", "documents/part-00000.arrow", "golden/rows.npy", "report/a plot.png"],
        ["report/größe.png", "a/b/c/d", "..a/b", "a..b"],
    ],
)
def test_ordinary_paths_pass(names: list[str]) -> None:
    check_paths(names, "manifest")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["../evil"], "leaves the snapshot"),
        (["index/../../evil"], "leaves the snapshot"),
        ([".."], "leaves the snapshot"),
        (["/etc/passwd"], "is absolute"),
        (["//host/share"], "is absolute"),
        (["..\\evil"], "not the same name everywhere"),
        (["C:evil"], "not the same name everywhere"),
        (["a\x00b"], "not the same name everywhere"),
        (["a\nb"], "not the same name everywhere"),
        (["a\x9bb"], "not the same name everywhere"),
        (["u\u0308"], "not the same name everywhere"),
        (["a\ud800"], "not the same name everywhere"),
        (["file:stream"], "not the same name everywhere"),
        ([""], "empty or too long"),
        (["a" * 256], "empty or too long"),
        (["a/" * 300 + "a"], "empty or too long"),
        (["a//b"], "a part that is empty"),
        (["./a"], "a part that is empty, a dot"),
        (["a/"], "a part that is empty"),
        (["a ./b"], "space or dot"),
        (["a/b. "], "space or dot"),
        (["manifest.json"], "the manifest's or its signature's own"),
        (["MANIFEST.JSON"], "the manifest's or its signature's own"),
        (["manifest.sig"], "the manifest's or its signature's own"),
        (["Manifest.json/x"], "the manifest's or its signature's own"),
        (["index/a", "Index/A"], "differs from"),
        (["straße", "STRASSE"], "differs from"),
        (["index", "index/index.faiss"], "lies below the file"),
        (["Index", "index/index.faiss"], "lies below the file"),
    ],
)
def test_paths_that_could_lead_elsewhere_are_refused(names: list[str], message: str) -> None:
    with pytest.raises(UnsafePathError, match=message) as caught:
        check_paths(names, "where")
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("where: files: the path ")


@pytest.mark.parametrize("text", ["a", "20260102T030405Z-0a1b2c3d", "A.b_c-d", "0"])
def test_ids(text: str) -> None:
    assert is_id(text)


@pytest.mark.parametrize("text", ["", ".", "..", ".hidden", "a/b", "a\\b", "a b", "a\n", "ä", "a" * 129, "CURRENT", "Pins", "-a"])
def test_no_ids(text: str) -> None:
    assert not is_id(text)
