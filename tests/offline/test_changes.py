"""Pure comparisons; the oracle is hashlib and what the names of the cases say."""

import hashlib

import numpy as np
import pyarrow as pa
import pytest

from offline.changes import Documents, compare, compare_ids, text_hashes
from offline.data.prepared import TOWER_TEXTS
from snapshot.manifest import TextSpec


def documents(**texts):
    digests = b"".join(hashlib.sha256(text.encode()).digest() for text in texts.values())
    return Documents(list(texts), np.frombuffer(digests, np.uint8).reshape(-1, 32))


OLD = documents(a="one", b="two", c="three", d="two")


@pytest.mark.parametrize(
    ("new", "carried", "counts"),
    [
        ({"a": "one", "b": "two", "c": "three", "d": "two"}, [0, 1, 2, 3], (0, 0, 4, 0)),
        ({"d": "two", "c": "three", "b": "two", "a": "one"}, [3, 2, 1, 0], (0, 0, 4, 0)),
        ({"a": "one", "b": "2", "c": "three", "d": "two"}, [0, -1, 2, 3], (0, 1, 3, 0)),
        ({"a": "one", "c": "three"}, [0, 2], (0, 0, 2, 2)),
        ({"a": "one", "b": "two", "c": "three", "d": "two", "e": "five"}, [0, 1, 2, 3, -1], (1, 0, 4, 0)),
        ({"z": "three"}, [2], (1, 0, 0, 4)),
        ({"a": "three", "c": "one"}, [2, 0], (0, 2, 0, 2)),
        ({"x": "new", "y": "new"}, [-1, -1], (2, 0, 0, 4)),
    ],
    ids=["same", "moved", "changed", "dropped", "added", "renamed", "swapped", "all-other"],
)
def test_what_became_of_the_documents(new, carried, counts):
    found = compare(OLD, documents(**new))
    assert found.carried.tolist() == carried
    assert found.carried.dtype == np.int64
    assert (found.new, found.changed, found.unchanged, found.dropped) == counts
    assert found.encoded == carried.count(-1)


def test_without_hashes_every_document_is_encoded():
    found = compare_ids(["a", "b", "c"], ["b", "c", "d", "e"])
    assert found.carried.tolist() == [-1] * 4
    assert (found.new, found.changed, found.unchanged, found.dropped, found.encoded) == (2, 2, 0, 1, 4)


def test_the_hash_is_of_the_rendered_text():
    table = pa.table({"title": ["A", "", "é"], "text": ["  b\n c ", "d", "x" * 9000]}, schema=TOWER_TEXTS)
    found = text_hashes(TextSpec(template="{title}. {text}"), table)
    expected = [hashlib.sha256(text.encode()).hexdigest() for text in ("A. b c", "d", f"é. {'x' * 9000}")]
    assert [bytes(row).hex() for row in found] == expected
    assert found.dtype == np.uint8
    lowered = text_hashes(TextSpec(template="{title}. {text}", lowercase=True), table)
    assert bytes(lowered[0]).hex() == hashlib.sha256(b"a. b c").hexdigest()
