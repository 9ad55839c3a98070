"""The wire: every JSON document that crosses Cupel's HTTP API, in both directions.

Requests forbid unknown fields (a typo must not be silently ignored); responses ignore them (an
older SDK must read a newer service). Times are seconds, sizes bytes, and both say so by name.
"""

from __future__ import annotations

import base64
import binascii
from enum import StrEnum
from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    field_validator,
    model_validator,
)

MEBIBYTE = 1024 * 1024

SOURCE_BYTES_MAX = 1 * MEBIBYTE
"""Largest source program or completion that is accepted, in bytes of UTF-8."""
TESTS_MAX = 10_000
"""Most testcases that one problem may hold."""
SUBMISSIONS_MAX = 10_000
"""Most submissions that one request may hold."""

Identifier = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", min_length=1, max_length=128),
]
"""The name of a problem: letters, digits, dot, underscore and hyphen, at most 128 characters."""


class Request(BaseModel):
    """A document that a client sends: frozen, and unknown fields are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Response(BaseModel):
    """A document that the service answers: frozen, and unknown fields are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Language(StrEnum):
    """A programming language in which submissions are judged."""

    C = "c"
    CPP = "cpp"
    PYTHON = "python"


class Verdict(StrEnum):
    """What the judge says of a testcase or a submission (ids of the ICPC Contest API)."""

    AC = "AC"
    WA = "WA"
    RTE = "RTE"
    OLE = "OLE"
    CE = "CE"
    TLE = "TLE"
    MLE = "MLE"
    JE = "JE"


class FailureClass(StrEnum):
    """Why a submission failed, in the terms of the correctness-efficiency frontier."""

    NONE = "none"
    CORRECTNESS = "correctness"
    OPTIMIZATION = "optimization"
    INFRASTRUCTURE = "infrastructure"


FAILURE_CLASS: dict[Verdict, FailureClass] = {
    Verdict.AC: FailureClass.NONE,
    Verdict.WA: FailureClass.CORRECTNESS,
    Verdict.RTE: FailureClass.CORRECTNESS,
    Verdict.OLE: FailureClass.CORRECTNESS,
    Verdict.CE: FailureClass.CORRECTNESS,
    Verdict.TLE: FailureClass.OPTIMIZATION,
    Verdict.MLE: FailureClass.OPTIMIZATION,
    Verdict.JE: FailureClass.INFRASTRUCTURE,
}


class TleKind(StrEnum):
    """How a time limit was exceeded: by computing (`cpu`) or by waiting (`idle`)."""

    CPU = "cpu"
    IDLE = "idle"


class Base64Data(Request):
    """Bytes that are not UTF-8 text, as standard base64."""

    base64: str

    @field_validator("base64")
    @classmethod
    def _decodes(cls, value: str) -> str:
        try:
            base64.b64decode(value, validate=True)
        except binascii.Error as error:
            raise ValueError(f"not valid base64: {error}") from error
        return value


Data = str | Base64Data
"""Test data: a JSON string for UTF-8 text, or `{"base64": "..."}` for any other bytes."""


