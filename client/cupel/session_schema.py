"""The wire of executions and sessions: a box for a tool call, and a box for an episode.

As in `cupel.schema`: requests forbid unknown fields, responses ignore them; times are seconds and
sizes bytes. What a program or a command does wrong is a value in these answers.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from cupel.schema import (
    MEBIBYTE,
    SOURCE_BYTES_MAX,
    CompileResult,
    Data,
    Identifier,
    Judgement,
    Language,
    Problem,
    Request,
    Response,
    RewardSpec,
    Stop,
    Verdict,
)

KIBIBYTE = 1024
OUTPUT_BYTES = 64 * KIBIBYTE
"""How much of each output stream an answer carries, unless more or less is asked for."""
FILES_MAX = 256
"""Most files that one execution may bring or ask for."""
COMMAND_CHARACTERS_MAX = 128 * KIBIBYTE - 1
"""Longest shell command: the kernel takes no longer argument."""

BoxPath = Annotated[
    str, StringConstraints(min_length=1, max_length=1024, pattern=r"^[^\x00-\x1f\x7f]+$")
]
"""A path in the working folder, relative to it (or absolute below `/work`)."""
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]+$", max_length=128)]
"""A server's name for a session, a snapshot or a process."""
Environment = Annotated[
    dict[
        Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=200)],
        Annotated[str, StringConstraints(pattern=r"^[^\x00]*$", max_length=32 * KIBIBYTE)],
    ],
    Field(max_length=100),
]
"""Variables of the environment, added to the box's own."""


class ExceededLimit(StrEnum):
    """Which limit ended a program."""

    CPU = "cpu"
    WALL = "wall"
    MEMORY = "memory"
    OUTPUT = "output"
    FILE_SIZE = "file_size"
    PROCESSES = "processes"


class ExecutionLimits(Request):
    """What one execution may use; each holds for its whole process tree."""

    cpu_s: float = Field(10.0, gt=0, le=600, description="CPU time, user and system, in seconds.")
    wall_s: float | None = Field(
        None, gt=0, le=3600, description="Wall time in seconds; by default 3 x cpu_s + 2."
    )
    memory_bytes: int = Field(
        512 * MEBIBYTE, ge=16 * MEBIBYTE, le=64 * 1024 * MEBIBYTE, description="Peak memory."
    )
    processes: int = Field(64, ge=1, le=4096, description="Processes and threads at one time.")
    output_bytes: int = Field(
        OUTPUT_BYTES,
        ge=0,
        le=4 * MEBIBYTE,
        description="Kept of each output stream; of more, the middle is cut out.",
    )
    file_bytes: int = Field(
        64 * MEBIBYTE, ge=1, le=1024 * MEBIBYTE, description="Largest file that it may write."
    )

    @property
    def effective_wall_s(self) -> float:
        """The wall limit in seconds, with its default resolved."""
        return self.wall_s if self.wall_s is not None else 3 * self.cpu_s + 2


class ExecutionRequest(Request):
    """A program to run once, or a piece of Python for a session's interpreter."""

    language: Language = Field(Language.PYTHON, description="Of `source`; in a session: python.")
    source: str = Field(max_length=SOURCE_BYTES_MAX, description="The program.")
    stdin: Data = Field("", description="What it reads; not with `session`.")
    files: dict[BoxPath, Data] = Field(
        default_factory=dict, max_length=FILES_MAX, description="Put into the working folder first."
    )
    outputs: tuple[BoxPath, ...] = Field(
        (), max_length=FILES_MAX, description="Files of the working folder to bring back."
    )
    limits: ExecutionLimits = Field(
        ExecutionLimits(), description="In a session only `wall_s` and `output_bytes` count."
    )
    session: Name | None = Field(
        None,
        description="Run in this session's Python interpreter, which keeps its variables.",
    )

    @model_validator(mode="after")
    def _fits_a_session(self) -> Self:
        if self.session is not None and (self.language is not Language.PYTHON or self.stdin):
            raise ValueError("with `session` the language is python, and there is no `stdin`")
        return self


