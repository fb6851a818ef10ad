"""The online half: loads one snapshot and answers queries inside a latency budget."""

import os

# onnxruntime reports to its maker from the moment it is imported, unless told not to before that.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
