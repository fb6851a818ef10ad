"""What README and runbook tell people to type exists: targets, commands, flags, request bodies, linked pages."""

from __future__ import annotations

import json
import re
import shlex
from functools import cache
from pathlib import Path

import pytest
from in_process import run
from pydantic import TypeAdapter

from service.api.admin_schemas import ActivateBody
from service.api.schemas import OpenAIEmbedBody, SearchBody

ROOT = Path(__file__).parents[2]
PAGES = (
    "README.md",
    "docs/runbook.md",
    "docs/every-day.md",
    "docs/soak.md",
    "docs/clients.md",
    "docs/deploy.md",
    "docs/capacity.md",
    "docs/scale.md",
    "docs/milvus.md",
    "docs/sharding.md",
    "docs/ray.md",
)
BODIES = {
    "/search": TypeAdapter(SearchBody),
    "/v1/embeddings": TypeAdapter(OpenAIEmbedBody),
    "/snapshots/ID/activate": TypeAdapter(ActivateBody),
}


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def commands(page: str) -> list[list[str]]:
    """The lines of the page's shell blocks as words, comments left out and continued lines joined."""
    blocks = re.findall(r"```sh\n(.*?)```", read(page), re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [words for words in (shlex.split(line, comments=True) for line in lines) if words]


def of_program(*prefix: str) -> list[list[str]]:
    found = [words for page in PAGES for words in commands(page) if tuple(words[: len(prefix)]) == prefix]
    assert found, f"no page shows {' '.join(prefix)}"
    return found


@cache
def help_of(*program: str) -> str:
    shown = run(*program, "--help")
    assert shown.returncode == 0
    return shown.stdout


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", read("Makefile"), re.MULTILINE))
    assert {words[1] for words in of_program("make")} <= targets


@pytest.mark.parametrize("program", ["offline", "snapshot", "service"])
def test_commands_and_flags_exist(program: str) -> None:
    for words in of_program("python", "-m", program):
        command = [word for word in words[3:4] if not word.startswith("--")]  # the service itself has none
        for flag in (word for word in words if word.startswith("--")):
            assert flag in help_of(program, *command), " ".join(words)


def test_request_bodies_are_accepted() -> None:
    for words in of_program("curl"):
        if "-d" not in words:
            continue
        path = next(re.sub(r"^.*?localhost:\d+", "", word) for word in words if "localhost" in word)
        raw = json.loads(words[words.index("-d") + 1])
        assert raw.keys() <= BODIES[path].validate_python(raw).model_fields_set, " ".join(words)


def test_recipes_named_in_commands_exist() -> None:
    for words in of_program("python", "-m", "offline"):
        for word in words:
            assert not word.endswith(".toml") or (ROOT / word).is_file(), word


@pytest.mark.parametrize(
    "page", [*PAGES, *(f"docs/{name}.md" for name in ("api", "configuration", "logs", "metrics", "tracing"))]
)
def test_links_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", read(page)):
        assert ((ROOT / page).parent / target).exists(), target