def encode_data(raw: bytes) -> Data:
    """Turns bytes into their wire form: text where they are UTF-8, base64 otherwise."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return Base64Data(base64=base64.b64encode(raw).decode("ascii"))


def decode_data(data: Data) -> bytes:
    """Turns the wire form of test data back into its bytes."""
    if isinstance(data, str):
        return data.encode("utf-8")
    return base64.b64decode(data.base64)


class Limits(Request):
    """What one test run may use. They hold for the whole process tree of the program."""

    cpu_s: float = Field(2.0, gt=0, le=600, description="CPU time, user and system, in seconds.")
    wall_s: float | None = Field(
        None,
        gt=0,
        le=3600,
        description="Wall time in seconds; by default 3 x cpu_s + 2, to end sleepers only.",
    )
    memory_bytes: int = Field(
        256 * MEBIBYTE,
        ge=4 * MEBIBYTE,
        le=1024 * 1024 * MEBIBYTE,
        description="Peak of anonymous and shared memory, page cache not counted.",
    )
    output_bytes: int = Field(
        16 * MEBIBYTE, ge=1, le=256 * MEBIBYTE, description="Bytes written to standard output."
    )
    processes: int = Field(64, ge=1, le=4096, description="Processes and threads at one time.")

    @property
    def effective_wall_s(self) -> float:
        """The wall limit in seconds, with its default resolved."""
        return self.wall_s if self.wall_s is not None else 3 * self.cpu_s + 2


class TokensChecker(Request):
    """Equal sequences of white-space-separated tokens."""

    type: Literal["tokens"] = "tokens"
    case_sensitive: bool = True


class FloatsChecker(Request):
    """Tokens, where a token that reads as a number may differ within a tolerance (abs or rel)."""

    type: Literal["floats"] = "floats"
    case_sensitive: bool = Field(True, description="Whether case matters in tokens of text.")
    absolute_tolerance: float = Field(1e-6, ge=0)
    relative_tolerance: float = Field(1e-6, ge=0)


Checker = Annotated[TokensChecker | FloatsChecker, Field(discriminator="type")]


class Testcase(Request):
    """One hidden test: an input, the expected output, and where it stands in the suite."""

    __test__ = False  # not a pytest class

    name: str = Field(min_length=1, max_length=200)
    input: Data = ""
    output: Data
    tier: int | None = Field(
        None, ge=1, le=100, description="1 is the smallest; given for all tests or none."
    )
    size: int | None = Field(None, ge=0, description="Declared input size, for cutting tiers.")
    public: bool = Field(
        False, description="An example that may be shown to whoever solves the problem."
    )


class Problem(Request):
    """A problem with its hidden tests, as it is registered or sent inline."""

    title: str = Field("", max_length=500)
    statement: str = Field("", max_length=1_000_000)
    limits: Limits = Limits()
    checker: Checker = TokensChecker()
    tier_fractions: tuple[float, ...] = Field(
        (0.25, 0.5, 0.75, 1.0),
        min_length=1,
        max_length=100,
        description="Cumulative fractions at which tests without tiers are cut, by input size.",
    )
    tests: tuple[Testcase, ...] = Field(min_length=1, max_length=TESTS_MAX)

    @field_validator("tier_fractions")
    @classmethod
    def _fractions_rise_to_one(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if any(later <= earlier for earlier, later in pairwise(value)):
            raise ValueError("tier_fractions must rise strictly")
        if value[0] <= 0 or value[-1] != 1.0:
            raise ValueError("tier_fractions must lie in (0, 1] and end with 1.0")
        return value

    @model_validator(mode="after")
    def _tests_are_consistent(self) -> Self:
        names = [test.name for test in self.tests]
        if len(set(names)) != len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"two tests are named {twice!r}; names must be unique")
        given = [test.tier for test in self.tests if test.tier is not None]
        if given and len(given) != len(self.tests):
            raise ValueError("give `tier` for every test or for none")
        if given and set(given) != set(range(1, max(given) + 1)):
            raise ValueError(f"tiers must be numbered 1..n without gaps, got {sorted(set(given))}")
        return self


class PublicTest(Response):
    """A test that may be shown: an example of what the program has to do."""

    name: str
    input: Data
    output: Data


class ProblemSummary(Response):
    """What may be read of a problem: nothing that the hidden tests hold."""

    id: str
    title: str
    statement: str
    limits: Limits
    checker: str = Field(description="The checker's type.")
    tests_per_tier: tuple[int, ...] = Field(description="Number of tests in tier 1, 2, ...")
    digest: str = Field(description="SHA-256 of the problem's content.")
    public_tests: tuple[PublicTest, ...] = Field(
        (), description="The tests marked `public`, in the problem's order."
    )


class ProblemList(Response):
    """All registered problems."""

    problems: tuple[ProblemSummary, ...]


class Stop(StrEnum):
    """When judging a submission ends."""

    FIRST_FAILURE = "first_failure"
    TIER = "tier"
    NEVER = "never"


class Submission(Request):
    """A program for a problem: either `source` with its language, or a model's `completion`."""

    id: str | None = Field(
        None, min_length=1, max_length=200, description="Chosen by the client; echoed."
    )
    problem: Identifier | Problem = Field(
        description="A registered problem's id, or a problem inline."
    )
    language: Language | None = Field(
        None,
        description="Required with `source`; with `completion`, taken from its fence if absent.",
    )
    source: str | None = Field(None, description="The program as it is.")
    completion: str | None = Field(
        None,
        description="A model's answer: its last fenced block of the language, or its bare text.",
    )
    stop: Stop = Stop.FIRST_FAILURE
    coverage: int | None = Field(
        None, ge=1, description="Judge tiers 1..coverage only; default all."
    )
    probe_endless: bool = Field(
        False,
        description="Run the first TLE of the smallest tier once more, at ten times the limit.",
    )

    @model_validator(mode="after")
    def _one_program(self) -> Self:
        if (self.source is None) == (self.completion is None):
            raise ValueError("give exactly one of `source` and `completion`")
        if self.source is not None and self.language is None:
            raise ValueError("`source` needs `language` (c, cpp or python)")
        return self


