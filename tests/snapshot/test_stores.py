"""Addresses of registries, before anything is sent."""

from __future__ import annotations

from pathlib import Path

import pytest

from snapshot.errors import RemoteAddressError
from snapshot.stores import check_url, folder_of, local_folder


@pytest.mark.parametrize("name", ["registry", "two words", "régistre", "100%", "a#b", "語"])
def test_a_file_url_is_the_folder_that_it_was_made_of(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    assert folder_of(folder.as_uri()) == local_folder(folder.as_uri()) == folder
    assert folder_of(str(folder)) == folder


@pytest.mark.parametrize("url", ["s3://AKIA:secret@bucket/prefix", "s3://secret@bucket", "gs://a:secret@b@bucket/x"])
def test_credentials_in_a_url_are_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(RemoteAddressError, match="credentials are no part") as caught:
        check_url(url)
    assert "secret" not in str(caught.value)


def test_an_at_sign_elsewhere_is_no_credential() -> None:
    check_url("s3://bucket/team@home/prefix")
    check_url("folder@home/registry")
    check_url("abfss://container@account.dfs.core.windows.net/prefix")


@pytest.mark.parametrize("url", ["s3://bucket/a//b", "s3://bucket//a"])
def test_a_prefix_with_an_empty_part_is_refused_by_name(url: str) -> None:
    with pytest.raises(RemoteAddressError, match="a part of the prefix is empty"):
        check_url(url)


@pytest.mark.parametrize("url", ["s3:/bucket", "s3:bucket/prefix", "S3:/x", "file:/registry", "http:/host/x", "ftp:/host"])
def test_a_url_that_lacks_slashes_is_no_folder(url: str) -> None:
    for use in (check_url, local_folder):
        with pytest.raises(RemoteAddressError, match="s3://BUCKET/PREFIX"):
            use(url)
    assert folder_of(f"./{url}") == Path(url)


def test_a_colon_elsewhere_is_part_of_a_name() -> None:
    for name in ("2026:11", "a/s3:/b", "C:", "name:with"):
        assert folder_of(name) == Path(name)
