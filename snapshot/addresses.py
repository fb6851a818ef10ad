"""Addresses of servers, as settings and recipes name them."""

from __future__ import annotations

from urllib.parse import urlsplit


def server_address(url: str) -> str:
    """The address of a server, without the slash that may end it.

    Raises:
        ValueError: it has no host, its port is no port, or there is more in it, such as a password or the name of a database,
            which others would read in another way; says what is wanted. A password is not repeated.
    """
    try:
        parts = urlsplit(url)
        known = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        known = False
    if "@" in url:
        raise ValueError("an address of the form http://HOST:PORT holds no user and no password: name a file that does")
    if not known or parts.path not in ("", "/") or parts.query or parts.fragment or any(map(str.isspace, url)):
        raise ValueError(
            f"{url!r}: not an address of the form http://HOST:PORT with a port of 1 to 65535 and nothing after it; an IPv6 host "
            "stands in []"
        )
    return f"{parts.scheme}://{parts.netloc}"
