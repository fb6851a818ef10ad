"""Work is done once, again where its inputs changed, and not believed where it was cut short."""

from __future__ import annotations

import pytest

from tests.bench.cache import Cache


def test_made_once_for_the_same_inputs(tmp_path):
    made = []

    def make(folder):
        made.append(folder)
        (folder / "file").write_text(str(len(made)))

    cache = Cache(tmp_path)
    for rows, expected in ((1, "1"), (1, "1"), (2, "2"), (2, "2"), (1, "3")):
        assert (cache.folder("thing", {"rows": rows}, make) / "file").read_text() == expected


def test_what_was_cut_short_is_made_again(tmp_path):
    def fail(folder):
        (folder / "file").write_text("half")
        raise KeyboardInterrupt

    cache = Cache(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        cache.folder("thing", {}, fail)
    folder = cache.folder("thing", {}, lambda folder: (folder / "other").write_text("whole"))
    assert sorted(path.name for path in folder.iterdir()) == ["other", "receipt.json"]
