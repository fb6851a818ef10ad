import pytest

from snapshot.addresses import server_address


@pytest.mark.parametrize("url", ["http://milvus:19530", "https://milvus.example", "http://[::1]:19530", "http://127.0.0.1:1"])
def test_an_address_is_left_as_it_is(url: str) -> None:
    assert server_address(url) == url
    assert server_address(f"{url}/") == url
    assert server_address(url.replace("http", "HTTP", 1)) == url.replace("HTTPs", "https")


@pytest.mark.parametrize(
    "url",
    [
        *("http://milvus:99999", "http://milvus:0", "http://:19530", "http://[::1:19530", "http://m:port", "milvus:19530", ""),
        *("http://milvus:19530/database", "http://milvus?x=1", "http://milvus#x", "http://mil vus", "tcp://milvus:19530"),
    ],
)
def test_what_is_none_says_what_is_wanted(url: str) -> None:
    with pytest.raises(ValueError, match="with a port of 1 to 65535"):
        server_address(url)


def test_a_password_in_an_address_is_refused_and_not_repeated() -> None:
    with pytest.raises(ValueError, match="holds no user and no password: name a file") as caught:
        server_address("http://user:sesame@milvus:19530")
    assert "sesame" not in str(caught.value)