class CommandResult(Response):
    """How a command ended, as the box says; what it printed, the middle cut out if too long."""

    exit_code: int | None = Field(None, description="Null if a signal ended it.")
    signal: int | None = Field(None, description="The signal that ended it, or null.")
    timed_out: bool = Field(False, description="It was killed at its `timeout_s`.")
    limit: ExceededLimit | None = Field(
        None, description="The limit that ended it: `wall` if it timed out, `output` for a flood."
    )
    stdout: str = ""
    stderr: str = ""
    stdout_bytes: int = Field(0, description="How much was printed, however much is shown.")
    stderr_bytes: int = 0
    cpu_s: float = 0.0
    wall_s: float = 0.0


class ExecutionResult(CommandResult):
    """How an execution ended. A program that fails, in whatever way, is a value here."""

    memory_bytes: int | None = Field(None, description="Peak; null in a session.")
    compile: CompileResult | None = Field(None, description="Null for a language without.")
    files: dict[str, Data] = Field(
        default_factory=dict, description="The `outputs` that are there."
    )
    missing: dict[str, str] = Field(
        default_factory=dict, description="The other `outputs`, and why each is missing."
    )
    restarted: bool = Field(
        False,
        description="The session's interpreter ended: the next execution finds a fresh one.",
    )


class SessionLimits(Request):
    """What a whole session may use; each holds for everything that runs in it together."""

    cpu_s: float = Field(600.0, gt=0, le=36_000, description="CPU time of all commands.")
    memory_bytes: int = Field(
        1024 * MEBIBYTE,
        ge=16 * MEBIBYTE,
        le=64 * 1024 * MEBIBYTE,
        description="Memory at one time, files included.",
    )
    processes: int = Field(128, ge=4, le=4096, description="Processes and threads at one time.")
    open_files: int = Field(256, ge=16, le=65536, description="Open files per process.")
    file_bytes: int = Field(
        64 * MEBIBYTE, ge=1, le=4096 * MEBIBYTE, description="Largest file that it may write."
    )
    idle_s: float = Field(
        600.0, gt=0, le=86_400, description="It ends when nothing is asked of it for so long."
    )
    life_s: float = Field(3600.0, gt=0, le=604_800, description="It ends at this age.")
    submissions: int = Field(10, ge=0, le=1000, description="How often it may submit.")


class SessionRequest(Request):
    """A session to open. What it is rewarded by is said here, by the trainer, and only here."""

    problem: Identifier | Problem | None = Field(
        None, description="What `submit` judges by; its public tests come into `examples/`."
    )
    language: Language | None = Field(None, description="Of submissions that do not say.")
    reward: RewardSpec | None = Field(None, description="Answered by `submit`, to the trainer.")
    extra_rewards: dict[str, RewardSpec] = Field(
        default_factory=dict, description="Further rewards from the same judgement, by name."
    )
    stop: Stop = Field(
        Stop.NEVER, description="When judging ends; `never` makes the counts of tests whole."
    )
    limits: SessionLimits = SessionLimits()
    environment: Environment = Field(
        default_factory=dict, description="Variables of every command."
    )
    snapshot: Name | None = Field(None, description="Begin with this snapshot's folder.")

    @model_validator(mode="after")
    def _rewards_have_a_problem(self) -> Self:
        if self.problem is None and (self.reward is not None or self.extra_rewards):
            raise ValueError("a reward needs a `problem`")
        if "reward" in self.extra_rewards:
            raise ValueError("an extra reward cannot be called `reward`: that is the first one")
        return self


class SessionState(StrEnum):
    """Where a session's working folder is."""

    LIVE = "live"
    PARKED = "parked"
    ENDED = "ended"


class SessionInfo(Response):
    """What there is to know of a session."""

    id: str
    state: SessionState
    reason: str = Field("", description="Why it ended.")
    by_host: bool = Field(False, description="It ended by the service's doing.")
    problem: str | None = Field(None, description="The registered problem's id.")
    language: Language | None = None
    age_s: float = 0.0
    idle_s: float = Field(0.0, description="For how long nothing was asked of it.")
    limits: SessionLimits = SessionLimits()
    cpu_s: float = Field(0.0, description="CPU time used, as far as it is known.")
    commands: int = Field(0, description="Commands run so far.")
    processes: int = Field(0, description="Background processes that run now.")
    interpreter: bool = Field(False, description="Its Python interpreter is alive.")
    submissions_left: int = 0
    snapshots: tuple[str, ...] = ()


