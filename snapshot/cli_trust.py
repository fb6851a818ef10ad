"""``python -m snapshot verify``, ``keygen`` and ``sign``: is it what was sealed, and by whom?"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from snapshot.cli import DEFAULT_REGISTRY, IdArgument, JsonOption, RegistryOption, print_json, size
from snapshot.cli_look import total_bytes
from snapshot.errors import GateDiedError, LibraryMissingError, RefusedApartError
from snapshot.registry import Registry
from snapshot.signing import Trust, key_id, library
from snapshot.verify import verify

_SERVICE = ("service", "onnxruntime", "tokenizers", "faiss", "structlog", "pydantic_settings")
"""What the gate imports and a machine that only publishes may lack."""

_PASSED, _REFUSED, _NO_REPORT = 0, 1, 2

KeysOption = Annotated[list[Path] | None, typer.Option("--key", help="A trusted public key: it must be signed by one of them.")]
PrivateKeyOption = Annotated[Path, typer.Option("--key", help="File of the private key, from: python -m snapshot keygen")]
DeepOption = Annotated[bool, typer.Option("--deep", help="Also load it and run the service's gate; takes its libraries.")]
AgainstOption = Annotated[str | None, typer.Option("--against", metavar="ID", help="With --deep: the one serving now.")]
KeyArgument = Annotated[Path, typer.Argument(metavar="KEY", help="File to write; the public key is written to KEY.pub.")]
RawOption = Annotated[bool, typer.Option("--raw", help="Base64 of the 32 bytes, not PEM.")]


def verify_snapshot(
    snapshot_id: IdArgument,
    registry: RegistryOption = DEFAULT_REGISTRY,
    key: KeysOption = None,
    deep: DeepOption = False,
    against: AgainstOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check signature, schema, files, sizes, hashes and counts of one snapshot."""
    if against is not None and not deep:
        raise typer.BadParameter("it is of --deep; name that too", param_hint="--against")
    trust = Trust.load(key, required=True) if key else None
    layout = Registry(registry).layout(snapshot_id)
    manifest = verify(layout.root, trust=trust)
    found = {
        "id": manifest.id,
        "intact": True,
        "files": len(manifest.files),
        "bytes": total_bytes(manifest),
        "documents": manifest.documents.count,
        "signature": "trusted" if trust else ("not checked" if layout.signature.is_file() else "none"),
    }
    if not as_json:
        signed = ", signed by a trusted key" if trust else ""
        what = f"{len(manifest.files)} files, {size(total_bytes(manifest))}, {manifest.documents.count} documents{signed}"
        typer.echo(f"{manifest.id}: intact ({what})")
    code, gate = _gate(snapshot_id, registry, against, key or (), as_json) if deep else (0, None)
    if as_json:
        print_json({**found, "gate": gate} if deep else found)
    if code:
        raise typer.Exit(code)


def keygen(path: KeyArgument, raw: RawOption = False, as_json: JsonOption = False) -> None:
    """Make a pair of keys to sign with: KEY, which only its owner can read, and KEY.pub, which services trust."""
    with library():
        from snapshot.keys import generate
    public_path = path.with_name(f"{path.name}.pub")
    public = generate(path, public_path, "raw" if raw else "pem")
    if as_json:
        print_json({"private_key": str(path), "public_key": str(public_path), "key_id": key_id(public)})
    else:
        typer.echo(f"{path}: keep it where snapshots are made\n{public_path}: give it to services ({key_id(public)})")


def sign(
    snapshot_id: IdArgument, key: PrivateKeyOption, registry: RegistryOption = DEFAULT_REGISTRY, as_json: JsonOption = False
) -> None:
    """Sign a snapshot of the registry, in place of any signature before; only an intact one is signed."""
    source = Registry(registry)
    verify(source.layout(snapshot_id).root, to_sign=True)
    public = source.sign(snapshot_id, key)
    if as_json:
        print_json({"id": snapshot_id, "key_id": key_id(public)})
    else:
        typer.echo(f"{snapshot_id}: signed by {key_id(public)}")


def _gate(snapshot_id: str, registry: Path, against: str | None, keys: Sequence[Path], as_json: bool) -> tuple[int, Any]:
    """Run the service's gate in a process of its own: it loads libraries that this program must not need.

    Without ``keys`` it trusts those of the service's settings.

    Returns:
        Its exit code and, with ``as_json``, its report.

    Raises:
        RefusedApartError, GateDiedError: with ``as_json``, there is no report.
    """
    missing = [name for name in _SERVICE if find_spec(name) is None]
    if missing:
        raise LibraryMissingError(
            f"--deep runs the service's gate, which needs {', '.join(missing)}; run it where the service is"
        )
    command = [sys.executable, "-m", "service", "gate", snapshot_id, "--registry", str(registry)]
    command += ["--against", against] if against else []
    command += [part for key in keys for part in ("--key", str(key))]
    if not as_json:
        return _told(subprocess.run(command, check=False).returncode), None
    done = subprocess.run([*command, "--json"], check=False, stdout=subprocess.PIPE)
    try:
        report = json.loads(done.stdout)
    except ValueError as error:  # it said why on standard error, which is ours too
        raise GateDiedError(
            f"{snapshot_id}: the gate gave no report (exit code {done.returncode}); see standard error"
        ) from error
    if "error" in report:
        raise RefusedApartError(report["error"]["message"], report["error"]["code"])
    return _told(done.returncode), report


def _told(code: int) -> int:
    """The gate's exit code; that of an error where it was killed."""
    return code if code in (_PASSED, _REFUSED) else _NO_REPORT
