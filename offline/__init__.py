"""The offline half: trains towers, distils the query tower, encodes documents and publishes snapshots."""

import os

# onnxruntime reports to its maker from the moment it is imported, unless told not to before that.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
