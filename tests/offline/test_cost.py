import json
import os
import subprocess
import sys

import pytest

from offline.cost import cost_of, peak_resident_bytes, seconds_before


def write(path, **content):
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def test_seconds_add_up_and_the_highest_peak_counts(tmp_path):
    receipts = [
        write(tmp_path / "a" / "receipt.json", seconds=10.0, resident_bytes=5),
        write(tmp_path / "b" / "receipt.json", seconds=2.5, resident_bytes=7),
    ]
    assert cost_of(receipts).seconds == 12.5
    assert cost_of(receipts).resident_bytes == 7


def test_memory_is_unknown_where_an_old_receipt_does_not_say(tmp_path):
    assert cost_of([write(tmp_path / "a" / "receipt.json", seconds=10.0)]).resident_bytes is None


def test_the_stage_at_work_counts_with_what_it_took_before_a_kill(tmp_path, monkeypatch):
    monkeypatch.setattr("offline.cost.time.time", lambda: 1030.0)
    receipt = write(tmp_path / "a" / "receipt.json", seconds=10.0, resident_bytes=1)
    cost = cost_of([receipt], write(tmp_path / "b" / "inputs.json", began=1000.0, seconds=5.0))
    assert cost.seconds == 45.0
    assert cost.resident_bytes == pytest.approx(peak_resident_bytes(), rel=0.2)


def test_partial_work_counts_up_to_its_last_file(tmp_path):
    inputs = write(tmp_path / "train" / "inputs.json", began=1000.0, seconds=5.0)
    os.utime(inputs, (1500.0, 1500.0))
    assert seconds_before(inputs, 1000.0, 5.0) == 5.0
    for name, when in (("early", 1010.0), ("late", 1040.0)):
        (tmp_path / "train" / name).touch()
        os.utime(tmp_path / "train" / name, (when, when))
    assert seconds_before(inputs, 1000.0, 5.0) == 45.0


def test_the_peak_is_that_of_the_process_and_not_of_its_parent():
    held = bytearray(os.urandom(1)) * 150_000_000
    code = "from offline.cost import peak_resident_bytes as p; a = p(); b = bytearray(b'x') * 60_000_000; print(a, p())"
    before, after = map(int, subprocess.check_output([sys.executable, "-c", code]).split())
    assert before < len(held)
    assert after - before > 50_000_000
