"""One session: its box when it has one, its folder on disk when not, and what it is asked for.

A session that is not in use gives its box to another (`park`) and gets one again with its next
command; who uses it sees no difference. On the event loop only; the box is called from threads.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

from cupel.schema import Language
from cupel.session_schema import SessionRequest
from cupel_sandbox.box import Limit, Outcome
from cupel_sandbox.errors import BoxLost, BoxRefused, CannotStart, SandboxError, WorkspaceEnded
from cupel_sandbox.workspace import WorkspaceLimits
from cupel_service.errors import ServiceError, SessionOver, StoreFailed
from cupel_service.program import Slot
from cupel_service.requests import InvalidRequest
from cupel_service.sessions.interpreter import Interpreter
from cupel_service.sessions.lending import Lending, Turns
from cupel_service.sessions.processes import Processes
from cupel_service.sessions.replays import Replays
from cupel_service.sessions.running import InThread, Workspace
from cupel_service.sessions.spool import Archive, Spool

_log = logging.getLogger(__name__)

LEAST_LIFE_S = 0.001

Files = Mapping[str, bytes]
OpenWorkspace = Callable[[Slot, WorkspaceLimits], Workspace]
"""Makes a workspace of a slot's box, which is as new; may block, and raises SandboxError."""


@dataclass(frozen=True, slots=True)
class House:
    """What all sessions share.

    Args:
        lending: The boxes.
        spool: Where folders wait.
        in_thread: How what blocks is called.
        open_workspace: Makes a workspace of a slot.
        commands: Bounds the commands that run at one time.
        environment: Of every command, before what a session or a command adds.
        shell: Executes commands.
        python: The interpreter inside the boxes; empty if there is none.
        folder_bytes_max: Of what is saved of one session.
        results_kept_s: How long finished work can be asked for again.
    """

    lending: Lending
    spool: Spool
    in_thread: InThread
    open_workspace: OpenWorkspace
    commands: Turns
    environment: Mapping[str, str]
    shell: str
    python: str
    folder_bytes_max: int
    results_kept_s: float


