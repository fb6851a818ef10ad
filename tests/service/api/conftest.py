"""A service over a toy snapshot, shared by the tests that change nothing of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import Client, client_of, make_registry, tokens_file


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("registry")
    make_registry(folder)
    return folder


@pytest.fixture(scope="session")
def client(registry: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    tokens = tokens_file(tmp_path_factory.mktemp("tokens"))
    with client_of(registry, admin_tokens_file=tokens) as shared:
        yield shared
