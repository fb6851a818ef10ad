"""Operators' routes where CURRENT is garbage: looking must work then more than ever, and so must what repairs it."""

from __future__ import annotations

from pathlib import Path

import pytest
from make_snapshot import make_snapshot
from serving import TOKEN, client_of, tokens_file

from service.api.admin_schemas import SnapshotsResponse
from snapshot.registry import Registry

BEARER = {"Authorization": f"Bearer {TOKEN}"}


@pytest.mark.parametrize("content", [b"../elsewhere\n", b"\xff\xfe", b"x" * 5000])
def test_where_current_is_garbage_the_list_is_there_and_activating_repairs_it(tmp_path: Path, content: bytes) -> None:
    first, second = (make_snapshot(tmp_path, rows=20 + seed, seed=seed).root.name for seed in (1, 2))
    registry = Registry(tmp_path)
    registry.activate(first, "first", who="tests")
    with client_of(tmp_path, admin_tokens_file=tokens_file(tmp_path)) as client:
        (tmp_path / "CURRENT").write_bytes(content)
        client.parts.follower.converge()
        answer = client.get("/snapshots", headers=BEARER)
        listed = SnapshotsResponse.model_validate_json(answer.content)
        assert {row.id: (row.desired, row.serving) for row in listed.snapshots} == {first: (False, True), second: (False, False)}
        assert listed.desired is None
        assert listed.last_error is not None
        assert "activate a snapshot again" in listed.last_error.reason
        ended = client.post("/snapshots/end-trial", headers=BEARER)
        assert (ended.status_code, ended.json()["desired"]) == (202, None)
        assert client.post(f"/snapshots/{second}/activate", headers=BEARER).status_code == 202
    assert registry.current() == second