class CommandRequest(Request):
    """A command for a session, as it would be typed into a shell."""

    command: Annotated[
        str,
        StringConstraints(min_length=1, max_length=COMMAND_CHARACTERS_MAX, pattern=r"^[^\x00]+$"),
    ] = Field(description="Run by `sh -c` in the working folder.")
    stdin: Data = ""
    timeout_s: float = Field(60.0, gt=0, le=3600, description="Killed then, with its descendants.")
    output_bytes: int = Field(
        OUTPUT_BYTES, ge=0, le=4 * MEBIBYTE, description="Kept of each output stream."
    )
    environment: Environment = Field(default_factory=dict)
    cwd: BoxPath = Field(".", description="Where it starts, within the working folder.")


class OutputEvent(Response):
    """A piece of what a running command printed."""

    stream: Literal["stdout", "stderr"]
    text: str


class CommandEnd(Response):
    """The last line of a streamed command."""

    result: CommandResult | None = None
    error: str | None = Field(None, description="Why there is no result.")
    status: int | None = Field(None, description="The HTTP status that this error has.")
    by_host: bool | None = None


class ProcessRequest(Request):
    """A command to leave running in the background."""

    command: Annotated[
        str,
        StringConstraints(min_length=1, max_length=COMMAND_CHARACTERS_MAX, pattern=r"^[^\x00]+$"),
    ] = Field(description="Run by `sh -c` in the working folder.")
    stdin: Data = ""
    output_bytes: int = Field(
        OUTPUT_BYTES, ge=0, le=4 * MEBIBYTE, description="Kept of each output stream."
    )
    environment: Environment = Field(default_factory=dict)
    cwd: BoxPath = "."


class ProcessInfo(Response):
    """A background process and what it has printed so far."""

    id: str
    command: str
    running: bool
    exit_code: int | None = None
    signal: int | None = None
    stdout: str = ""
    stderr: str = ""
    stdout_bytes: int = 0
    stderr_bytes: int = 0
    cpu_s: float | None = Field(None, description="Known when it has ended.")
    wall_s: float = 0.0


class ProcessList(Response):
    """The background processes of a session, also those that ended lately."""

    processes: tuple[ProcessInfo, ...]


class FileEntry(Response):
    """One name in a folder of a session."""

    name: str
    kind: Literal["file", "directory", "link", "other"]
    size_bytes: int = 0


class FileList(Response):
    """What a folder of a session holds, by name."""

    path: str
    entries: tuple[FileEntry, ...]


class SnapshotInfo(Response):
    """A saved working folder."""

    id: str
    size_bytes: int


class RestoreRequest(Request):
    """A snapshot to put in place of the working folder."""

    snapshot: Name


class SubmitRequest(Request):
    """A file of the session to judge."""

    path: BoxPath
    language: Language | None = Field(None, description="By default the session's, or the name's.")


class PublicTestFeedback(Response):
    """How a program did in a test that may be shown."""

    name: str
    verdict: Verdict | None = Field(description="Null if it was not judged.")
    cpu_s: float | None = None
    exit_code: int | None = None
    signal: int | None = None
    input: str = Field("", description="Its head, if it is long; so for the next ones.")
    expected: str = ""
    actual: str | None = None
    stderr: str | None = None


class HiddenTests(Response):
    """All that is said of hidden tests."""

    passed: int
    judged: int = Field(description="How many were run; all of them unless judging stopped.")
    total: int = Field(description="How many there are within the coverage.")


class SubmitFeedback(Response):
    """What a policy may see of a submission: nothing that the hidden tests hold."""

    verdict: Verdict
    message: str = Field("", description="Why there is no program to judge.")
    compile: CompileResult | None = None
    public_tests: tuple[PublicTestFeedback, ...] = ()
    hidden_tests: HiddenTests


class SubmitResult(Response):
    """A submission's feedback for the policy, and what the trainer alone may use."""

    feedback: SubmitFeedback
    rewards: dict[str, float | None] | None = Field(
        None, description="`reward` and the extra ones; null where a judging error hides it."
    )
    judgement: Judgement = Field(description="For the trainer's records: it names hidden tests.")
    source: str = Field("", description="The program that was judged.")
    submissions_left: int = 0
