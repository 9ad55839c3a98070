"""What `cupel serve` is to the embedded service: a ready line, HTTP, and a stop by signal."""

from __future__ import annotations

import os
import signal
import socket
import threading
from pathlib import Path

import typer
from fake_cupel import running_fake


def serve(port: int = 8400, data_dir: Path = Path(), broken: bool = False) -> None:
    if broken:
        typer.echo("no cgroup here: run as root", err=True)
        raise typer.Exit(1)
    data_dir.mkdir()
    # Detached, so that the test sees its end only when the process has ended.
    watch = socket.create_connection(("127.0.0.1", int(os.environ["FAKE_SERVE_WATCH"]))).detach()
    stopped = threading.Event()

    def stop(signal_number: int, frame: object) -> None:
        stopped.set()

    signal.signal(signal.SIGTERM, stop)
    with running_fake() as fake:
        os.write(watch, f"{data_dir.parent}\n".encode())
        typer.echo(f"starting\ncupel: ready on {fake.url} (port {port})")
        stopped.wait()
