"""The quick ones of ``make faults``, one test each; and that a fault which is not withstood is noticed."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.faults.cases import FAULTS
from tests.faults.fault import Fault, SkippedError, Stages
from tests.faults.stage import Stage, check

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def stages() -> Iterator[Stages]:
    with Stages(thorough=False) as made:
        yield made


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault.quick], ids=lambda fault: fault.name)
def test_it_is_withstood(stages: Stages, fault: Fault) -> None:
    found = stages.try_out(fault)
    if found.held is None:
        pytest.skip(found.said)
    assert found.held, found.said
    assert found.verdict().line() == f"GOAL fault_{fault.name} 1 ==1 ok"


def _serve_an_intact_one(stage: Stage) -> str:
    return stage.refused(stage.bring().root.name, ".*")


def _kill_the_service(stage: Stage) -> str:
    stage.live.process.kill()
    stage.live.process.wait()
    return "killed"


def _answer_from_another(stage: Stage) -> str:
    stage.searches.expect(stage.former, "a mark that no text has")
    return "searched"


def _do_nothing(stage: Stage) -> str:
    check(False, "as it should not be")
    return ""


@pytest.mark.parametrize(
    ("run", "said"),
    [
        (_serve_an_intact_one, "serves"),
        (_kill_the_service, "the process ended with -9"),
        (_answer_from_another, "answered with documents of another"),
        (_do_nothing, "as it should not be"),
    ],
)
def test_what_is_not_withstood_is_short(stages: Stages, run, said: str) -> None:
    found = stages.try_out(Fault("broken", "survived", run))
    assert found.held is False
    assert said in found.said
    assert found.verdict().line() == "GOAL fault_broken 0 ==1 short"


def test_what_the_machine_does_not_allow_is_neither(stages: Stages) -> None:
    def skip(stage: Stage) -> str:
        raise SkippedError("not here")

    assert stages.try_out(Fault("skipped", "survived", skip)).held is None


def test_names_are_unique_and_good_for_machines() -> None:
    names = [fault.name for fault in FAULTS]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z0-9_]+", name) for name in names)
