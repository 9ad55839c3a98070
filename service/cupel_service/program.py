"""A submission's program in a box: compiled there, run there, and again after the box was lost.

A box may die under a run, by the program's doing or by none of its fault. A run without an outcome
is run again, alone, in a new box: if that box dies too while it is known to have been well just
before, twice, and nothing outside ended it, then the program did it. Three losses otherwise are
Cupel's own fault.

After a loss the program is compiled again rather than kept as a binary from the start: losses are
rare, and the copy would cost every submission.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Protocol

from cupel.schema import CompileResult
from cupel_sandbox.box import Box, Limit, Outcome, Run
from cupel_sandbox.errors import BoxLost, BoxRefused, SandboxError
from cupel_service.errors import JudgingError
from cupel_service.languages import DIAGNOSTICS_BYTES_MAX, LanguageSetup

logger = logging.getLogger(__name__)

INTERRUPTIONS_MAX = 3
KILLS_MAX = 2


class Slot(Protocol):
    """A place that holds one box at a time, lent to one submission after another."""

    @property
    def box(self) -> Box:
        """The box that is in the slot now."""

    def replace(self) -> None:
        """Destroys the box and puts a new one in its place.

        Raises:
            SandboxError: No new box can be had.
        """


class Fault(StrEnum):
    """What a program did instead of ending with an outcome; shown as a flag of its test."""

    KILLED_BOX = "killed_box"
    CANNOT_EXECUTE = "cannot_execute"


class Program:
    """One submission's program in one slot, from its source to the box's reset.

    Args:
        slot: Where it runs; nobody else uses it until `leave` returns.
        setup: Its language.
        source: Its text.
    """

    def __init__(self, slot: Slot, setup: LanguageSetup, source: bytes) -> None:
        self._slot = slot
        self._setup = setup
        self._source = source
        self._installed = False
        self._lost = False

    def compile(self) -> CompileResult | None:
        """Compiles the program in the box; a language without a compiler has nothing to do.

        Returns:
            How it went, or None for a language without a compile step.

        Raises:
            JudgingError: Boxes were lost before the compiler could run, or none can be had.
            BoxRefused: The box could not take the source or start the compiler.
        """
        run = self._compile_run()
        if run is None:
            return None
        outcome = self._insist(run, self._place, interruptions=0)
        if isinstance(outcome, Fault):
            return CompileResult(
                ok=False, cpu_s=0, wall_s=0, diagnostics="Compiling this program killed its box."
            )
        result = compile_result(outcome)
        self._installed = result.ok
        return result

    def run_many(self, runs: Iterable[Run]) -> Generator[Outcome, None, None]:
        """Runs the program again and again, sending each run while the one before is going.

        Args:
            runs: What to run, in order.

        Yields:
            The outcomes in order.

        Raises:
            BoxLost: The run whose outcome was awaited was interrupted.
            BoxRefused: The program could not be started, or not put into the box.
            JudgingError: No box can be had.
        """
        self._ready()
        with self._noticing_loss():
            yield from self._slot.box.run(runs)

    def abandon(self, outcomes: Generator[Outcome, None, None]) -> None:
        """Ends `run_many` early: what is running is killed, what is queued is dropped."""
        try:
            outcomes.close()
        except BoxLost:
            logger.warning("a box was lost while its runs were being dropped")

    def run_alone(self, run: Run, *, interruptions: int = 0) -> Outcome | Fault:
        """Runs the program once, with nothing else sent; again where the box is lost.

        Args:
            run: What to run.
            interruptions: How often this run was interrupted already.

        Returns:
            The outcome, or the fault by which the program kept itself from having one.

        Raises:
            JudgingError: The run was interrupted three times, or no box can be had.
            BoxRefused: The program could not be started, and not by its own fault.
        """
        try:
            return self._insist(run, self._ready, interruptions)
        except BoxRefused:
            if not (self._installed and self._starts_compiler()):
                raise
            return Fault.CANNOT_EXECUTE

    def leave(self) -> None:
        """Leaves the box as if it were new, or a new box in its place. Never raises SandboxError.

        What fails here is not the program's result: it is logged, and the next submission meets
        whatever is wrong with the slot as its own loss.
        """
        try:
            if not self._lost:
                self._slot.box.reset()
                return
        except SandboxError as error:
            logger.warning("a box was not reset and is replaced: %s", error)
        try:
            self._slot.replace()
        except SandboxError:
            logger.exception("a lost box was not replaced")

    def _insist(self, run: Run, ready: Callable[[], None], interruptions: int) -> Outcome | Fault:
        """Runs one program alone until it has an outcome, or has killed two boxes."""
        kills = 0
        while True:
            alive = False
            try:
                ready()
                alive = True
                return self._only(run)
            except BoxLost as error:
                interruptions += 1
                kills += alive and not error.by_host
                if kills == KILLS_MAX:
                    return Fault.KILLED_BOX
                if interruptions >= INTERRUPTIONS_MAX:
                    raise JudgingError(f"a run was interrupted {interruptions} times") from error

    def _only(self, run: Run) -> Outcome:
        with self._noticing_loss():
            (outcome,) = self._slot.box.run((run,))
            return outcome

    def _place(self) -> None:
        """Sees to it that there is a living box, and that it holds the source."""
        if self._lost:
            try:
                self._slot.replace()
            except SandboxError as error:
                raise JudgingError(f"a box was lost and no new one can be had: {error}") from error
            self._lost = False
        with self._noticing_loss():
            self._slot.box.put(self._setup.source_name, self._source)

    def _ready(self) -> None:
        """Sees to it that there is a living box, and that it holds the program."""
        if self._installed:
            return
        self._place()
        run = self._compile_run()
        if run is not None and not _compiled(self._only(run)):
            raise JudgingError("a program that had compiled did not compile again in a new box")
        self._installed = True

    def _compile_run(self) -> Run | None:
        if self._setup.compile_argv is None:
            return None
        return Run(
            argv=self._setup.compile_argv,
            limits=self._setup.compile_limits,
            environment=self._setup.environment,
            writable_submission=True,
        )

    def _starts_compiler(self) -> bool:
        """Whether this box starts other programs, when it refused to start the submission's.

        A binary can be built so that the kernel will not load it (a loader that does not exist,
        named in its `.interp`). That must not become a judging error, which escapes its reward.
        """
        compiler = self._setup.compile_argv
        if compiler is None:
            return False  # then what the box refused is the interpreter, not the submission
        run = Run(
            argv=(compiler[0], "--version"),
            limits=self._setup.compile_limits,
            environment=self._setup.environment,
        )
        try:
            return self._only(run).exit_code == 0
        except BoxRefused:
            return False

    @contextmanager
    def _noticing_loss(self) -> Iterator[None]:
        try:
            yield
        except BoxLost:
            self._lost = True
            self._installed = False
            raise


def compile_result(outcome: Outcome) -> CompileResult:
    """What a compiler's run says of the program that it was given."""
    return CompileResult(
        ok=_compiled(outcome),
        cpu_s=outcome.cpu_s,
        wall_s=outcome.wall_s,
        diagnostics=_diagnostics(outcome),
    )


def _compiled(outcome: Outcome) -> bool:
    return outcome.exit_code == 0 and outcome.limit is None


def _diagnostics(outcome: Outcome) -> str:
    """What the compiler printed, the head of it, and which limit stopped it."""
    printed = outcome.stderr + outcome.stdout
    text = printed[:DIAGNOSTICS_BYTES_MAX].decode("utf-8", "replace")
    written = outcome.stderr_bytes + outcome.stdout_bytes
    if written > DIAGNOSTICS_BYTES_MAX:
        text += f"\n[truncated: the compiler printed {written} bytes]"
    if outcome.limit is not None:
        text = f"{_STOPPED[outcome.limit]}\n{text}".rstrip("\n")
    return text


_STOPPED = {
    Limit.CPU: "The compiler was stopped: it took too much CPU time.",
    Limit.WALL: "The compiler was stopped: it took too long.",
    Limit.MEMORY: "The compiler was stopped: it used too much memory.",
    Limit.OUTPUT: "The compiler was stopped: it printed too much.",
    Limit.FILE_SIZE: "The compiler was stopped: it wrote a file that is too large.",
    Limit.PROCESSES: "The compiler was stopped: it went on starting processes.",
}
