"""Verifying what will be served first while the libraries load that will serve it: hashing gigabytes takes a core a second."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from pathlib import Path

from snapshot.errors import SnapshotError
from snapshot.manifest import Manifest
from snapshot.registry import Registry
from snapshot.signing import Trust
from snapshot.verify import verify


class HeadStart:
    """One verification that runs before it is asked for. Its result is used once: what is verified later is read anew."""

    def __init__(self, trust: Trust | None = None) -> None:
        """Nothing runs yet; ``trust`` says whose signatures count."""
        self._trust = trust
        self._folder: Path | None = None
        self._result: Future[Manifest] = Future()

    def begin(self, registry: Path) -> None:
        """Verify what the registry wants in a thread of its own; nothing happens where it wants nothing, or cannot be read."""
        try:
            found = Registry(registry)
            wanted = found.current()
            self._folder = None if wanted is None else found.layout(wanted).root
        except SnapshotError:  # the follower will meet it, and say so
            return
        if self._folder is not None:
            threading.Thread(target=self._verify, args=(self._folder,), name="head-start", daemon=True).start()

    def verify(self, folder: Path) -> Manifest:
        """``snapshot.verify.verify``, which may have begun already."""
        begun, self._folder = self._folder, None
        return self._result.result() if begun == folder else verify(folder, trust=self._trust)

    def _verify(self, folder: Path) -> None:
        try:
            self._result.set_result(verify(folder, trust=self._trust))
        except BaseException as error:  # noqa: BLE001 - raised again where the result is asked for
            self._result.set_exception(error)
