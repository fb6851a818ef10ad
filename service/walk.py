"""The stopwatch of one request, and the two reasons to stop its walk early: too late, or nobody left to answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, get_args

from service.deadline import Deadline
from service.errors import CallerGoneError, DeadlineExceededError

Stage = Literal["queue", "tokenize", "encode", "filter", "search", "fetch", "render", "reply"]
"""In the order of a search; "reply" is from the end of work until the answer is handed to the transport."""

STAGES: tuple[Stage, ...] = get_args(Stage)


class Caller:
    """Whoever waits for the answer. ``gone`` is set on the event loop and read by the working thread."""

    __slots__ = ("gone",)

    def __init__(self) -> None:
        self.gone = False


class Walk:
    """One request on its way through the stages, which share out its whole time: each ends where the next begins.

    Used by one thread at a time; the event loop may read it when the budget is spent.

    Attributes:
        spent_ms: milliseconds by stage that was left, in the order in which stages were first left.
        stage: where it is now.
        lesson: what is to be learned from ``spent_ms`` once the work has ended.
        elsewhere: what is refused at once is asked of another replica, so that nothing hopeless need be tried here.
        on_refusal: tells its caller at once that nothing will come of it; None where nobody waits who could be told.
        refused: that was done, and what is still done for it is done only to learn what it costs.
        synthetic: no user asks, so that what is asked for is no sign of what users want.
        given_up: its caller was told that the budget is spent while it was in the middle of a stage.
    """

    __slots__ = (
        "_begun",
        "_clock",
        "caller",
        "deadline",
        "elsewhere",
        "given_up",
        "lesson",
        "on_refusal",
        "refused",
        "spent_ms",
        "stage",
        "synthetic",
    )

    def __init__(self, deadline: Deadline, caller: Caller, elsewhere: bool = False, synthetic: bool = False) -> None:
        self.deadline = deadline
        self.caller = caller
        self.elsewhere = elsewhere
        self.synthetic = synthetic
        self.spent_ms: dict[Stage, float] = {}
        self.stage: Stage = "queue"
        self.given_up = self.refused = False
        self.on_refusal: Callable[[DeadlineExceededError], object] | None = None
        self.lesson: Callable[[Mapping[Stage, float]], None] | None = None
        self._clock = deadline.clock
        self._begun = deadline.started

    def enter(self, stage: Stage) -> None:
        """Leave the stage before and begin ``stage``, unless there is no point in it.

        Raises:
            CallerGoneError: nobody is left to answer.
            DeadlineExceededError: the budget is spent.
        """
        reason = self.hopeless(stage)
        if reason is not None:
            raise reason
        self.pass_to(stage)

    def pass_to(self, stage: Stage) -> float:
        """Leave the stage before and begin ``stage`` without asking whether; how many milliseconds the one before took."""
        now = self._clock()
        spent = (now - self._begun) * 1000.0
        self.spent_ms[self.stage] = self.spent_ms.get(self.stage, 0.0) + spent
        self.stage, self._begun = stage, now
        return spent

    def stop(self) -> None:
        """The answer is handed over, unless a thread is still at work for nobody, which goes on timing its stages."""
        if not self.given_up:
            self.pass_to("reply")

    def hopeless(self, stage: Stage) -> CallerGoneError | DeadlineExceededError | None:
        """Why ``stage`` is not worth beginning, if it is not."""
        if self.caller.gone and not self.given_up:  # who was told hangs up afterwards
            return CallerGoneError(stage)
        if self._clock() >= self.deadline.end:
            return self.exceeded(stage)
        return None

    def exceeded(self, stage: Stage, begun: bool = False) -> DeadlineExceededError:
        """The error that says where the budget went; ``begun``: it is spent within ``stage``."""
        budget = f"{self.deadline.budget_ms:g} ms"
        reach = f"the end of {stage}" if begun else stage
        message = f"the budget of {budget} does not reach {reach}; allow more with timeout_ms, or retry when there is less load"
        left_ms = self.remaining_ms()
        left_share = left_ms / self.deadline.budget_ms if left_ms > 0 else 0.0
        return DeadlineExceededError(message, stage, self.timings_ms(under_way=True), left_share)

    def refuse(self, reason: DeadlineExceededError) -> None:
        """Tell the caller now, and go on with nobody waiting; raises ``reason`` where the caller cannot be told."""
        if self.on_refusal is None:
            raise reason
        self.given_up = self.refused = True
        self.on_refusal(reason)

    def spent_until(self, total_ms: float) -> dict[Stage, float]:
        """Where the first ``total_ms`` milliseconds went, with the stage under way: for whoever does not wait for its end."""
        spent, stage = dict(self.spent_ms), self.stage
        spent[stage] = spent.get(stage, 0.0) + max(0.0, total_ms - sum(spent.values()))
        return spent

    def remaining_ms(self) -> float:
        """Milliseconds until the deadline."""
        return self.deadline.remaining_ms()

    def service_ms(self) -> float:
        """Milliseconds of work in the stages that were left, waiting apart."""
        return sum(ms for stage, ms in self.spent_ms.items() if stage not in ("queue", "reply"))

    def timings_ms(self, under_way: bool = False) -> dict[str, float]:
        """Milliseconds by stage that was left, and the present one where asked for, and in ``total`` since the first byte."""
        now, spent = self._clock(), dict(self.spent_ms)
        if under_way:
            spent[self.stage] = spent.get(self.stage, 0.0) + (now - self._begun) * 1000.0
        shown: dict[str, float] = {name: round(value, 3) for name, value in spent.items()}
        shown["total"] = round((now - self.deadline.started) * 1000.0, 3)
        return shown
