import gzip
import tracemalloc

import pytest

from offline.data.query_log import read_query_log
from offline.errors import DataError


def test_one_query_a_line(tmp_path, capsys):
    path = tmp_path / "log.txt"
    path.write_text("find a file\n\n   \ncopy a tree\n")
    assert read_query_log(path) == ["find a file", "copy a tree"]
    assert "log.txt:2: empty, and passed over; so are 2 lines in all" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["log.jsonl.gz", "LOG.JSONL.GZ", "log.ndjson.gz", "log.json.gz"])
def test_jsonl_with_text_or_query(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(gzip.compress(b'{"text": "a b", "count": 3}\n{"query": "c"}\n'))
    assert read_query_log(path) == ["a b", "c"]


def test_long_lines_are_passed_over_and_counted(tmp_path, capsys):
    path = tmp_path / "log"
    path.write_text(f"{'x' * 2001}\n{'y' * 2000}\n")
    assert read_query_log(path) == ["y" * 2000]
    assert "log:1: longer than 2000 characters, and passed over; so are 1 lines in all" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["log", "log.jsonl"])
def test_a_huge_line_is_never_in_memory_as_a_whole(tmp_path, capsys, name):
    path = tmp_path / name
    queries = ["find a file", "copy a tree"] if name == "log" else ['{"text": "find a file"}', '{"text": "copy a tree"}']
    path.write_text("\n".join([queries[0], "é" * 20_000_000, queries[1]]))
    tracemalloc.start()
    assert read_query_log(path) == ["find a file", "copy a tree"]
    assert tracemalloc.get_traced_memory()[1] < 2_000_000
    tracemalloc.stop()
    assert f"{name}:2: longer than 2000 characters" in capsys.readouterr().err


def test_says_that_a_log_is_empty(tmp_path, capsys):
    (tmp_path / "log").write_text("\n")
    assert read_query_log(tmp_path / "log") == []
    assert "holds no query" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("log.txt", b"fine\n\xff\n", r"log\.txt:2: not UTF-8"),
        ("log.txt", b"\xe9" * 70_000, r"log\.txt:1: not UTF-8"),
        ("log.txt", b"fine\n" + b"\x80" * 70_000, r"log\.txt:2: not UTF-8"),
        ("log.txt", b"fine\n\x00\n", r"log\.txt:2: .*NUL byte"),
        ("log.jsonl", b'{"q": "x"}\n', r"log\.jsonl:1: no string in 'text' or 'query'"),
        ("log.jsonl", b'{"text": 3}\n', r"log\.jsonl:1: no string"),
        ("log.jsonl", b"plain\n", r"log\.jsonl:1: not JSON"),
    ],
)
def test_refuses_bad_files_by_place(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_query_log(tmp_path / name)


def test_refuses_a_missing_file(tmp_path):
    with pytest.raises(DataError, match="no such file; --query-log takes"):
        read_query_log(tmp_path / "nowhere")
