"""Pages that are generated say what the code says."""

from pathlib import Path

from snapshot.schema import render_markdown

DOCS = Path(__file__).parents[2] / "docs"


def test_the_snapshot_format_page_is_up_to_date() -> None:
    page = (DOCS / "snapshot-format.md").read_text(encoding="utf-8")
    assert page == render_markdown(), "write it anew: python -m snapshot schema > docs/snapshot-format.md"
