import gzip

import pytest

from offline.data.lines import read_lines, read_objects
from offline.errors import DataError


def test_numbers_lines_and_drops_their_ends(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfone\r\n\nthree")
    assert list(read_lines(path)) == [(1, "one"), (2, ""), (3, "three")]


def test_unpacks_gzip(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress('{"a": "ü"}\n\n{"a": 2}\n'.encode()))
    assert list(read_objects(path)) == [(1, {"a": "ü"}), (3, {"a": 2})]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{}\nnot json\n", r"a\.jsonl:2: not JSON .*column 1.*one JSON object"),
        (b"[1]\n", r"a\.jsonl:1: a JSON list, not an object"),
        (b'{"a": NaN}\n', r"a\.jsonl:1: NaN is not JSON"),
        (b'{"a": ' + b"[" * 100_000 + b"\n", r"a\.jsonl:1: .*recursion"),
        (b'{"a": ' + b"9" * 5000 + b"}\n", r"a\.jsonl:1: .*digits"),
        (b'{}\n{"a": "\xfc"}\n', r"a\.jsonl:2: not UTF-8 \(byte 0xfc at position 8\); convert"),
        (b"{}\n\x00\x01\n", r"a\.jsonl:2: .*NUL byte"),
        ('{"a": 1}\n'.encode("utf-16"), r"a\.jsonl:1: .*NUL byte"),
        (b'{"a": "\\ud800"}\n', r"a\.jsonl:1: holds half of a surrogate pair"),
    ],
)
def test_refuses_broken_lines_by_place(tmp_path, content, message):
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        list(read_objects(path))


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(gzip.compress(b"{}\n" * 1000)[:-12], id="cut short"),
        pytest.param(b"{}\n", id="not gzip at all"),
        pytest.param(gzip.compress(b"")[:10] + b"\xff" * 20, id="bytes changed"),
    ],
)
def test_refuses_damaged_gzip(tmp_path, content):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.jsonl\.gz:\d+: damaged gzip .*again"):
        list(read_objects(path))


def test_refuses_what_cannot_be_read(tmp_path):
    with pytest.raises(DataError, match=r"cannot be read \(Is a directory\)"):
        list(read_lines(tmp_path))
