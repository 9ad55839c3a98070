"""`cupel serve`: the service in the foreground, until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import math
import signal
import socket
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Annotated

import typer
import uvicorn
from fastapi import FastAPI

from cupel_service.app import create_app
from cupel_service.app_state import app_runtime
from cupel_service.boxes import Pool
from cupel_service.capabilities import in_words
from cupel_service.command import (
    AllowDegradedOption,
    BoxOption,
    DataDirOption,
    QueueOption,
    SlotsOption,
    StoreOption,
    read_settings,
    refuse,
)
from cupel_service.errors import CannotServe
from cupel_service.settings import Settings, shown_queue

_CANNOT = "cannot serve"
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def serve(
    host: Annotated[
        str | None, typer.Option(help="Address to listen on; beyond loopback a key is needed.")
    ] = None,
    port: Annotated[int | None, typer.Option(help="TCP port; 0 takes any free one.")] = None,
    data_dir: DataDirOption = None,
    slots: SlotsOption = None,
    box: BoxOption = None,
    queue: QueueOption = None,
    store: StoreOption = None,
    allow_degraded: AllowDegradedOption = None,
) -> None:
    """Start the service. What is not given here comes from CUPEL_* variables, else by default.

    With --queue it has no boxes of its own: `cupel worker` judges, on any number of machines.
    """
    settings = read_settings(
        {
            "host": host,
            "port": port,
            "data_dir": data_dir,
            "slots": slots,
            "box": box,
            "queue": queue,
            "store": store,
            "allow_degraded": allow_degraded,
        },
        _CANNOT,
    )
    try:
        with listening_socket(settings) as listener:
            asyncio.run(run_service(settings, listener))
    except CannotServe as error:
        refuse(_CANNOT, str(error))
    except asyncio.CancelledError:
        raise typer.Exit from None  # told to stop before it was ready


def listening_socket(settings: Settings) -> socket.socket:
    """Takes the port before anything else starts, so that a port in use is said at once.

    Args:
        settings: Which host and port.

    Returns:
        A bound socket that does not listen yet.

    Raises:
        CannotServe: The address cannot be had.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host.strip("[]"), settings.port, type=socket.SOCK_STREAM
        )[0]
    except OSError as error:
        raise CannotServe(
            f"{settings.host} is not an address of this host ({error.strerror})",
            "Choose one with --host or CUPEL_HOST",
        ) from error
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise _cannot_listen(settings, error) from error
    return listener


def _cannot_listen(settings: Settings, error: OSError) -> CannotServe:
    if error.errno == errno.EADDRINUSE:
        return CannotServe(
            f"port {settings.port} on {settings.host} is in use by another program",
            "Stop that one, or choose another port with --port or CUPEL_PORT (0 takes a free one)",
        )
    return CannotServe(
        f"cannot listen on {settings.host} port {settings.port} ({error.strerror})",
        "Choose another address or port with --host and --port",
    )


async def run_service(
    settings: Settings, listener: socket.socket, pool: Pool | None = None
) -> None:
    """Serves on a bound socket until a stop signal arrives; prints one line when it is ready.

    Args:
        settings: The service's settings.
        listener: A bound socket; listening begins when everything else has started.
        pool: Boxes to use instead of native ones.

    Raises:
        CannotServe: It cannot start here; says why and what to do.
    """
    main = asyncio.current_task()
    if main is not None:  # a SIGTERM while boxes are being made must still take them down
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, main.cancel)
    app = create_app(settings, pool)
    # Not by uvicorn's own lifespan: that one turns a clear refusal into a traceback.
    async with app.router.lifespan_context(app):
        config = uvicorn.Config(
            app,
            lifespan="off",
            log_config=None,
            access_log=False,
            log_level="warning",
            server_header=False,
            # The queue has stopped by then: only answers to slow readers are still on their way.
            timeout_graceful_shutdown=math.ceil(settings.stop_grace_s) + 1,
        )
        try:
            await _Server(config, app, settings).serve(sockets=[listener])
        except OSError as error:
            raise _cannot_listen(settings, error) from error


class _Server(uvicorn.Server):
    """Uvicorn, which says when it is ready, and stops the queue before its connections."""

    def __init__(self, config: uvicorn.Config, app: FastAPI, settings: Settings) -> None:
        super().__init__(config)
        self._app = app
        self._queue = settings.queue
        self._stop_grace_s = settings.stop_grace_s

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begins to accept, and says so."""
        await super().startup(sockets=sockets)
        runtime = app_runtime(self._app)
        if self.started and sockets and runtime is not None:
            where = f"queue {shown_queue(self._queue)}, " if self._queue else ""
            sys.stdout.write(
                f"cupel: ready on {_url(sockets[0])} ({where}{in_words(runtime.info)})\n"
            )
            sys.stdout.flush()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stops the queue while connections are still answered, then the connections."""
        runtime = app_runtime(self._app)
        if runtime is not None:
            await runtime.dispatcher.stop(self._stop_grace_s)
        await super().shutdown(sockets=sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Notes a signal to stop; a second one does not wait for what runs."""
        again = self.should_exit
        self.should_exit = True
        runtime = app_runtime(self._app)
        if again and runtime is not None:
            self.force_exit = True
            runtime.dispatcher.interrupt()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Takes the stop signals. Unlike uvicorn's, a stop that was asked for ends with success."""
        loop = asyncio.get_running_loop()
        for sig in _STOP_SIGNALS:
            # By the loop: the handler then runs between its steps, where it may take locks.
            loop.add_signal_handler(sig, self.handle_exit, sig, None)
        try:
            yield
        finally:
            for sig in _STOP_SIGNALS:
                loop.remove_signal_handler(sig)


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
