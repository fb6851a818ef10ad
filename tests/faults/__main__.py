"""``make faults``: everything that can go wrong with a snapshot, a registry or a swap, done for real.

Each fault is made under a real ``python -m service`` and with the real commands, while somebody searches all the time; a line
``GOAL fault_<name> 1 ==1 ok`` says that all held: what must not serve is refused by name, what served goes on, the process
lives. The exit code is 1 if a line is short.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # as pytest does: the modules that tests share import each other by name

from tests.faults.cases import FAULTS
from tests.faults.fault import Fault, Stages, Tried


def main() -> int:
    parser = argparse.ArgumentParser(prog="make faults", description=__doc__)
    parser.add_argument("--only", default="", help="pattern of names, as in: --only 'hostile|killed'")
    parser.add_argument("--quick", action="store_true", help="those that pytest tries as well, without their commands")
    parser.add_argument("--list", action="store_true", help="print the names")
    given = parser.parse_args()
    chosen = [fault for fault in FAULTS if re.search(given.only, fault.name) and (fault.quick or not given.quick)]
    if given.list:
        print("\n".join(f"{fault.name}: {fault.end}" for fault in chosen))
        return 0
    with Stages(thorough=not given.quick) as stages:
        tried = [_try(stages, fault, f"{number + 1}/{len(chosen)}") for number, fault in enumerate(chosen)]
    return _sum_up(tried)


def _try(stages: Stages, fault: Fault, place: str) -> Tried:
    begun = time.monotonic()
    found = stages.try_out(fault)
    end = fault.end if found.held else "NOT TRIED" if found.held is None else "SHORT"
    print(f"{place} {fault.name}: {end} in {time.monotonic() - begun:.1f} s: {found.said}", flush=True)
    if found.held is not None:
        print(found.verdict().line(), flush=True)
    return found


def _sum_up(tried: list[Tried]) -> int:
    short = [each for each in tried if each.held is False]
    left_out = [each for each in tried if each.held is None]
    refused = sum(each.held is True and each.fault.end == "refused" for each in tried)
    survived = sum(each.held is True and each.fault.end == "survived" for each in tried)
    print(f"{len(tried)} faults: {refused} refused by name, {survived} survived, {len(short)} short, {len(left_out)} not tried")
    for each in (*short, *left_out):
        print(f"{each.fault.name}: {each.said}")
    return 1 if short else 0


if __name__ == "__main__":
    sys.exit(main())
