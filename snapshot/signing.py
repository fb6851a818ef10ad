"""Whether a snapshot comes from somebody who may publish: an Ed25519 signature (RFC 8032) of the manifest's bytes.

The manifest has the hash of every file, so its signature is one for all of them. It lies beside it as ``manifest.sig``,
64 bytes, as ``openssl pkeyutl -sign -rawin`` writes and ``openssl pkeyutl -verify -rawin`` reads it.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from snapshot.errors import KeyFileError, LibraryMissingError, SignatureError, UnsignedError
from snapshot.files import atomic_write, read_small
from snapshot.layout import Layout
from snapshot.manifest import read_bytes

_SIGNATURE_BYTES = 64


@dataclass(frozen=True, slots=True)
class Trust:
    """Whose signatures count.

    A signature that is there must be one of ``keys``, also where none is required. Several keys are trusted while one
    follows another.

    Attributes:
        keys: Ed25519 public keys, 32 bytes each.
        required: refuse what is not signed.
    """

    keys: tuple[bytes, ...]
    required: bool

    def __post_init__(self) -> None:
        if not self.keys:
            raise KeyFileError("trust needs a public key at least; make one with: python -m snapshot keygen KEY")

    @classmethod
    def load(cls, paths: Sequence[Path], *, required: bool) -> Trust:
        """From files of public keys, each PEM or base64 of 32 bytes, one or more in a file.

        Raises:
            KeyFileError: a file cannot be read, or has no such key.
        """
        with library():
            from snapshot.keys import read_public_keys
        return cls(tuple(dict.fromkeys(key for path in paths for key in read_public_keys(path))), required)

    def check(self, folder: Path, manifest: bytes) -> None:
        """Whether ``manifest``, the bytes of the snapshot in ``folder``, are signed by a trusted key.

        Raises:
            UnsignedError: there is no signature, and one is required.
            SignatureError: the signature is not one of these keys, or of other bytes.
        """
        path, signature = Layout(folder).signature, read_signature(folder)
        if signature is None:
            if self.required:
                sign_it = f"python -m snapshot sign {folder.name} --key KEY"
                raise UnsignedError(f"{path}: not signed, and unsigned snapshots are refused here; sign it: {sign_it}")
            return
        self.check_signature(signature, manifest, str(path))

    def check_signature(self, signature: bytes, manifest: bytes, where: str) -> None:
        """Whether ``signature``, which is ``where``, is one of ``manifest`` by a trusted key; SignatureError where not."""
        if not _signed_by(self.keys, signature, manifest):
            known = ", ".join(map(key_id, self.keys))
            raise SignatureError(
                f"{where}: not a signature of this manifest by a trusted key ({known}); do not use this snapshot"
            )


def read_signature(folder: Path) -> bytes | None:
    """The signature of the snapshot in ``folder``, or None where it is not signed; whose it is, ``Trust`` can tell.

    Raises:
        SignatureError: what is there in its place is no signature, whoever's: a link, a pipe, or not of 64 bytes.
    """
    path = Layout(folder).signature
    try:
        return check_form(read_small(path, _SIGNATURE_BYTES), path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SignatureError(f"{path}: cannot be read ({error.strerror}); sign the snapshot again") from error


def check_form(signature: bytes, where: object) -> bytes:
    """``signature`` if it can be one; SignatureError where not. Nobody knows what else would travel under its name."""
    if len(signature) != _SIGNATURE_BYTES:
        raise SignatureError(f"{where}: {len(signature)} bytes, a signature has {_SIGNATURE_BYTES}; sign the snapshot again")
    return signature


def key_id(public: bytes) -> str:
    """A short name for a public key, for people: the beginning of its base64."""
    return base64.b64encode(public).decode()[:12]


def sign(folder: Path, private_key: Path) -> bytes:
    """Sign the manifest of the snapshot in ``folder``, in place of any signature before; returns the public key.

    Raises:
        KeyFileError: the key cannot be read.
        ManifestError: there is no manifest.
        OSError: the folder cannot be written.
    """
    with library():
        from snapshot.keys import read_private_key
    key = read_private_key(private_key)
    signature = key.sign(read_bytes(Layout(folder).manifest))
    # beside the folder: what a kill left inside it would be an extra file
    with atomic_write(Layout(folder).signature, staging=folder.parent) as handle:
        handle.write(signature)
    return key.public_key().public_bytes_raw()


@contextmanager
def library() -> Iterator[None]:
    """Around the import of ``snapshot.keys``: most registries are not signed, and what it needs is an extra."""
    try:
        yield
    except ImportError as error:
        raise LibraryMissingError(
            "signatures need the library cryptography; install it: pip install 'scalingnote[signing]'"
        ) from error


def _signed_by(keys: Sequence[bytes], signature: bytes, content: bytes) -> bool:
    with library():
        from snapshot.keys import is_signed
    return any(is_signed(key, signature, content) for key in keys)
