"""Signatures: made by us and checked by openssl, made by openssl and checked by us; nothing else passes."""

import base64
import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from make_snapshot import make_snapshot

from snapshot.errors import KeyFileError, ManifestError, SignatureError, UnsignedError
from snapshot.keys import KeyFormat, generate, read_public_keys
from snapshot.layout import Layout
from snapshot.registry import Registry
from snapshot.signing import Trust, sign
from snapshot.verify import verify

OPENSSL = shutil.which("openssl")


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return make_snapshot(tmp_path / "made", rows=20)


def make_keys(folder: Path, name: str = "key", key_format: KeyFormat = "pem") -> tuple[Path, Path]:
    private, public = folder / name, folder / f"{name}.pub"
    generate(private, public, key_format)
    return private, public


@pytest.mark.parametrize("key_format", ["pem", "raw"])
def test_a_signed_snapshot_is_trusted_and_still_intact(layout: Layout, tmp_path: Path, key_format: KeyFormat) -> None:
    private, public = make_keys(tmp_path, key_format=key_format)
    assert read_public_keys(public) == (sign(layout.root, private),)
    trust = Trust.load([public], required=True)
    assert verify(layout.root, trust=trust) == verify(layout.root)
    assert len(layout.signature.read_bytes()) == 64


def test_files_of_private_keys_are_their_owners_only_and_never_overwritten(tmp_path: Path) -> None:
    private, public = make_keys(tmp_path)
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    before = private.read_bytes()
    with pytest.raises(KeyFileError, match="never overwritten"):
        generate(private, tmp_path / "other.pub")
    with pytest.raises(KeyFileError, match="never overwritten"):
        generate(tmp_path / "other", public)
    assert private.read_bytes() == before
    assert not (tmp_path / "other").exists()
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    with pytest.raises(KeyFileError, match="never overwritten"):
        generate(tmp_path / "link", tmp_path / "link.pub")


def test_an_unsigned_snapshot_is_refused_where_signatures_are_required(layout: Layout, tmp_path: Path) -> None:
    _, public = make_keys(tmp_path)
    with pytest.raises(UnsignedError, match="python -m snapshot sign") as caught:
        verify(layout.root, trust=Trust.load([public], required=True))
    assert caught.value.code == "signature_missing"
    verify(layout.root, trust=Trust.load([public], required=False))


@pytest.mark.parametrize("required", [True, False])
def test_a_signature_by_somebody_else_is_refused(layout: Layout, tmp_path: Path, required: bool) -> None:
    private, _ = make_keys(tmp_path, "stranger")
    _, public = make_keys(tmp_path, "ours")
    sign(layout.root, private)
    with pytest.raises(SignatureError, match="trusted key") as caught:
        verify(layout.root, trust=Trust.load([public], required=required))
    assert caught.value.code == "signature_wrong"


@pytest.mark.parametrize("content", [b"", b"x" * 64, b"x" * 63, b"x" * 65, b"x" * 1_000_000])
def test_garbage_is_no_signature(layout: Layout, tmp_path: Path, content: bytes) -> None:
    _, public = make_keys(tmp_path)
    layout.signature.write_bytes(content)
    with pytest.raises(SignatureError, match=r"manifest\.sig"):
        verify(layout.root, trust=Trust.load([public], required=False))


def link_to_a_secret(layout: Layout) -> None:
    (layout.root.parent / "secret").write_bytes(b"s" * 64)
    layout.signature.symlink_to(layout.root.parent / "secret")


NO_SIGNATURES: list[Callable[[Layout], object]] = [
    link_to_a_secret,
    lambda layout: layout.signature.symlink_to("/nowhere"),
    lambda layout: os.mkfifo(layout.signature),
    lambda layout: layout.signature.mkdir(),
    lambda layout: layout.signature.write_bytes(b""),
    lambda layout: layout.signature.write_bytes(b"x" * 65),
]


@pytest.mark.parametrize("put", NO_SIGNATURES)
def test_what_can_be_no_signature_is_refused_by_those_too_who_trust_everybody(
    layout: Layout, tmp_path: Path, put: Callable[[Layout], object]
) -> None:
    put(layout)
    registry = Registry(tmp_path / "registry")
    with pytest.raises(SignatureError, match=r"manifest\.sig"):
        verify(layout.root)
    with pytest.raises(SignatureError, match=r"manifest\.sig"):
        registry.publish(layout.root)
    assert registry.ids() == []


def test_signing_replaces_what_was_no_signature(layout: Layout, tmp_path: Path) -> None:
    private, public = make_keys(tmp_path)
    link_to_a_secret(layout)
    verify(layout.root, to_sign=True)
    sign(layout.root, private)
    verify(layout.root, trust=Trust.load([public], required=True))
    assert (layout.root.parent / "secret").read_bytes() == b"s" * 64


def test_the_signature_is_checked_before_the_manifest_is_parsed(layout: Layout, tmp_path: Path) -> None:
    private, public = make_keys(tmp_path)
    sign(layout.root, private)
    layout.manifest.write_bytes(b"[" * 100_000)
    with pytest.raises(SignatureError):
        verify(layout.root, trust=Trust.load([public], required=True))
    with pytest.raises(ManifestError):
        verify(layout.root)


def test_a_manifest_and_its_hashes_rewritten_together_are_found(layout: Layout, tmp_path: Path) -> None:
    """Hashes alone do not protect from somebody who can write the folder."""
    private, public = make_keys(tmp_path)
    sign(layout.root, private)
    manifest = json.loads(layout.manifest.read_text())
    layout.manifest.write_text(json.dumps({**manifest, "name": "evil"}))
    verify(layout.root)
    with pytest.raises(SignatureError):
        verify(layout.root, trust=Trust.load([public], required=True))


