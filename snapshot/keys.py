"""Ed25519 keys (RFC 8032) and their files: PEM, as openssl writes them, or base64 of the 32 bytes.

Needs the library cryptography, an extra: import it where a signature is asked for, see ``snapshot.signing``.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from snapshot.errors import KeyFileError
from snapshot.files import TEMPORARY, fsync_folder, read_small

KeyFormat = Literal["pem", "raw"]
_KEY_BYTES = 32
_MAX_FILE_BYTES = 64 << 10
_PEM = re.compile(rb"-----BEGIN [A-Z ]+-----.*?-----END [A-Z ]+-----", re.DOTALL)
_MAKE_ONE = "make a pair with: python -m snapshot keygen KEY"


def generate(private: Path, public: Path, key_format: KeyFormat = "pem") -> bytes:
    """Make a key pair; the private key's file can be read by its owner only. Returns the public key.

    Raises:
        KeyFileError: a file exists already, or cannot be written.
    """
    there = [path for path in (private, public) if path.is_symlink() or path.exists()]
    if there:
        killed = (
            ""
            if public in there
            else f"; {public.name} is missing, so perhaps a kill left it: remove it, and make the pair again"
        )
        raise KeyFileError(f"{there[0]}: exists already, and keys are never overwritten; choose another name{killed}")
    key = Ed25519PrivateKey.generate()
    _write_new(private, _private_text(key, key_format), 0o600)
    _write_new(public, _public_text(key, key_format), 0o644)
    return key.public_key().public_bytes_raw()


def read_public_keys(path: Path) -> tuple[bytes, ...]:
    """The Ed25519 public keys in a file: PEM, or base64 of 32 bytes a line; lines that begin with # are left out.

    Raises:
        KeyFileError: there is none, or something else is in it.
    """
    content = _read_key_file(path)
    if b"PRIVATE KEY" in content:
        raise KeyFileError(f"{path}: a private key; name the file of the public one, and keep this one where snapshots are made")
    found = tuple(_pem_keys(path, content) if b"-----BEGIN" in content else _raw_keys(path, content))
    if not found:
        raise KeyFileError(f"{path}: no key; {_MAKE_ONE}")
    return found


def read_private_key(path: Path) -> Ed25519PrivateKey:
    """The one private key in a file.

    Raises:
        KeyFileError: there is none, or something else is in it.
    """
    content = _read_key_file(path)
    if b"-----BEGIN" not in content:
        (raw, *more) = _raw_keys(path, content) or [b""]
        if len(raw) != _KEY_BYTES or more:
            raise KeyFileError(f"{path}: not one private key; {_MAKE_ONE}")
        return Ed25519PrivateKey.from_private_bytes(raw)
    try:
        key = load_pem_private_key(content, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:  # TypeError: it is encrypted
        raise KeyFileError(f"{path}: not a plain private key ({error})") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise KeyFileError(f"{path}: not an Ed25519 key; {_MAKE_ONE}")
    return key


def is_signed(key: bytes, signature: bytes, content: bytes) -> bool:
    """Whether ``signature`` is one of ``content`` by the public key ``key``."""
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, content)
    except InvalidSignature:
        return False
    return True


def _pem_keys(path: Path, content: bytes) -> Iterator[bytes]:
    for block in _PEM.findall(content):
        try:
            key = load_pem_public_key(block)
        except (ValueError, UnsupportedAlgorithm) as error:
            raise KeyFileError(f"{path}: not a public key ({error})") from error
        if not isinstance(key, Ed25519PublicKey):
            raise KeyFileError(f"{path}: not an Ed25519 key; {_MAKE_ONE}")
        yield key.public_bytes_raw()


def _raw_keys(path: Path, content: bytes) -> list[bytes]:
    lines = [line.strip() for line in content.splitlines()]
    try:
        keys = [base64.b64decode(line, validate=True) for line in lines if line and not line.startswith(b"#")]
    except binascii.Error as error:
        raise KeyFileError(f"{path}: neither PEM nor base64 ({error})") from error
    if any(len(key) != _KEY_BYTES for key in keys):
        raise KeyFileError(f"{path}: an Ed25519 key is base64 of {_KEY_BYTES} bytes")
    return keys


def _read_key_file(path: Path) -> bytes:
    try:
        return read_small(path.resolve(), _MAX_FILE_BYTES)  # mounted secrets are symbolic links
    except OSError as error:
        raise KeyFileError(f"{path}: cannot be read ({error.strerror}); name a key file") from error


def _write_new(path: Path, content: bytes, mode: int) -> None:
    """Linked to its name once it is whole: a kill leaves no half key, and a link never replaces a file."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY}")
    try:
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
            with os.fdopen(descriptor, "wb") as handle:
                handle.write(content)
                handle.flush()
                os.fsync(handle.fileno())
            os.link(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        fsync_folder(path.parent)
    except OSError as error:
        raise KeyFileError(f"{path}: cannot be written ({error.strerror}); choose another name") from error


def _private_text(key: Ed25519PrivateKey, key_format: KeyFormat) -> bytes:
    if key_format == "raw":
        return base64.b64encode(key.private_bytes_raw()) + b"\n"
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _public_text(key: Ed25519PrivateKey, key_format: KeyFormat) -> bytes:
    if key_format == "raw":
        return base64.b64encode(key.public_key().public_bytes_raw()) + b"\n"
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
