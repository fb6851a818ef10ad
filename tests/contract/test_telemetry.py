import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize("module", ["service.encoder", "offline.graph"])
def test_onnxruntime_keeps_no_device_id_and_so_reports_to_nobody(module, tmp_path):
    home = {**os.environ, "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    home.pop("ORT_DISABLE_TELEMETRY", None)
    code = f"import sys, {module}; assert 'onnxruntime' in sys.modules"
    subprocess.run([sys.executable, "-c", code], env=home, check=True)
    assert not list(tmp_path.rglob("*onnxruntime*"))