def test_a_key_can_follow_another(layout: Layout, tmp_path: Path) -> None:
    old, old_public = make_keys(tmp_path, "old", "raw")
    new, new_public = make_keys(tmp_path, "new", "pem")
    trust = Trust.load([old_public, new_public], required=True)
    for private in (old, new):
        sign(layout.root, private)
        verify(layout.root, trust=trust)
    (tmp_path / "both.pub").write_bytes(new_public.read_bytes() + make_keys(tmp_path, "third")[1].read_bytes())
    assert len(read_public_keys(tmp_path / "both.pub")) == 2
    verify(layout.root, trust=Trust.load([tmp_path / "both.pub"], required=True))
    with pytest.raises(SignatureError):
        verify(layout.root, trust=Trust.load([old_public], required=True))


def test_a_file_of_several_keys_may_have_comments(tmp_path: Path) -> None:
    keys = [make_keys(tmp_path, name, "raw")[1].read_text() for name in ("a", "b")]
    (tmp_path / "keys").write_text("# two\n\n" + "".join(keys))
    assert [base64.b64encode(key).decode() + "\n" for key in read_public_keys(tmp_path / "keys")] == keys


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no key"),
        (b"# nothing\n", "no key"),
        (b"not base64!", "neither PEM nor base64"),
        (b"AAAA", "base64 of 32 bytes"),
        (b"x" * 100_000, "larger than"),
        (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----", "not a public key"),
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----", "a private key"),
        (b"-----BEGIN PUBLIC KEY-----\nAAAA", "no key"),
    ],
)
def test_what_is_no_public_key_is_refused_by_name(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "key").write_bytes(content)
    with pytest.raises(KeyFileError, match=message):
        Trust.load([tmp_path / "key"], required=True)


@pytest.mark.parametrize("content", [b"", b"AAAA", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
def test_what_is_no_private_key_is_refused_by_name(layout: Layout, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "key").write_bytes(content)
    with pytest.raises(KeyFileError):
        sign(layout.root, tmp_path / "key")
    assert not layout.signature.exists()


def test_a_public_key_signs_nothing_and_a_missing_one_is_named(layout: Layout, tmp_path: Path) -> None:
    _, public = make_keys(tmp_path)
    with pytest.raises(KeyFileError):
        sign(layout.root, public)
    with pytest.raises(KeyFileError, match=r"nothing: cannot be read \(No such file"):
        sign(layout.root, tmp_path / "nothing")
    with pytest.raises(KeyFileError, match="a public key at least"):
        Trust((), required=True)


def test_a_signature_is_published_along(layout: Layout, tmp_path: Path) -> None:
    private, public = make_keys(tmp_path)
    sign(layout.root, private)
    registry = Registry(tmp_path / "registry")
    published = registry.layout(registry.publish(layout.root).id)
    verify(published.root, trust=Trust.load([public], required=True))


def test_a_snapshot_is_signed_in_its_registry(layout: Layout, tmp_path: Path) -> None:
    private, public = make_keys(tmp_path)
    registry = Registry(tmp_path / "registry")
    snapshot_id = registry.publish(layout.root).id
    registry.sign(snapshot_id, private)
    verify(registry.layout(snapshot_id).root, trust=Trust.load([public], required=True))
    assert not layout.signature.exists()
    assert not [path for path in registry.root.iterdir() if path.suffix == ".tmp"]


@pytest.mark.skipif(OPENSSL is None, reason="openssl is not installed: the only other implementation at hand")
def test_openssl_reads_and_writes_the_same(layout: Layout, tmp_path: Path) -> None:
    def openssl(*arguments: object) -> None:
        subprocess.run([str(OPENSSL), *map(str, arguments)], check=True, capture_output=True)

    private, public = make_keys(tmp_path)
    sign(layout.root, private)
    files = ("-rawin", "-in", layout.manifest, "-sigfile", layout.signature)
    openssl("pkeyutl", "-verify", "-pubin", "-inkey", public, *files)

    theirs, theirs_public = tmp_path / "theirs", tmp_path / "theirs.pub"
    openssl("genpkey", "-algorithm", "ed25519", "-out", theirs)
    openssl("pkey", "-in", theirs, "-pubout", "-out", theirs_public)
    openssl("pkeyutl", "-sign", "-inkey", theirs, "-rawin", "-in", layout.manifest, "-out", layout.signature)
    verify(layout.root, trust=Trust.load([theirs_public], required=True))
    sign(layout.root, theirs)
    verify(layout.root, trust=Trust.load([theirs_public], required=True))

    openssl("genpkey", "-algorithm", "rsa", "-out", tmp_path / "rsa")
    openssl("pkey", "-in", tmp_path / "rsa", "-pubout", "-out", tmp_path / "rsa.pub")
    with pytest.raises(KeyFileError, match="not an Ed25519 key"):
        sign(layout.root, tmp_path / "rsa")
    with pytest.raises(KeyFileError, match="not an Ed25519 key"):
        Trust.load([tmp_path / "rsa.pub"], required=True)


def test_without_the_library_it_says_what_to_install(layout: Layout, tmp_path: Path) -> None:
    _, public = make_keys(tmp_path)
    code = f"""
import sys
sys.modules["cryptography"] = None
from pathlib import Path
from snapshot.errors import LibraryMissingError
from snapshot.signing import Trust
from snapshot.verify import verify
verify(Path({str(layout.root)!r}))
try:
    Trust.load([Path({str(public)!r})], required=True)
except LibraryMissingError as error:
    print(error)
"""
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'scalingnote[signing]'" in shown.stdout