class JudgementsRequest(Request):
    """One or many submissions to judge."""

    submissions: tuple[Submission, ...] = Field(min_length=1, max_length=SUBMISSIONS_MAX)
    urgent: bool = Field(False, description="Go before what waits already and is not urgent.")


class TestResult(Response):
    """How a program did in one test."""

    __test__ = False

    name: str
    tier: int
    verdict: Verdict
    cpu_s: float
    wall_s: float
    memory_bytes: int
    exit_code: int | None = None
    signal: int | None = None
    tle_kind: TleKind | None = None
    measurements: int = Field(
        1, description="2 if it finished near the time limit and ran once more."
    )
    flags: tuple[str, ...] = ()
    stdout: str | None = Field(
        None, description="The head of what it printed; of public tests only."
    )
    stderr: str | None = Field(
        None, description="The tail of what it printed to standard error; likewise."
    )


class CompileResult(Response):
    """How the compile step went; absent for a language without one."""

    ok: bool
    cpu_s: float
    wall_s: float
    diagnostics: str = Field("", description="What the compiler printed, truncated.")


class Judgement(Response):
    """All tests of one submission, and the verdict over them."""

    id: str
    problem: str | None = Field(
        None, description="The registered problem's id; null for inline ones."
    )
    language: Language | None
    verdict: Verdict
    failure_class: FailureClass
    complete: bool = Field(
        description="Every test of the coverage was judged; no early stop, no JE."
    )
    coverage: int = Field(description="The tiers judged: 1..coverage.")
    tiers: int = Field(description="How many tiers the problem has.")
    tests_per_tier: tuple[int, ...] = Field(description="Number of tests in tier 1, 2, ...")
    first_failing_tier: int | None = None
    endless: bool | None = Field(
        None,
        description="With `probe_endless`: the smallest tier still TLE at ten times the limit. "
        "Null where not probed.",
    )
    cpu_s: float = Field(description="Largest CPU time of a test.")
    wall_s: float = Field(description="Largest wall time of a test.")
    memory_bytes: int = Field(description="Largest memory of a test.")
    compile: CompileResult | None = None
    tests: tuple[TestResult, ...] = ()
    message: str = Field(
        "", description="Why there is no program (CE), or what failed in Cupel (JE)."
    )
    degraded: tuple[str, ...] = Field(
        (), description="Isolation layers given up by name on this service."
    )


class JudgementsResponse(Response):
    """The judgements, in the order of the submissions."""

    judgements: tuple[Judgement, ...]


class RewardKind(StrEnum):
    """The pure function from a judgement to a number."""

    ALL_OR_NOTHING = "all_or_nothing"
    TEST_FRACTION = "test_fraction"
    TIER_FRACTION = "tier_fraction"
    TIER_WEIGHTS = "tier_weights"


class RewardSpec(Request):
    """Which reward, at which coverage."""

    kind: RewardKind = RewardKind.ALL_OR_NOTHING
    coverage: int | None = Field(None, ge=1, description="Tiers 1..coverage count; default all.")
    weights: tuple[float, ...] | None = Field(
        None, max_length=100, description="One per covered tier, for `tier_weights` only."
    )

    @model_validator(mode="after")
    def _weights_fit(self) -> Self:
        if (self.kind is RewardKind.TIER_WEIGHTS) != (self.weights is not None):
            raise ValueError("`weights` belongs to kind `tier_weights`, and only to it")
        if self.weights is not None and (
            min(self.weights, default=0) < 0 or sum(self.weights) <= 0
        ):
            raise ValueError("weights must not be negative and must have a positive sum")
        return self


