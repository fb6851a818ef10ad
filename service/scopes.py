"""What our own server puts into an ASGI scope, by key."""

from __future__ import annotations

EXTENSION = "scalingnote.connection"
"""Where an ASGI scope has its connection's Caller: ``scope["extensions"][EXTENSION].gone`` says whether it was closed."""

ARRIVED = "scalingnote.arrived"
"""Where an ASGI scope can ask whether the whole request was received, so that nobody has to wait for its body."""

REPLY = "scalingnote.reply"
"""Where an ASGI scope has a function that sends a whole answer in one write: see ``service.connections.Connection.reply``."""

BEGAN = "scalingnote.began"
"""Where an ASGI scope has when its request's first byte was seen, in seconds of the connections' clock."""
