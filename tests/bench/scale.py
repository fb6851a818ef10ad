"""What groups, goals and rivals have in common: numbers that a figure means nothing without."""

from __future__ import annotations

K = 10
"""Hits of every search."""
BUDGET_MS = 50.0
TIGHT_MS = 5.0
"""A budget that full effort does not fit into, on a slow snapshot."""
SLOW_MS = 6.0
"""Full effort of a slow snapshot takes at least so long."""
SATURATED = 32
"""Connections of a closed loop that keep every core busy and no queue long."""
OVERLOAD = 3.0
"""Times the capacity."""
HEALTH = ("livez", "metrics")
"""Paths that have to answer under any load."""
