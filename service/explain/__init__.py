"""``python -m service explain``: one query, every millisecond of it, and every recall point that it lost."""
