"""``python -m service doctor``: what is wrong with this machine, its registry, or a running service, and what to do about it."""
