"""Small files that are read whole."""

from __future__ import annotations

import codecs
from pathlib import Path

import pytest

from snapshot.files import read_secret


def test_a_secret_is_read_as_an_editor_of_windows_leaves_it_and_as_orchestrators_mount_it(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(codecs.BOM_UTF8 + b"sn_secret\r\n")
    (tmp_path / "mounted").symlink_to("real")
    assert read_secret(tmp_path / "mounted") == "sn_secret"


@pytest.mark.parametrize("content", [b"", b" \n", b"two\nlines", b"caf\xc3\xa9", b"\xff", b"a\x1bb", b"a" * 5000])
def test_what_is_no_secret_is_refused_and_not_repeated(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "key").write_bytes(content)
    with pytest.raises(ValueError, match=r"^not one line of printable ASCII$"):
        read_secret(tmp_path / "key")
