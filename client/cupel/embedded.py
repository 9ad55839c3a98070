"""A service of one's own, for as long as a `with` block lasts: no set-up, nothing left behind.

The service is a child process with a temporary data folder. It is stopped when the block ends. If
the parent dies without a word (kill -9), the child sees the end of its standard input and stops.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from cupel.errors import EmbeddedServiceFailed

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 20.0

_POLL_S = 0.02
_READY = re.compile(r"^cupel: ready on (http://\S+)", re.MULTILINE)
_SAID_CHARS = 4000
# Meant for a service of the operator's, not for this private one on loopback.
_NOT_INHERITED = (
    *("CUPEL_API_KEYS", "CUPEL_API_KEYS_FILE", "CUPEL_HOST", "CUPEL_PORT"),
    *("CUPEL_DATA_DIR", "CUPEL_QUEUE", "CUPEL_STORE"),
)


@contextlib.contextmanager
def embedded_service(
    arguments: Sequence[str] = (), *, start_timeout_s: float = START_TIMEOUT_S
) -> Iterator[str]:
    """Runs `cupel serve` on a free loopback port, with a temporary data folder.

    Args:
        arguments: Further arguments of `cupel serve`.
        start_timeout_s: How long the start may take, in seconds; the first one compiles the runner.

    Yields:
        The service's URL; it is ready for work and asks for no API key.

    Raises:
        EmbeddedServiceFailed: It did not start; the text holds what it said.
    """
    with tempfile.TemporaryDirectory(prefix="cupel-", ignore_cleanup_errors=True) as folder:
        log = Path(folder, "serve.log")
        command = [sys.executable, "-P", "-m", "cupel.embedded", folder]
        command += ["serve", "--port", "0", "--data-dir", str(Path(folder, "data")), *arguments]
        environment = {key: os.environ[key] for key in os.environ if key not in _NOT_INHERITED}
        with (
            log.open("wb") as output,
            subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment | {"PYTHONUNBUFFERED": "1"},
                start_new_session=True,  # Ctrl-C reaches the parent only, which stops the child
            ) as child,
        ):
            try:
                yield _wait_until_ready(child, log, start_timeout_s)
            finally:
                _stop(child)


def _wait_until_ready(child: subprocess.Popen[bytes], log: Path, timeout_s: float) -> str:
    deadline = time.monotonic() + timeout_s
    while True:
        ended = child.poll() is not None  # asked before reading: what it said last is not missed
        said = log.read_text("utf-8", "replace")
        if found := _READY.search(said):
            return found[1]
        if ended:
            fault = f"ended with exit code {child.returncode} before it was ready"
        elif time.monotonic() > deadline:
            fault = f"was not ready after {timeout_s:g} s"
        else:
            time.sleep(_POLL_S)
            continue
        shown = said.strip()[-_SAID_CHARS:]
        raise EmbeddedServiceFailed(f"the embedded service {fault}:\n{shown or '(no output)'}")


def _stop(child: subprocess.Popen[bytes]) -> None:
    child.terminate()
    try:
        child.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        child.kill()
    except BaseException:  # Ctrl-C once more while waiting: end it at once
        child.kill()
        raise


def _run_child(folder: str, arguments: Sequence[str]) -> None:
    """The child: the CLI, ended by the end of standard input."""
    from cupel.cli import main

    # The server hands the signal back to this handler after its orderly stop.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    orphaned = threading.Event()

    def watch() -> None:
        os.read(0, 1)  # not sys.stdin: its lock, held here, would break the interpreter's exit
        orphaned.set()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
    try:
        main(arguments)
    finally:
        if orphaned.is_set():  # else the parent removes it
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    _run_child(sys.argv[1], sys.argv[2:])
