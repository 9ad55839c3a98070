"""A box and a slot that answer from a script, for tests of the judge without a sandbox."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from cupel.schema import Language
from cupel_sandbox.box import Limit, Outcome, Run
from cupel_sandbox.errors import BoxLost, BoxRefused, SandboxError
from cupel_sandbox.toolchains import Toolchain
from cupel_service.languages import LanguageSetup, setup_languages

Answer = Outcome | Exception
Respond = Callable[[Run], Answer]


def outcome(
    stdout: bytes = b"",
    *,
    exit_code: int | None = 0,
    signal: int | None = None,
    limit: Limit | None = None,
    cpu_s: float = 0.01,
    wall_s: float = 0.02,
    memory_bytes: int = 1000,
    stderr: bytes = b"",
    stdout_bytes: int | None = None,
    stderr_bytes: int | None = None,
) -> Outcome:
    """An outcome of a run that went well unless told otherwise."""
    return Outcome(
        exit_code=None if signal is not None else exit_code,
        signal=signal,
        limit=limit,
        cpu_s=cpu_s,
        user_s=cpu_s,
        system_s=0.0,
        wall_s=wall_s,
        memory_bytes=memory_bytes,
        processes=1,
        stdout=stdout,
        stderr=stderr,
        stdout_bytes=len(stdout) if stdout_bytes is None else stdout_bytes,
        stderr_bytes=len(stderr) if stderr_bytes is None else stderr_bytes,
    )


KILLED_BY_CPU = outcome(signal=9, limit=Limit.CPU, cpu_s=2.2)


def in_order(answers: Iterable[Answer]) -> Respond:
    """Answers the runs that are awaited one after another; too few answers fail the test."""
    script = deque(answers)

    def respond(run: Run) -> Answer:
        assert script, f"nothing left to answer {run.argv}"
        return script.popleft()

    return respond


@dataclass
class FakeBox:
    """Implements `cupel_sandbox.box.Box`: one run sent ahead, answers by a function."""

    respond: Respond
    files: dict[str, bytes] = field(default_factory=dict)
    sent: list[Run] = field(default_factory=list)
    awaited: list[Run] = field(default_factory=list)
    put_errors: deque[SandboxError] = field(default_factory=deque)
    reset_error: Exception | None = None
    close_error: BoxLost | None = None
    dead: bool = False
    resets: int = 0

    def put(self, path: str, content: bytes, *, executable: bool = False) -> None:
        self._must_live()
        if self.put_errors:
            self._raise(self.put_errors.popleft())
        self.files[path] = content

    def get(self, path: str, max_bytes: int) -> bytes:
        self._must_live()
        content = self.files.get(path)
        if content is None or len(content) > max_bytes:
            raise BoxRefused(f"no file {path} of at most {max_bytes} bytes")
        return content

    def run(self, runs: Iterable[Run]) -> Iterator[Outcome]:
        queued: deque[Run] = deque()
        source = iter(runs)
        while True:
            while len(queued) < 2 and (run := next(source, None)) is not None:
                self.sent.append(run)
                queued.append(run)
            if not queued:
                return
            self._must_live()
            self.awaited.append(queued[0])
            answer = self.respond(queued.popleft())
            if isinstance(answer, Exception):
                self._raise(answer)
            else:
                try:
                    yield answer
                except GeneratorExit:
                    if self.close_error is not None:
                        self._raise(self.close_error)
                    raise

    def reset(self) -> None:
        self._must_live()
        if self.reset_error is not None:
            self._raise(self.reset_error)
        self.files.clear()
        self.resets += 1

    def close(self) -> None:
        self.dead = True

    def _must_live(self) -> None:
        if self.dead:
            raise BoxLost("the fake box is dead")

    def _raise(self, error: Exception) -> None:
        self.dead = self.dead or isinstance(error, BoxLost)
        raise error


@dataclass
class FakeSlot:
    """A slot whose boxes, the first and its replacements, share one script."""

    respond: Respond
    boxes: list[FakeBox] = field(default_factory=list)
    no_more: SandboxError | None = None

    def __post_init__(self) -> None:
        self.boxes.append(FakeBox(self.respond))

    @property
    def box(self) -> FakeBox:
        return self.boxes[-1]

    def replace(self) -> None:
        self.box.close()
        if self.no_more is not None:
            raise self.no_more
        self.boxes.append(FakeBox(self.respond))

    @property
    def awaited(self) -> list[Run]:
        """Every run whose outcome was awaited, in whichever box."""
        return [run for box in self.boxes for run in box.awaited]


TOOLCHAINS = (
    Toolchain("c", "/usr/bin/gcc"),
    Toolchain("cpp", "/usr/bin/g++"),
    Toolchain("python", "/usr/bin/python3"),
)


def languages(**time_factors: float) -> dict[Language, LanguageSetup]:
    """Every language as if it were installed, with time factors by name."""
    factors = {Language(name): factor for name, factor in time_factors.items()}
    return setup_languages(TOOLCHAINS, factors, {}, {})
