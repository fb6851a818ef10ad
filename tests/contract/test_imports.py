"""The borders between the parts, as import-linter reads them from pyproject.toml and as Python meets them."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LISTING = """
import importlib, pkgutil, sys, threading
package = importlib.import_module({package!r})
names = [module.name for module in pkgutil.walk_packages(package.__path__, "{package}.")]
for name in names:
    importlib.import_module(name)
assert threading.active_count() == 1, threading.enumerate()
sys.stderr.write("\\n".join(name for name in {heavy!r} if name in sys.modules))
"""


def run(*command, cwd=ROOT):
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def test_the_borders_hold():
    found = run(Path(sys.executable).with_name("lint-imports"), "--no-cache")
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize(
    ("package", "heavy"),
    [
        ("service", ("torch", "transformers", "sentence_transformers", "offline")),
        ("snapshot", ("torch", "faiss", "onnxruntime", "fastapi", "offline", "service")),
    ],
)
def test_importing_is_light_and_does_nothing(package, heavy, tmp_path):
    """No output, no threads, no files, no environment needed, and nothing heavy comes along, even indirectly."""
    found = run(sys.executable, "-W", "error", "-c", LISTING.format(package=package, heavy=heavy), cwd=tmp_path)
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []


def test_saying_that_receipts_fit_needs_no_torch(tmp_path):
    code = "import sys, offline.__main__; print('torch' in sys.modules, 'transformers' in sys.modules)"
    assert run(sys.executable, "-c", code, cwd=tmp_path).stdout.split() == ["False", "False"]
