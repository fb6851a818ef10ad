"""Addresses of servers, as settings and recipes name them."""

from __future__ import annotations

from urllib.parse import urlsplit


def check_port(url: str) -> str:
    """The address as it is.

    Raises:
        ValueError: it has no host, or its port is no port; says what is wanted.
    """
    try:
        parts = urlsplit(url)
        known = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        known = False
    if not known:
        raise ValueError(
            f"{url!r}: not an address of the form http://HOST:PORT with a port of 1 to 65535; an IPv6 host stands in []"
        )
    return url