class Session:
    """One session.

    Args:
        session_id: Its name.
        request: What it was opened with.
        house: What it shares with others.
        archive: The folder that it begins with, its own from now on; None for an empty one.
        files: Files that are put into an empty folder.
        on_end: Called once, when it is over.
    """

    def __init__(
        self,
        session_id: str,
        request: SessionRequest,
        house: House,
        *,
        archive: Archive | None,
        files: Callable[[], Awaitable[Files]],
        on_end: Callable[[Session], None],
    ) -> None:
        self.id = session_id
        self.request = request
        self.house = house
        self.replays = Replays(house.results_kept_s)
        self.processes = Processes()
        self.begun_s = time.monotonic()
        self.touched_s = self.begun_s
        self.commands_run = 0
        self.submissions_left = request.limits.submissions
        self.over: SessionOver | None = None
        self.environment = {**house.environment, **request.environment}
        self._archive = archive
        self._files = files
        self._on_end = on_end
        self._slot: Slot | None = None
        self._workspace: Workspace | None = None
        self._interpreter: Interpreter | None = None
        self._dirty = False
        self._users = 0
        self._judging = 0
        self._moving = asyncio.Lock()
        self._cpu_s = 0.0

    # ---- what is known of it

    @property
    def live(self) -> bool:
        """Whether it has a box now."""
        return self._workspace is not None

    @property
    def cpu_s(self) -> float:
        """CPU time of the boxes that it had before this one."""
        return self._cpu_s

    @property
    def has_interpreter(self) -> bool:
        """Whether its Python interpreter is alive."""
        return self._interpreter is not None and self._interpreter.alive

    @property
    def idle_s(self) -> float:
        """For how long nothing has been asked of it."""
        return 0.0 if self._users or self._judging else time.monotonic() - self.touched_s

    @property
    def age_s(self) -> float:
        """Since when it has been open."""
        return time.monotonic() - self.begun_s

    @property
    def language(self) -> Language | None:
        """Of submissions that do not say."""
        return self.request.language

    def expired(self) -> str:
        """Which of its times is up; empty if none is."""
        limits = self.request.limits
        if self.age_s > limits.life_s:
            return f"its life of {limits.life_s:g} s is over"
        if self.idle_s > limits.idle_s:
            return f"nothing was asked of it for {limits.idle_s:g} s"
        return ""

    # ---- using it

    @asynccontextmanager
    async def used(self, *, writes: bool = True) -> AsyncIterator[Workspace]:
        """Holds its box, got back from wherever its folder was, for as long as it is used.

        Args:
            writes: Whether its folder may be another one afterwards.

        Yields:
            Its workspace.

        Raises:
            SessionOver: It has ended, or ends meanwhile.
            InvalidRequest: A snapshot was put in place of the folder meanwhile.
            QueueFull: No box came free in time; nothing was done.
        """
        self.check()
        self._users += 1
        self.house.lending.withdraw(self)
        workspace: Workspace | None = None
        try:
            async with self._moving:
                self.check()
                workspace = self._workspace or await self._settle()
                self.check()
                self._dirty |= writes
            yield workspace
        except (WorkspaceEnded, BoxLost) as error:
            if self.over is None and workspace is not None and workspace is not self._workspace:
                raise InvalidRequest("killed: a snapshot was put in place of the folder") from error
            raise await self.lost(error) from error
        finally:
            self._users -= 1
            self.touched_s = time.monotonic()
            if not self._users and self._workspace is not None and self.over is None:
                self.house.lending.offer(self)

    @contextmanager
    def judging(self) -> Iterator[None]:
        """Keeps it from being idle while a verdict is waited for; its box may be parked."""
        self._judging += 1
        try:
            yield
        finally:
            self._judging -= 1
            self.touched_s = time.monotonic()

    async def interpreter(self, workspace: Workspace) -> Interpreter:
        """Its Python interpreter; a new one where there is none, or where that has ended."""
        if self._interpreter is None or self._interpreter.over:
            self._interpreter = Interpreter(
                workspace, self.house.in_thread, self.house.python, self.environment
            )
        return self._interpreter

    def check(self) -> None:
        """Makes sure that it is not over.

        Raises:
            SessionOver: It is.
        """
        if self.over is not None:
            raise self.over

    async def save(self) -> Archive:
        """Its folder as it is now, in an archive of the caller's own.

        Raises:
            SessionOver: It has ended.
            BoxRefused: The folder is too large.
            StoreFull: There is no room for it.
        """
        house = self.house
        async with self._moving:
            self.check()
            if not self._dirty and self._archive is not None:
                self.touched_s = time.monotonic()
                return await house.in_thread(house.spool.copy, self._archive)
        async with self.used(writes=False) as workspace:
            content = await house.in_thread(workspace.save, house.folder_bytes_max)
            return await house.in_thread(house.spool.write, content)

    async def restore(self, archive: Archive) -> None:
        """Puts an archive in place of its folder, and ends what runs in it.

        Args:
            archive: Its own from now on.
        """
        async with self._moving:
            if self.over is not None:
                self.house.spool.remove(archive)
                raise self.over
            await self._leave()
            self._drop_archive()
            self._archive = archive
            self._dirty = False
            self.touched_s = time.monotonic()

    # ---- its box (Holder)

    async def park(self) -> None:
        """See Holder.park."""
        try:
            async with self._moving:
                if self._users or self._workspace is None or self.over is not None:
                    return
                if not await self._park(self._workspace) and not self._users:
                    self.house.lending.offer(self, pinned_since_s=self.touched_s)
        except (WorkspaceEnded, BoxLost) as error:
            await self.lost(error)

    async def evict(self) -> None:
        """See Holder.evict."""
        try:
            async with self._moving:
                if self._users or self._workspace is None or self.over is not None:
                    return
                parked = await self._park(self._workspace)
        except (WorkspaceEnded, BoxLost) as error:
            await self.lost(error)
            return
        if not parked and not self._users:
            await self.end(
                f"another one needed its box after {self.idle_s:.0f} s without a command; it could "
                "not be parked, for its running processes or the size of its folder",
                by_host=True,
            )

    async def _park(self, workspace: Workspace) -> bool:
        house = self.house
        if self.has_interpreter or self.processes.running:
            return False
        if await house.in_thread(workspace.alive):
            return False
        if self._dirty or self._archive is None:
            try:
                content = await house.in_thread(workspace.save, house.folder_bytes_max)
                archive = await house.in_thread(house.spool.write, content)
            except (BoxRefused, StoreFailed) as error:
                # Not its words: they may be those of a program in the box.
                _log.info("session %s: cannot be parked (%s)", self.id, type(error).__name__)
                return False
            self._drop_archive()
            self._archive = archive
            self._dirty = False
        if not self._users:  # else somebody came meanwhile, and the box stays
            await self._leave()
        return True

    async def _settle(self) -> Workspace:
        """Gets a box, and the folder into it."""
        house = self.house
        limits = self.request.limits
        cpu_s = limits.cpu_s - self._cpu_s
        if cpu_s <= 0:
            raise WorkspaceEnded(f"its CPU time of {limits.cpu_s:g} s is used up")
        archive = self._archive
        content = None if archive is None else await house.in_thread(house.spool.read, archive)
        slot = await house.lending.borrow()
        self._slot = slot
        try:
            self.check()
            self._workspace = workspace = await self._open(slot, cpu_s)
            if content is not None:
                await house.in_thread(workspace.load, content)
            else:
                for path, data in (await self._files()).items():
                    await house.in_thread(workspace.write, path, data)
        except BaseException as error:
            await asyncio.shield(self._leave())
            if isinstance(error, BoxLost):  # nothing of the session has run in this box
                raise BoxLost(str(error), by_host=True) from error
            if isinstance(error, BoxRefused):
                raise WorkspaceEnded(f"its folder cannot be put into a box: {error}") from error
            if isinstance(error, CannotStart):
                raise ServiceError(f"no box can be had for the session: {error}") from error
            raise
        return workspace

    async def _open(self, slot: Slot, cpu_s: float) -> Workspace:
        house, limits = self.house, self.request.limits
        bounds = WorkspaceLimits(
            cpu_s=cpu_s,
            wall_s=max(limits.life_s - self.age_s, LEAST_LIFE_S),
            memory_bytes=limits.memory_bytes,
            processes=limits.processes,
            open_files=limits.open_files,
            file_bytes=limits.file_bytes,
        )
        try:
            return await house.in_thread(house.open_workspace, slot, bounds)
        except BoxLost:  # as it was left by somebody else, or by the host
            await house.in_thread(slot.replace)
            return await house.in_thread(house.open_workspace, slot, bounds)

    async def _leave(self) -> None:
        """Gives its box back, as new; whatever ran in it is ended."""
        workspace, self._workspace = self._workspace, None
        slot, self._slot = self._slot, None
        self._interpreter = None
        self.house.lending.withdraw(self)
        if slot is None:
            return
        outcome = await free(self.house, slot, workspace)
        self._cpu_s += outcome.cpu_s if outcome is not None else 0.0

    # ---- its end

    async def lost(self, error: WorkspaceEnded | BoxLost) -> SessionOver:
        """Ends it for what has become of its box. Returns the error of whoever used it."""
        if self.over is None:
            by_host = isinstance(error, BoxLost) and error.by_host
            outcome = error.outcome if isinstance(error, WorkspaceEnded) else None
            await self.end(self._why(outcome) or str(error), by_host=by_host)
        return self.over or SessionOver("it has ended", by_host=True)

    async def end(self, reason: str, *, by_host: bool) -> None:
        """Ends it: its box is given back, its folder forgotten. Idempotent.

        Args:
            reason: Why, in one line.
            by_host: It is the service's doing.
        """
        if self.over is not None:
            return
        self.over = SessionOver(f"the session is over: {reason}", by_host=by_host)
        self._on_end(self)
        async with self._moving:  # whoever moves it just now finds out that it is over
            await self._leave()
            self._drop_archive()

    def _why(self, outcome: Outcome | None) -> str:
        limits = self.request.limits
        if outcome is None or outcome.limit is None:
            return ""
        return {
            Limit.CPU: f"its CPU time of {limits.cpu_s:g} s is used up",
            Limit.WALL: f"its life of {limits.life_s:g} s is over",
            Limit.MEMORY: f"it used more than {limits.memory_bytes} bytes of memory",
            Limit.PROCESSES: f"it went on starting more than {limits.processes} processes",
        }.get(outcome.limit, "it met a limit")

    def _drop_archive(self) -> None:
        archive, self._archive = self._archive, None
        if archive is not None:
            self.house.spool.remove(archive)


async def free(house: House, slot: Slot, workspace: Workspace | None) -> Outcome | None:
    """Gives a slot back with a box as new: the one that it has, or another.

    Returns:
        How the workspace's run ended; None if it had to be killed, or there was none.
    """
    outcome: Outcome | None = None
    try:
        if workspace is not None:
            outcome = await house.in_thread(workspace.close)
        else:
            await house.in_thread(slot.box.reset)
    except SandboxError as error:
        _log.warning("session: a box was lost and is replaced: %s", error)
        try:
            await house.in_thread(slot.replace)
        except SandboxError:
            _log.exception("session: a lost box was not replaced")
    house.lending.give_back(slot)
    return outcome
