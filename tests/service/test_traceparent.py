import pytest

from service.traceparent import Traceparent, parse_traceparent

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
GOOD = f"00-{TRACE}-{PARENT}-01"


def test_the_example_of_the_specification() -> None:
    assert parse_traceparent(GOOD) == Traceparent(TRACE, PARENT, sampled=True)


@pytest.mark.parametrize(("flags", "sampled"), [("00", False), ("01", True), ("02", False), ("03", True), ("ff", True)])
def test_the_lowest_bit_of_the_flags_says_sampled(flags: str, sampled: bool) -> None:
    parsed = parse_traceparent(f"00-{TRACE}-{PARENT}-{flags}")
    assert parsed is not None
    assert parsed.sampled is sampled


@pytest.mark.parametrize("header", [f"  {GOOD}\t", f"cc-{TRACE}-{PARENT}-01", f"cc-{TRACE}-{PARENT}-01-what-the-future-brings"])
def test_space_around_it_and_later_versions_are_read(header: str) -> None:
    assert parse_traceparent(header) == Traceparent(TRACE, PARENT, sampled=True)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "hello",
        GOOD.upper(),
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{PARENT}-01-more",
        f"cc-{TRACE}-{PARENT}-01.more",
        f"00-{TRACE}-{PARENT}-0",
        f"00-{TRACE[:-1]}-{PARENT}-01",
        f"00-{TRACE}x-{PARENT}-01",
        f"00_{TRACE}_{PARENT}_01",
        f"0-{TRACE}-{PARENT}-01",
        f"{GOOD}\n",
        f"{GOOD},{GOOD}",
        f"00-{TRACE[:-2]}٣-{PARENT}-01",
    ],
)
def test_what_breaks_the_rules_is_as_if_it_were_not_there(header: str) -> None:
    assert parse_traceparent(header) is None
