import pytest

from offline.data.faults import Faults
from offline.errors import DataError


def test_lines_that_follow_from_others_are_told_and_not_counted_against_the_file(tmp_path, capsys):
    faults = Faults(tmp_path / "x.tsv", "judgements", unlimited=False)
    for line in range(2, 12):
        faults.add(line, "document 'e' is left out", "Remove it", follows=True)
    faults.settle(10)
    said = f"warning: {tmp_path}/x.tsv:2: document 'e' is left out; 10 of 10 judgements are like it and left out\n"
    assert capsys.readouterr().err == said
    for line in range(12, 18):
        faults.add(line, "document 'm' is not there", "Add it", follows=False)
    with pytest.raises(DataError, match=r"x\.tsv:12: document 'm' is not there\. 6 of 99 judgements are like it, too many"):
        faults.settle(99)


def test_a_file_without_faults_says_nothing(tmp_path, capsys):
    Faults(tmp_path / "x.tsv", "judgements", unlimited=False).settle(0)
    assert capsys.readouterr().err == ""
