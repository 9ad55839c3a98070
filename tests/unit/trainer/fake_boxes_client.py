"""A client whose executions and sessions are made up here: as the SDK's, without a service."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Mapping

from cupel import AsyncClient
from cupel._async_session import AsyncSession
from cupel._session_requests import open_call
from cupel.errors import CupelError, NotFound
from cupel.schema import FailureClass, Judgement, Language, Problem, RewardSpec, Verdict
from cupel.session_schema import (
    CommandResult,
    ExecutionLimits,
    ExecutionResult,
    HiddenTests,
    PublicTestFeedback,
    SessionInfo,
    SessionLimits,
    SessionState,
    SnapshotInfo,
    SubmitFeedback,
    SubmitResult,
)

HIDDEN = "hidden-test-7"
"""Stands in every judgement, as the names of hidden tests do; no policy may see it."""


def submit_result(source: str, verdict: Verdict, reward: float | None = 0.0) -> SubmitResult:
    return SubmitResult(
        feedback=SubmitFeedback(
            verdict=verdict,
            public_tests=(
                PublicTestFeedback(
                    name="sample", verdict=verdict, cpu_s=0.01, input="1", expected="2", actual="3"
                ),
            ),
            hidden_tests=HiddenTests(passed=3, judged=9, total=9),
        ),
        rewards={"reward": reward},
        judgement=Judgement(
            id="1",
            problem="p",
            language=Language.PYTHON,
            verdict=verdict,
            failure_class=FailureClass.NONE,
            complete=True,
            coverage=1,
            tiers=1,
            tests_per_tier=(10,),
            cpu_s=0.1,
            wall_s=0.1,
            memory_bytes=1,
            message=HIDDEN,
        ),
        source=source,
    )


class FakeClient(AsyncClient):
    """Runs Python here, and judges a program by the verdict that it names in its first line."""

    def __init__(self) -> None:
        super().__init__("http://127.0.0.1:9", patience_s=0)
        self.fail: CupelError | None = None
        """Raised by whatever is asked next."""
        self.sessions: list[FakeSession] = []
        self.executed: list[tuple[str, ExecutionLimits | None]] = []
        self.wall_s = 0.5

    async def execute(
        self,
        source: str,
        *,
        language: Language | str = Language.PYTHON,
        stdin: str | bytes = "",
        files: Mapping[str, str | bytes] | None = None,
        outputs: Iterable[str] = (),
        limits: ExecutionLimits | None = None,
    ) -> ExecutionResult:
        self.raise_if_failing()
        self.executed.append((source, limits))
        return _run_python(source, {}, self.wall_s)

    def session(
        self,
        problem: str | Problem | None = None,
        *,
        language: Language | str | None = None,
        reward: RewardSpec | None = None,
        extra_rewards: Mapping[str, RewardSpec] | None = None,
        limits: SessionLimits | None = None,
        environment: Mapping[str, str] | None = None,
        snapshot: str | SnapshotInfo | None = None,
    ) -> FakeSession:
        made = FakeSession(self, problem, reward, limits)
        self.sessions.append(made)
        return made

    def raise_if_failing(self) -> None:
        if self.fail is not None:
            raise self.fail


class FakeSession(AsyncSession):
    """Files in a dictionary; the shell knows `cat`, and echoes what else it is told."""

    def __init__(
        self,
        client: FakeClient,
        problem: str | Problem | None,
        reward: RewardSpec | None,
        limits: SessionLimits | None,
    ) -> None:
        super().__init__(client, open_call(problem, None, reward, None, limits, None, None))
        self.client = client
        self.problem, self.reward, self.limits = problem, reward, limits
        self.files: dict[str, str] = {}
        self.variables: dict[str, object] = {}
        self.state = SessionState.PARKED

    async def open(self) -> SessionInfo:
        self.client.raise_if_failing()
        self.state = SessionState.LIVE
        return await self.info()

    async def info(self) -> SessionInfo:
        if isinstance(self.client.fail, NotFound) and self.client.fail.detail == "no session":
            raise self.client.fail
        return SessionInfo(id="1", state=self.state)

    async def close(self) -> None:
        self.state = SessionState.ENDED

    async def run(
        self,
        command: str,
        *,
        timeout_s: float = 60.0,
        stdin: str | bytes = "",
        output_bytes: int = 65536,
        environment: Mapping[str, str] | None = None,
        cwd: str = ".",
    ) -> CommandResult:
        self.client.raise_if_failing()
        words = command.split()
        shown = self.files.get(words[1], "") if words[0] == "cat" else command
        return CommandResult(exit_code=0, stdout=shown, wall_s=self.client.wall_s)

    async def python(
        self, source: str, *, timeout_s: float = 60.0, output_bytes: int = 65536
    ) -> ExecutionResult:
        self.client.raise_if_failing()
        return _run_python(source, self.variables, self.client.wall_s)

    async def write(self, path: str, content: str | bytes, *, executable: bool = False) -> None:
        self.client.raise_if_failing()
        self.files[path] = content if isinstance(content, str) else content.decode()

    async def submit(self, path: str, language: Language | str | None = None) -> SubmitResult:
        self.client.raise_if_failing()
        if path not in self.files:
            raise NotFound(f"there is no file {path}")
        source = self.files[path]
        verdict = Verdict(source.split()[1])
        reward = {Verdict.AC: 1.0, Verdict.JE: None}.get(verdict, 0.0)
        return submit_result(source, verdict, reward)


def _run_python(source: str, variables: dict[str, object], wall_s: float) -> ExecutionResult:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        try:
            exec(source, variables)  # noqa: S102 (the tests' own programs)
        except ArithmeticError as error:
            return ExecutionResult(
                exit_code=1, stdout=printed.getvalue(), stderr=str(error), wall_s=wall_s
            )
    return ExecutionResult(exit_code=0, stdout=printed.getvalue(), wall_s=wall_s)
