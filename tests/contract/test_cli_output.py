"""No command ends for a character that the terminal's encoding lacks."""

from __future__ import annotations

import io
import signal
import sys
from collections.abc import Callable, Iterator

import pytest

from offline.__main__ import main as offline
from service.__main__ import main as service
from snapshot.__main__ import main as snapshot


@pytest.fixture(autouse=True)
def same_signals() -> Iterator[None]:
    before = signal.getsignal(signal.SIGHUP)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("main", [offline, service, snapshot], ids=["offline", "service", "snapshot"])
def test_what_an_encoding_lacks_is_escaped(main: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    printed, said = io.BytesIO(), io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(printed, encoding="ascii"))
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(said, encoding="ascii"))
    monkeypatch.setattr(sys, "argv", ["program", "--help"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    for stream, content in ((sys.stdout, printed), (sys.stderr, said)):
        stream.write("\u68c0")
        stream.flush()
        assert content.getvalue().endswith(rb"\u68c0")
