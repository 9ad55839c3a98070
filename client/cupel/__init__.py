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
    from cupel._batches import Judged
    from cupel._client import Client
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

__all__ = [
    "AsyncClient",
    "Client",
    "CompileResult",
    "ConnectionLost",
    "CupelError",
    "EmbeddedServiceFailed",
    "FailureClass",
    "FloatsChecker",
    "Health",
    "Info",
    "InvalidRequest",
    "Judged",
    "Judgement",
    "Language",
    "Limits",
    "NotFound",
    "Overloaded",
    "Problem",
    "ProblemFolderError",
    "ProblemSummary",
    "Refused",
    "RequestTooLarge",
    "RewardKind",
    "RewardSpec",
    "RewardsResponse",
    "ServiceFault",
    "ServiceUnavailable",
    "Stop",
    "Submission",
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
    "Client": "cupel._client",
    "Judged": "cupel._batches",
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
        errors = import_module("cupel.errors")
        home = errors if name in errors.__all__ else import_module("cupel.schema")
        value = getattr(home, name)
    globals()[name] = value  # the next use does not come here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
