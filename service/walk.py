"""The stopwatch of one request, and the two reasons to stop its walk early: too late, or nobody left to answer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, get_args

from service.deadline import Deadline
from service.errors import CallerGoneError, DeadlineExceededError

Stage = Literal["queue", "tokenize", "encode", "filter", "search", "fetch", "render"]
STAGES: tuple[Stage, ...] = get_args(Stage)


class Caller:
    """Whoever waits for the answer. ``gone`` is set on the event loop and read by the working thread."""

    __slots__ = ("gone",)

    def __init__(self) -> None:
        self.gone = False


class Walk:
    """One request on its way through the stages; used by one thread at a time.

    Attributes:
        spent_ms: milliseconds by stage, in the order in which stages were first entered.
    """

    __slots__ = ("_caller", "_deadline", "spent_ms")

    def __init__(self, deadline: Deadline, caller: Caller) -> None:
        self._deadline = deadline
        self._caller = caller
        self.spent_ms: dict[Stage, float] = {}

    def leave_queue(self) -> None:
        """Work begins: all that passed since the request's first byte was waiting."""
        self.spent_ms["queue"] = self._total_ms()

    @contextmanager
    def stage(self, name: Stage) -> Iterator[None]:
        """Time a stage, unless there is no point in beginning it."""
        self.check(name)
        begun = self._deadline.clock()
        try:
            yield
        finally:
            self.spent_ms[name] = self.spent_ms.get(name, 0.0) + (self._deadline.clock() - begun) * 1000.0

    def check(self, stage: Stage) -> None:
        """Whether ``stage`` is worth beginning.

        Raises:
            CallerGoneError: nobody is left to answer.
            DeadlineExceededError: the budget is spent.
        """
        if self._caller.gone:
            raise CallerGoneError(stage)
        if self._deadline.passed():
            raise self.exceeded(stage)

    def exceeded(self, stage: Stage) -> DeadlineExceededError:
        """The error that says where the budget went."""
        budget = f"{self._deadline.budget_ms:g} ms"
        message = f"the budget of {budget} does not reach {stage}; allow more with timeout_ms, or retry when there is less load"
        return DeadlineExceededError(message, stage, self.timings_ms())

    def remaining_ms(self) -> float:
        """Milliseconds until the deadline."""
        return self._deadline.remaining_ms()

    def service_ms(self) -> float:
        """Milliseconds of work, waiting apart."""
        return sum(self.spent_ms.values()) - self.spent_ms.get("queue", 0.0)

    def timings_ms(self) -> dict[str, float]:
        """Milliseconds by stage, and in ``total`` since the request's first byte; to a microsecond."""
        spent: dict[str, float] = {name: round(value, 3) for name, value in self.spent_ms.items()}
        return {**spent, "total": round(self._total_ms(), 3)}

    def _total_ms(self) -> float:
        return (self._deadline.clock() - self._deadline.started) * 1000.0
