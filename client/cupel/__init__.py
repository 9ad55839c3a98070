"""Cupel's Python SDK: verdicts and rewards for programs, from hidden tests in a sandbox.

    import cupel

    with cupel.Client("http://127.0.0.1:8400") as client:
        judgement = client.judge(problem="two-sum", language="python", source="print(3)")
        print(judgement.verdict, judgement.cpu_s)

Names are loaded when they are first used: `import cupel` itself costs next to nothing, and a
program that only needs `cupel.schema` never loads an HTTP client.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cupel._async_client import AsyncClient
    from cupel._async_session import AsyncProcess, AsyncSession
    from cupel._batches import Judged
    from cupel._client import Client
    from cupel._session import Process, Session
    from cupel.embedded import embedded_service
    from cupel.errors import (
        ConnectionLost,
        CupelError,
        EmbeddedServiceFailed,
        InvalidRequest,
        NotFound,
        Overloaded,
        ProblemFolderError,
        Refused,
        RequestTooLarge,
        ServiceFault,
        ServiceUnavailable,
        SessionEnded,
        Timeout,
        Unauthorized,
        UnexpectedAnswer,
    )
    from cupel.problem_folder import load_problem, problem_id
    from cupel.schema import (
        CompileResult,
        FailureClass,
        FloatsChecker,
        Health,
        Info,
        Judgement,
        Language,
        Limits,
        Problem,
        ProblemSummary,
        PublicTest,
        RewardKind,
        RewardSpec,
        RewardsResponse,
        Stop,
        Submission,
        Testcase,
        TestResult,
        TleKind,
        TokensChecker,
        Verdict,
    )
    from cupel.session_schema import (
        CommandResult,
        ExceededLimit,
        ExecutionLimits,
        ExecutionResult,
        FileEntry,
        HiddenTests,
        OutputEvent,
        ProcessInfo,
        PublicTestFeedback,
        SessionInfo,
        SessionLimits,
        SessionState,
        SnapshotInfo,
        SubmitFeedback,
        SubmitResult,
    )

__all__ = [
    "AsyncClient",
    "AsyncProcess",
    "AsyncSession",
    "Client",
    "CommandResult",
    "CompileResult",
    "ConnectionLost",
    "CupelError",
    "EmbeddedServiceFailed",
    "ExceededLimit",
    "ExecutionLimits",
    "ExecutionResult",
    "FailureClass",
    "FileEntry",
    "FloatsChecker",
    "Health",
    "HiddenTests",
    "Info",
    "InvalidRequest",
    "Judged",
    "Judgement",
    "Language",
    "Limits",
    "NotFound",
    "OutputEvent",
    "Overloaded",
    "Problem",
    "ProblemFolderError",
    "ProblemSummary",
    "Process",
    "ProcessInfo",
    "PublicTest",
    "PublicTestFeedback",
    "Refused",
    "RequestTooLarge",
    "RewardKind",
    "RewardSpec",
    "RewardsResponse",
    "ServiceFault",
    "ServiceUnavailable",
    "Session",
    "SessionEnded",
    "SessionInfo",
    "SessionLimits",
    "SessionState",
    "SnapshotInfo",
    "Stop",
    "Submission",
    "SubmitFeedback",
    "SubmitResult",
    "TestResult",
    "Testcase",
    "Timeout",
    "TleKind",
    "TokensChecker",
    "Unauthorized",
    "UnexpectedAnswer",
    "Verdict",
    "embedded_service",
    "load_problem",
    "problem_id",
]

_HOMES = {
    "AsyncClient": "cupel._async_client",
    "AsyncProcess": "cupel._async_session",
    "AsyncSession": "cupel._async_session",
    "Client": "cupel._client",
    "Judged": "cupel._batches",
    "Process": "cupel._session",
    "Session": "cupel._session",
    "embedded_service": "cupel.embedded",
    "load_problem": "cupel.problem_folder",
    "problem_id": "cupel.problem_folder",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'cupel' has no attribute {name!r}")
    if name in _HOMES:
        value: object = getattr(import_module(_HOMES[name]), name)
    else:
        homes = ("cupel.errors", "cupel.schema", "cupel.session_schema")
        home = next(home for home in map(import_module, homes) if hasattr(home, name))
        value = getattr(home, name)
    globals()[name] = value  # the next use does not come here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
