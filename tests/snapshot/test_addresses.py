import pytest

from snapshot.addresses import check_port


@pytest.mark.parametrize("url", ["http://milvus:19530", "https://milvus.example", "http://[::1]:19530", "http://127.0.0.1:1"])
def test_an_address_is_left_as_it_is(url: str) -> None:
    assert check_port(url) == url


@pytest.mark.parametrize("url", ["http://milvus:99999", "http://milvus:0", "http://:19530", "http://[::1:19530", "http://m:port"])
def test_what_is_none_says_what_is_wanted(url: str) -> None:
    with pytest.raises(ValueError, match="with a port of 1 to 65535"):
        check_port(url)
