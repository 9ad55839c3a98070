"""All sessions of a service: opened, found, expired, ended; and what they share."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from cupel.schema import Language, SessionsInfo, Stop
from cupel.session_schema import (
    ExecutionRequest,
    ExecutionResult,
    SessionInfo,
    SessionRequest,
    SessionState,
    SnapshotInfo,
    SubmitRequest,
    SubmitResult,
)
from cupel_sandbox.errors import BoxRefused, SandboxError
from cupel_service.errors import (
    LanguageUnavailable,
    NotThere,
    QueueFull,
    ServiceError,
    SessionOver,
    Stopping,
)
from cupel_service.judging import Judging
from cupel_service.requests import InvalidRequest
from cupel_service.rewards import check_weights, needs_every_test
from cupel_service.sessions.executions import execute
from cupel_service.sessions.replays import Replays
from cupel_service.sessions.session import Files, House, Session, free
from cupel_service.sessions.snapshots import Snapshots
from cupel_service.sessions.submissions import Judge, specs_of, submit
from cupel_service.suite import Suite

_log = logging.getLogger(__name__)

SWEEP_S = 1.0
"""How often times to live are looked at."""
ENDED_MAX = 10_000
"""How many sessions that are over can still say why."""
FULL_RETRY_S = 10

EXAMPLES = "examples"
"""The folder in which a session finds the public tests."""


@dataclass(frozen=True, slots=True)
class Judged:
    """How sessions reach the judge.

    Args:
        judge: Judges a submission by the dispatcher.
        suite_of: The tests of a session's problem.
    """

    judge: Judge
    suite_of: Callable[[SessionRequest], Awaitable[Suite | None]]


class Sessions:
    """All sessions. On the event loop only.

    Args:
        house: What they share.
        languages: How programs are run in these boxes.
        judged: How they reach the judge.
        snapshots: The saved folders.
        sessions_max: How many may be open at one time.
        boxes: How many boxes there are.
    """

    def __init__(
        self,
        house: House,
        languages: Judging,
        judged: Judged,
        snapshots: Snapshots,
        *,
        sessions_max: int,
        boxes: int,
    ) -> None:
        self._house = house
        self._languages = languages
        self._judged = judged
        self._sessions_max = sessions_max
        self._boxes = boxes
        self._open: dict[str, Session] = {}
        self._ended: OrderedDict[str, SessionInfo] = OrderedDict()
        self._boot = secrets.token_hex(4)
        self._stopping = False
        self._sweeping: asyncio.Task[None] | None = None
        self._ending: set[asyncio.Task[None]] = set()
        self.snapshots = snapshots
        self.replays = Replays(house.results_kept_s, finished_max=1000)
        # A program may run again, as it leaves nothing; its answer is too large to be kept.
        self.executions = Replays(house.results_kept_s, finished_max=0)

    # ---- from start to stop

    def start(self) -> None:
        """Begins to look at times to live."""
        self._sweeping = asyncio.get_running_loop().create_task(self._sweep())

    async def stop(self) -> None:
        """Ends all of them."""
        self._stopping = True
        if self._sweeping is not None:
            self._sweeping.cancel()
        await self._house.lending.stop()
        ending = [
            session.end("the service is stopping", by_host=True)
            for session in list(self._open.values())
        ]
        await asyncio.gather(*ending, *self._ending, return_exceptions=True)

    @property
    def info(self) -> SessionsInfo:
        """How many there are, and may be."""
        live = sum(session.live for session in self._open.values())
        return SessionsInfo(
            boxes=self._boxes,
            commands=self._house.commands.number,
            live=live,
            parked=len(self._open) - live,
            sessions_max=self._sessions_max,
            spool_bytes=self._house.spool.used_bytes,
            spool_bytes_max=self._house.spool.bytes_max,
        )

    # ---- sessions

    async def open(self, request: SessionRequest) -> SessionInfo:
        """Opens a session. It gets a box with its first command.

        Raises:
            QueueFull: As many as may be are open.
            InvalidRequest: Its rewards cannot be had from its problem.
            NotThere: There is no such snapshot.
            ProblemUnknown: There is no such problem.
        """
        if self._stopping:
            raise Stopping("the service is stopping")
        if len(self._open) >= self._sessions_max:
            raise QueueFull(
                f"{len(self._open)} sessions are open: end some (DELETE), or raise "
                "CUPEL_SESSIONS_MAX",
                FULL_RETRY_S,
            )
        await self._check(request)
        archive = None
        if request.snapshot is not None:
            archive = self._house.spool.copy(self.snapshots.get(request.snapshot))

        async def files() -> Files:
            suite = await self._judged.suite_of(request)
            return {} if suite is None else examples(suite)

        session = Session(
            f"{self._boot}-{secrets.token_hex(8)}",
            request,
            self._house,
            archive=archive,
            files=files,
            on_end=self._note_end,
        )
        self._open[session.id] = session
        return self.describe(session)

    def find(self, session_id: str) -> Session:
        """An open session.

        Raises:
            SessionOver: It is not open any more.
            NotThere: There never was one.
        """
        session = self._open.get(session_id)
        if session is not None:
            session.check()
            return session
        ended = self._ended.get(session_id)
        if ended is not None:
            raise SessionOver(ended.reason, by_host=ended.by_host)
        if session_id.startswith(f"{self._boot}-") or not _is_id(session_id):
            raise NotThere("there is no such session")
        raise SessionOver(
            "the session is over: it was not opened by this service, or before its last restart",
            by_host=True,
        )

    def about(self, session_id: str) -> SessionInfo:
        """What there is to know of a session, also if it is over.

        Raises:
            SessionOver: It is over, and nothing more is known.
            NotThere: There never was one.
        """
        ended = self._ended.get(session_id)
        return ended if ended is not None else self.describe(self.find(session_id))

    def describe(self, session: Session) -> SessionInfo:
        """What there is to know of a session."""
        over, request = session.over, session.request
        state = SessionState.LIVE if session.live else SessionState.PARKED
        return SessionInfo(
            id=session.id,
            state=SessionState.ENDED if over is not None else state,
            reason=over.reason if over is not None else "",
            by_host=over.by_host if over is not None else False,
            problem=request.problem if isinstance(request.problem, str) else None,
            language=request.language,
            age_s=session.age_s,
            idle_s=session.idle_s,
            limits=request.limits,
            cpu_s=session.cpu_s,
            commands=session.commands_run,
            processes=session.processes.running,
            interpreter=session.has_interpreter,
            submissions_left=session.submissions_left,
            snapshots=self.snapshots.of(session.id),
        )

    async def close(self, session_id: str) -> None:
        """Ends a session, because its client is done with it.

        Raises:
            SessionOver: It was over before.
            NotThere: There never was one.
        """
        await self.find(session_id).end("its client has closed it", by_host=False)

    async def snapshot(self, session: Session) -> SnapshotInfo:
        """Saves a session's folder.

        Raises:
            InvalidRequest: It is too large, or the session has too many.
        """
        self.snapshots.make_room(session.id)
        try:
            return self.snapshots.add(session.id, await session.save())
        except BoxRefused as error:
            raise InvalidRequest(f"the working folder cannot be saved: {error}") from error

    async def restore(self, session: Session, name: str) -> SessionInfo:
        """Puts a snapshot in place of a session's folder.

        Raises:
            NotThere: There is none of this name.
        """
        archive = self._house.spool.copy(self.snapshots.get(name))
        await session.restore(archive)
        return self.describe(session)

    async def submit(self, session: Session, request: SubmitRequest) -> SubmitResult:
        """Judges a file of a session; see `submissions.submit`."""
        return await submit(session, request, self._judged.judge)

    # ---- executions

    async def execute(self, request: ExecutionRequest) -> ExecutionResult:
        """Runs a program once, in a box of its own.

        Raises:
            LanguageUnavailable: These boxes lack its language.
            QueueFull: No box came free in time.
        """
        setup = self._languages.setups.get(request.language)
        if setup is None:
            raise self._unavailable(request.language)
        house = self._house
        slot = await house.lending.borrow()
        try:
            async with house.commands:
                return await house.in_thread(execute, slot, setup, request, house.shell)
        except SandboxError as error:
            if self._stopping:
                raise Stopping("the service is stopping") from error
            raise ServiceError(f"the program could not be run: {error}") from error
        finally:
            await asyncio.shield(free(house, slot, None))

    # ---- inside

    async def _check(self, request: SessionRequest) -> None:
        if request.language is not None and request.language not in self._languages.setups:
            raise self._unavailable(request.language)
        specs = specs_of(request)
        for name, spec in specs.items():
            if needs_every_test(spec) and request.stop is not Stop.NEVER:
                raise InvalidRequest(f"{name} counts tests: it needs `stop` to be `never`")
        suite = await self._judged.suite_of(request)
        for name, spec in specs.items():
            if suite is not None and (wrong := check_weights(spec, suite.tiers)):
                raise InvalidRequest(f"{name} {wrong}")

    def _unavailable(self, language: Language) -> LanguageUnavailable:
        return LanguageUnavailable(language, self._languages.missing.get(language, "no toolchain"))

    def _note_end(self, session: Session) -> None:
        self._open.pop(session.id, None)
        self._ended[session.id] = self.describe(session)
        while len(self._ended) > ENDED_MAX:
            self._ended.popitem(last=False)
        if session.over is not None:
            # Not the reason: its words may be those of a program in the box.
            _log.debug("session %s: over, by_host=%s", session.id, session.over.by_host)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            for session in list(self._open.values()):
                session.replays.forget_old()
                if reason := session.expired():
                    self._end_soon(session, reason)
            self.replays.forget_old()
            self.snapshots.forget_old()
            self._house.lending.tick()

    def _end_soon(self, session: Session, reason: str) -> None:
        task = asyncio.get_running_loop().create_task(session.end(reason, by_host=False))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)


def examples(suite: Suite) -> Files:
    """The public tests as files of a session, in the order of the suite."""
    public = [test for test in suite.tests if test.public]
    return {
        f"{EXAMPLES}/{number}.{ending}": data
        for number, test in enumerate(public, start=1)
        for ending, data in (("in", test.input), ("out", test.expected))
    }


def _is_id(session_id: str) -> bool:
    boot, dash, rest = session_id.partition("-")
    return bool(dash) and len(boot) == 8 and len(rest) == 16
