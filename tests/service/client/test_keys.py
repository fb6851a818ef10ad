"""The client with an API key, against a service that wants one."""

from __future__ import annotations

import asyncio
import json
from hashlib import sha256
from pathlib import Path

import httpx
import pytest
from scripted import WORKING
from serving import client_of, make_registry

from service.client import AsyncClient, Client, ClientError, DeniedError, OverloadedError, RequestError, Retry, SearchAnswer

KEY = "a-key-of-the-tests"
PATIENT = 30_000.0


def keys_file(folder: Path) -> Path:
    path = folder / "keys"
    limited = {"scopes": ["search"], "rate_per_second": 0.5, "burst": 1}
    lines = [
        {"name": name, "sha256": sha256(key.encode()).hexdigest(), **more}
        for name, key, more in (("a", KEY, {}), ("b", "b", limited))
    ]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return path


def test_the_key_is_sent_and_a_refusal_is_told_by_its_type(tmp_path: Path) -> None:
    make_registry(tmp_path / "registry")

    async def use(transport: httpx.ASGITransport) -> None:
        def client(api_key: str | None) -> AsyncClient:
            return AsyncClient("http://test", timeout_ms=PATIENT, retry=Retry(attempts=1), api_key=api_key, transport=transport)

        async with client(KEY) as known, client("b") as limited, client(None) as stranger, client("wrong") as wrong:
            assert (await known.search("apple", k=3)).hits
            assert (await known.embed(["apple"])).dim
            for caller, status, code in ((stranger, 401, "key_unknown"), (wrong, 401, "key_unknown")):
                with pytest.raises(DeniedError) as denied:
                    await caller.search("apple")
                assert (denied.value.status, denied.value.code) == (status, code)
            with pytest.raises(DeniedError) as scoped:
                await limited.embed(["apple"])
            assert (scoped.value.status, scoped.value.code) == (403, "key_scope")
            await limited.search("apple")
            with pytest.raises(OverloadedError) as paced:
                await limited.search("apple")
            assert paced.value.code == "key_rate_limited"
            assert paced.value.retry_after_ms is not None
            assert 0 < paced.value.retry_after_ms <= 2000

    with client_of(tmp_path / "registry", api_keys_file=keys_file(tmp_path)) as served:
        asyncio.run(use(httpx.ASGITransport(served.app)))


def test_the_key_is_in_no_error_and_goes_beside_other_headers() -> None:
    seen: list[httpx.Headers] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers)
        return httpx.Response(500, text="not ours")

    transport = httpx.MockTransport(answer)
    made = Client("http://test", api_key=KEY, headers={"Authorization": "Basic eA=="}, transport=transport)
    with made as client, pytest.raises(ClientError) as caught:
        client.search("apple")
    assert (seen[0]["x-api-key"], seen[0]["authorization"]) == (KEY, "Basic eA==")
    assert KEY not in str(caught.value) + repr(caught.value)
    assert issubclass(DeniedError, RequestError)


@pytest.mark.parametrize("key", ["sn_secret\n", " sn_secret\r\n", "sn_secret"])
def test_the_end_of_a_files_line_is_no_part_of_a_key(key: str) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        assert request.headers["x-api-key"] == "sn_secret"
        return httpx.Response(200, json=WORKING)

    assert asyncio.run(_searched(httpx.MockTransport(answer), key)).snapshot == WORKING["snapshot"]


@pytest.mark.parametrize("key", ["sn_secret\nsn_other", "sn_\x00secret", "sn_secr\u00e9t"])
def test_what_can_be_no_key_is_refused_at_once_and_not_repeated(key: str) -> None:
    with pytest.raises(ValueError, match="api_key is no API key") as refused:
        Client("http://test", api_key=key)
    assert "sn_" not in str(refused.value)


async def _searched(transport: httpx.MockTransport, key: str) -> SearchAnswer:
    async with AsyncClient("http://test", timeout_ms=PATIENT, api_key=key, transport=transport) as client:
        return await client.search("apple")
