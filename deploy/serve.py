"""Run the service in the foreground and print what to try once it is ready. Standard library only.

``--check`` says whether the port is free, and does no more.
"""

from __future__ import annotations

import argparse
import http.client
import signal
import socket
import subprocess
import sys

_POLL_SECONDS = 0.2
_STOPPED_BY_SIGNAL = {-signal.SIGINT, -signal.SIGTERM, 128 + signal.SIGINT, 128 + signal.SIGTERM}


def main(arguments: list[str] | None = None) -> int:
    options = _parse(arguments)
    refusal = _refusal(options.host, options.port, options.target)
    if refusal:
        print(refusal, file=sys.stderr)
        return 1
    return 0 if options.check else _serve(options)


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", default="8000")
    parser.add_argument("--target", default="demo", help="of make, for what to do instead")
    parser.add_argument("--registry", default="registry")
    parser.add_argument("--check", action="store_true", help="only say whether the port is free")
    return parser.parse_args(arguments)


def _refusal(host: str, port: str, target: str) -> str | None:
    """Why ``port`` cannot be listened on, or None."""
    another = f"choose another port, as in: make {target} PORT=8765"
    if not (port.isascii() and port.isdecimal() and 0 < int(port[:6]) < 65536):
        return f"PORT={port} is no port: it is a number from 1 to 65535; {another}"
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, int(port)))
        except OSError as error:
            return f"Cannot listen on {host}:{port} ({error}). Stop what does, or {another}"
    return None


def _serve(options: argparse.Namespace) -> int:
    host, port = options.host, int(options.port)
    command = [sys.executable, "-m", "service", "--host", host, "--port", str(port), "--registry", options.registry]
    service = subprocess.Popen(command)
    # Ctrl-C reaches the service by itself; this process stays until the service has drained.
    signal.signal(signal.SIGINT, lambda *_: None)
    signal.signal(signal.SIGTERM, lambda *_: service.terminate())
    reachable = "127.0.0.1" if host in {"0.0.0.0", "::"} else host  # noqa: S104  compared, not bound
    if _wait_until_ready(service, reachable, port):
        print(_what_to_try(f"http://{reachable}:{port}"), flush=True)
    code = service.wait()
    return 0 if code in _STOPPED_BY_SIGNAL else code


def _wait_until_ready(service: subprocess.Popen[bytes], host: str, port: int) -> bool:
    """True when ``/readyz`` says 200, False when the service has ended before that."""
    while True:
        try:
            service.wait(_POLL_SECONDS)
        except subprocess.TimeoutExpired:
            if _is_ready(host, port):
                return True
        else:
            return False


def _is_ready(host: str, port: int) -> bool:
    connection = http.client.HTTPConnection(host, port, timeout=2)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _what_to_try(url: str) -> str:
    return f"""
Ready. In another terminal:
  curl -s {url}/search -H 'content-type: application/json' -d '{{"query": "join two paths together"}}'
In a browser:
  {url}/
Ctrl-C stops the service.
"""


if __name__ == "__main__":
    sys.exit(main())