class RewardsRequest(Request):
    """Completions with their problems, as a trainer has them: two lists of one length."""

    problems: tuple[Identifier | Problem, ...] = Field(min_length=1, max_length=SUBMISSIONS_MAX)
    completions: tuple[str, ...] = Field(min_length=1, max_length=SUBMISSIONS_MAX)
    language: Language | None = Field(
        None, description="Of all completions; default: by their fences."
    )
    reward: RewardSpec = RewardSpec()
    extra_rewards: dict[str, RewardSpec] = Field(
        default_factory=dict, description="Further rewards from the same judgements, by name."
    )
    urgent: bool = Field(False, description="Go before what waits already and is not urgent.")

    @model_validator(mode="after")
    def _one_problem_each(self) -> Self:
        if len(self.problems) != len(self.completions):
            raise ValueError(
                f"{len(self.problems)} problems, {len(self.completions)} completions: give one each"
            )
        return self


class RewardsResponse(Response):
    """The rewards, in the order of the completions, and the judgements behind them."""

    rewards: tuple[float | None, ...] = Field(description="Null is a judging error: mask it.")
    extra_rewards: dict[str, tuple[float | None, ...]] = {}
    judgements: tuple[Judgement, ...]


class Health(Response):
    """Whether the service lives, or is ready for work."""

    status: Literal["ok", "starting", "stopping"]
    reason: str = ""


class ToolchainInfo(Response):
    """One language's compiler or interpreter."""

    language: Language
    available: bool
    version: str = ""
    reason: str = ""


class BoxLimits(Response):
    """What bounds a whole box, whatever limits a problem sets; 0 for no bound."""

    scratch_bytes: int = Field(0, description="Size of each file system that programs may write.")
    memory_bytes: int = Field(0, description="Memory of the whole box.")
    processes: int = Field(0, description="Processes of the whole box.")


class SessionsInfo(Response):
    """How many sessions this service keeps, and how many it may keep."""

    boxes: int = Field(0, description="Boxes kept for sessions and executions; 0: it has none.")
    commands: int = Field(0, description="Commands that run at one time.")
    live: int = Field(0, description="Sessions that hold a box now.")
    parked: int = Field(0, description="Sessions whose folder waits on disk.")
    sessions_max: int = Field(0, description="Sessions that may be open at one time.")
    spool_bytes: int = Field(0, description="Saved folders on disk now, in bytes.")
    spool_bytes_max: int = Field(0, description="The most that they may take.")


class Info(Response):
    """What this service runs on: for operators, and for the record of an experiment."""

    version: str
    box: str = Field(description="Kind of boxes: `native`, `docker`; of a cluster, its workers'.")
    runtime: str = Field(
        "", description="Container runtime of the boxes, `runc` or `runsc`; empty for native ones."
    )
    image: str = Field("", description="Image of docker boxes and its id.")
    cgroup: str = Field(description="`v1`, `v2`, or `none` if given up by name.")
    accounting: str = Field(
        "",
        description="How memory is counted: by the kernel (`cgroup`) or the runner (`sampled`).",
    )
    seccomp: bool
    user: str = Field(description="Whose rights the boxes were made with: `root` or `ordinary`.")
    slots: int = Field(description="Boxes that run at one time; of a cluster, of all live workers.")
    physical_cores: int
    box_limits: BoxLimits = BoxLimits()
    sessions: SessionsInfo = SessionsInfo()
    queue: Literal["embedded", "redis"] = "embedded"
    queue_capacity: int = Field(description="Submissions that may wait or run at one time.")
    workers: int = Field(1, description="Processes with boxes that are alive.")
    toolchains: tuple[ToolchainInfo, ...]
    degraded: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


class ProblemDetails(Response):
    """An error, as `application/problem+json` (RFC 9457)."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str = ""
    errors: tuple[str, ...] = ()
    by_host: bool | None = Field(
        None,
        description="Of a session that is over (410): whether that is the service's doing, not the "
        "program's or the client's.",
    )
