"""Registries here and elsewhere, for the tests of what goes between them."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from make_snapshot import make_snapshot
from object_stores import S3, moto, rclone, use

from snapshot.layout import Layout
from snapshot.registry import Registry

SHARED_BYTES = 3 << 20


@pytest.fixture(scope="module", params=["moto", "rclone", "folder"])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3 | Path]:
    folder = tmp_path_factory.mktemp("remote")
    if request.param == "folder":
        yield folder
    elif request.param == "moto":
        with moto() as server:
            yield server
    else:
        with rclone(folder) as server:
            yield server


@pytest.fixture
def url(place: S3 | Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A fresh remote registry."""
    if isinstance(place, Path):
        folder = place / uuid.uuid4().hex
        folder.mkdir()
        return str(folder)
    use(monkeypatch, place)
    return f"s3://bucket/{uuid.uuid4().hex}"


@pytest.fixture
def bucket(url: str) -> str:
    """A fresh remote registry in an object store."""
    if "://" not in url:
        pytest.skip("a folder")
    return url


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    """One snapshot, which is wanted."""
    registry = Registry(tmp_path / "registry")
    registry.activate(make_snapshot(registry.root, tamper=add_shared).root.name, "for a test", "tests")
    return registry


@pytest.fixture
def other(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "other")


def add_shared(layout: Layout) -> None:
    """A file that is worth copying, and more than one request."""
    layout.report.mkdir()
    (layout.report / "shared.bin").write_bytes(b"0123456789abcdef" * (SHARED_BYTES // 16))
