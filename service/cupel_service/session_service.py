"""A service's sessions, from start to stop: their boxes, their folder on disk, their threads."""

from __future__ import annotations

import asyncio
import functools
import posixpath
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager
from dataclasses import replace
from typing import ParamSpec, TypeVar

from cupel.schema import Judgement, Language, Submission
from cupel.session_schema import SessionRequest
from cupel_sandbox.box import Run
from cupel_sandbox.errors import SandboxError
from cupel_service.boxes import BOXES_PER_CORE, Pool, SessionBoxes
from cupel_service.errors import Stopping
from cupel_service.host import physical_cores
from cupel_service.judging import Judging, start_judging
from cupel_service.languages import ENVIRONMENT
from cupel_service.queue.contract import Admission
from cupel_service.runtime import Runtime
from cupel_service.sessions.lending import Lending, Turns
from cupel_service.sessions.registry import Judged, Sessions
from cupel_service.sessions.session import House
from cupel_service.sessions.snapshots import Snapshots
from cupel_service.sessions.spool import Spool
from cupel_service.settings import Settings
from cupel_service.suite import Suite

_P = ParamSpec("_P")
_T = TypeVar("_T")

_SHELLS = ("/bin/bash", "/usr/bin/bash", "/bin/sh")
_THREADS_PER_BOX = 3


class _Threads:
    """Threads of sessions alone: a command that hangs must not keep a problem from being stored."""

    def __init__(self, executor: ThreadPoolExecutor) -> None:
        self._executor = executor

    def __call__(
        self, function: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs
    ) -> Awaitable[_T]:
        loop = asyncio.get_running_loop()
        return loop.run_in_executor(self._executor, functools.partial(function, *args, **kwargs))


@asynccontextmanager
async def with_sessions(
    runtime: Runtime, settings: Settings, boxes: SessionBoxes | None
) -> AsyncIterator[Runtime]:
    """Adds sessions to a running service, and ends them at the end.

    Args:
        runtime: The service without them.
        settings: The service's settings.
        boxes: Their boxes, not yet started; None for a service without sessions.

    Yields:
        The service with them.

    Raises:
        CannotServe: The boxes, or the folder of what is parked, cannot be had.
    """
    if boxes is None:
        yield runtime
        return
    with ExitStack() as stack:
        pool = boxes.pool
        stack.callback(pool.close)
        languages = start_judging(settings, pool)
        spool = Spool(settings.data_dir / "sessions", settings.session_spool_bytes)
        stack.callback(spool.close)
        executor = ThreadPoolExecutor(
            _THREADS_PER_BOX * len(pool.slots) + 4, thread_name_prefix="session"
        )
        stack.callback(executor.shutdown, wait=True, cancel_futures=False)
        wait_s = settings.session_wait_s
        python = languages.setups.get(Language.PYTHON)
        house = House(
            lending=Lending(pool.slots, wait_s=wait_s, grace_s=settings.session_grace_s),
            spool=spool,
            in_thread=_Threads(executor),
            open_workspace=boxes.open_workspace,
            commands=Turns(settings.session_commands or BOXES_PER_CORE * physical_cores(), wait_s),
            environment=_environment(languages),
            shell=find_shell(pool),
            python=python.run_argv[0] if python is not None else "",
            folder_bytes_max=settings.session_folder_bytes,
            results_kept_s=settings.results_kept_s,
        )
        sessions = Sessions(
            house,
            languages,
            _judged(runtime),
            Snapshots(spool, settings.snapshots_max, settings.snapshot_kept_s),
            sessions_max=settings.sessions_max,
            boxes=len(pool.slots),
        )
        sessions.start()
        try:
            yield replace(runtime, sessions=sessions)
        finally:
            pool.interrupt()
            await sessions.stop()


def find_shell(pool: Pool) -> str:
    """The best shell that the boxes of a pool have."""
    box = pool.slots[0].box
    for shell in _SHELLS[:-1]:
        try:
            (outcome,) = box.run([Run((shell, "-c", "true"), environment=ENVIRONMENT)])
        except SandboxError:
            continue
        if outcome.exit_code == 0:
            return shell
    return _SHELLS[-1]


def _environment(languages: Judging) -> Mapping[str, str]:
    """What commands find: as for submissions, with the folder of each toolchain on the path."""
    folders = ENVIRONMENT["PATH"].split(":")
    for setup in languages.setups.values():
        program = (setup.compile_argv or setup.run_argv)[0]
        folders.insert(0, posixpath.dirname(program))
    environment = dict(ENVIRONMENT)
    # Unlike a verdict, an episode may see what any shell shows.
    del environment["PYTHONHASHSEED"]
    return environment | {"PATH": ":".join(dict.fromkeys(folders)), "TERM": "dumb", "USER": "user"}


def _judged(runtime: Runtime) -> Judged:
    async def judge(submission: Submission) -> tuple[Judgement, Suite]:
        (assignment,) = await runtime.assign([submission])
        batch = await runtime.dispatcher.submit(Admission([assignment]))
        try:
            async for bunch in batch:
                for finished in bunch:
                    return finished.judgement, assignment.suite
        finally:
            batch.leave()
        raise Stopping("the service is stopping: the submission was not judged")

    async def suite_of(request: SessionRequest) -> Suite | None:
        if request.problem is None:
            return None
        return (await runtime.suites([request.problem]))[request.problem]

    return Judged(judge, suite_of)
