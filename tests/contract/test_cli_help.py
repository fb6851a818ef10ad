"""Every command says what it is for, and is found from the one above it."""

import re
import subprocess
import sys

import pytest
from in_process import run

COMMANDS = {
    "offline": [
        *("run", "prepare", "train", "distill", "encode", "refine", "export", "index", "evaluate", "pack", "publish"),
        *("search", "ablate", "scaling", "mteb", "card", "plan"),
    ],
    "service": ["openapi", "configuration", "token", "gate", "doctor", "explain"],
    "snapshot": [
        *(
            "list",
            "show",
            "verify",
            "diff",
            "fleet",
            "activate",
            "rollback",
            "pin",
            "unpin",
            "gc",
            "push",
            "pull",
            "history",
            "schema",
            "keygen",
            "sign",
        ),
    ],
}


@pytest.mark.parametrize("program", COMMANDS)
def test_commands_are_listed_with_what_they_do(program):
    listed = subprocess.run([sys.executable, "-m", program, "--help"], capture_output=True, text=True, check=True).stdout
    for command in COMMANDS[program]:
        assert re.search(rf"\b{command}\b\s+\w+", listed), command


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        (("offline", "run"), ("--data", "--query-log", "--out", "--registry", "--set", "--since", "--document-tower")),
        (("offline", "pack"), ("--out", "--reuse-index")),
        (("offline", "evaluate"), ("--data", "--out", "--set")),
        (("offline", "plan"), ("--documents", "--p99-ms", "--box-cores", "--core-hour", "--figures", "--json")),
        (
            ("snapshot", "activate"),
            ("--registry", "--why", "--force", "--json", "--wave", "--service", "--token-file", "--remote"),
        ),
        (("snapshot", "fleet"), ("--service", "--json")),
        (("snapshot", "gc"), ("--keep", "--dry-run", "--json")),
        (("snapshot", "verify"), ("--deep", "--key", "--json")),
        (("service",), ("--registry", "--host", "--port", "--api-keys-file")),
        (("service", "key", "new"), ("--file", "--scope", "--rate", "--burst", "--days")),
        (("service", "doctor"), ("--registry", "--url", "--snapshot", "--timeout-seconds", "--key-file", "--json")),
        (
            ("service", "explain"),
            ("--registry", "--url", "--snapshot", "--filter", "--effort", "--timeout-ms", "--key-file", "--json"),
        ),
    ],
    ids=" ".join,
)
def test_options_are_explained(arguments, options):
    found = run(*arguments, "--help")
    assert found.returncode == 0
    for option in options:
        assert re.search(rf"{option}\b.*\s\w+", found.stdout), option
