"""A Docker engine for tests to harm: its own daemon, data and socket, with one very small image.

Its image holds one static program, `play`, and what a box needs. Programs for it are scripts:
lines of `sum` (print the sum of two numbers of the input, after as many seconds as a third says),
`echo WORDS`, `sleep SECONDS`, `spin`, `fill BYTES` (of /work) and `flood BYTES` (of output).
Compiling one means to copy it.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import signal
import subprocess
import tarfile
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import docker
import psutil  # type: ignore[import-untyped]  # its stubs are a package of their own
import pytest
import requests
from docker.errors import DockerException

from box_stage import Compiler
from cupel.schema import Language
from cupel_sandbox.box import SUBMISSION
from cupel_service.languages import LanguageSetup

IMAGE = "cupel-play"
WAIT_S = 60.0
NO_ANSWER = (DockerException, requests.RequestException)

PLAY = r"""
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static void pause_for(double seconds)
{
    struct timespec left = { (time_t)seconds, (seconds - (time_t)seconds) * 1e9 };
    while (nanosleep(&left, &left))
        ;
}

static int copy(const char *from, const char *to)
{
    char data[65536];
    ssize_t got;
    int source = open(from, O_RDONLY), target = open(to, O_WRONLY | O_CREAT | O_TRUNC, 0755);
    while ((got = read(source, data, sizeof data)) > 0)
        if (write(target, data, got) != got)
            return 1;
    return source < 0 || target < 0;
}

static void pour(int target, long bytes)
{
    static char data[4096];
    memset(data, 'x', sizeof data);
    for (; bytes > 0; bytes -= sizeof data)
        if (write(target, data, sizeof data) <= 0)
            return;
}

/* One page stands in the pipe many times: who reads it needs memory that no writer gives back. */
static void flood(long bytes)
{
    static char page[4096] __attribute__((aligned(4096)));
    memset(page, 'x', sizeof page);
    struct iovec piece = { page, sizeof page };
    fcntl(STDOUT_FILENO, F_SETPIPE_SZ, 1 << 20);
    for (; bytes > 0; bytes -= sizeof page)
        if (vmsplice(STDOUT_FILENO, &piece, 1, 0) <= 0)
            return;
}

int main(int count, char **words)
{
    if (count == 4 && !strcmp(words[1], "copy"))
        return copy(words[2], words[3]);
    char line[256];
    FILE *script = fopen(words[1], "r");
    if (!script)
        return 2;
    setvbuf(stdout, NULL, _IONBF, 0);
    while (fgets(line, sizeof line, script)) {
        char *text = strchr(line, ' ');
        if (text)
            *text++ = 0;
        line[strcspn(line, "\n")] = 0;
        if (!strcmp(line, "sum")) {
            long a = 0, b = 0;
            double seconds = 0;
            scanf("%ld %ld %lf", &a, &b, &seconds);
            pause_for(seconds);
            printf("%ld\n", a + b);
        } else if (!strcmp(line, "echo"))
            fputs(text, stdout);
        else if (!strcmp(line, "sleep"))
            pause_for(atof(text));
        else if (!strcmp(line, "spin"))
            for (;;)
                ;
        else if (!strcmp(line, "fill"))
            pour(open("/work/filled", O_WRONLY | O_CREAT | O_APPEND, 0600), atol(text));
        else if (!strcmp(line, "flood"))
            flood(atol(text));
        else
            return 3;
    }
    return 0;
}
"""


def play_languages(marker: str) -> dict[Language, LanguageSetup]:
    """Scripts of `play` as a language with a compiler.

    Args:
        marker: A word on the command line of every program, by which the host can see it run.
    """
    source, program = f"{SUBMISSION}/main.play", f"{SUBMISSION}/main"
    setup = LanguageSetup(
        language=Language.C,
        source_name="main.play",
        compile_argv=("/bin/play", "copy", source, program),
        run_argv=("/bin/play", program, marker),
    )
    return {Language.C: setup}


def new_marker() -> str:
    """A word that is on no other command line of this host."""
    return f"marker-{uuid.uuid4().hex}"


def is_running(marker: str) -> bool:
    """Whether a program of `play` with this marker runs on this host."""
    return any(
        process.info["cmdline"][:1] == ["/bin/play"] and marker in process.info["cmdline"]
        for process in psutil.process_iter(["cmdline"])
        if process.info["cmdline"]
    )


def wait_until(condition: Callable[[], bool], what: str, within_s: float = WAIT_S) -> None:
    """Waits for something that must come about."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.05)


@dataclass
class PrivateEngine:
    """An engine of the test's own.

    Args:
        folder: Holds everything of it; its path must be short, for the sockets in it.
        play: The executable of the image.
    """

    folder: Path
    play: bytes
    _daemon: subprocess.Popen[bytes] | None = None
    _containerd: int | None = None
    _group: str = field(default_factory=lambda: f"test-engine-{uuid.uuid4().hex[:12]}")

    @property
    def url(self) -> str:
        """What DOCKER_HOST must be."""
        return f"unix://{self.folder}/socket"

    @contextmanager
    def client(self) -> Iterator[docker.DockerClient]:
        """The engine's API, to look and meddle behind Cupel's back."""
        client = docker.DockerClient(base_url=self.url, timeout=30)
        try:
            yield client
        finally:
            client.close()

    def start(self, *arguments: str) -> None:
        """Starts the daemon and waits until it answers."""
        with (self.folder / "log").open("ab") as log:
            self._daemon = subprocess.Popen(
                [
                    # Without a network of its own, `--bridge none` removes the host's docker0.
                    *("unshare", "--net"),
                    "dockerd",
                    *("--host", self.url),
                    *("--data-root", str(self.folder / "data")),
                    *("--exec-root", str(self.folder / "exec")),
                    *("--pidfile", str(self.folder / "pid")),
                    *("--bridge", "none", "--iptables=false", "--ip6tables=false"),
                    *("--storage-driver", "vfs"),  # works everywhere, and the image is small
                    *("--cgroup-parent", f"/{self._group}"),
                    # Where the host's containerd runs, dockerd shares it.
                    *("--containerd-namespace", self._group),
                    *("--containerd-plugins-namespace", f"{self._group}-plugins"),
                    *arguments,
                ],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_until(self._answers, "the engine answers")
        with contextlib.suppress(FileNotFoundError):  # there is none where it shares the host's
            self._containerd = int((self.folder / "exec/containerd/containerd.pid").read_text())

    def _answers(self) -> bool:
        assert self._daemon is not None
        assert self._daemon.poll() is None, (self.folder / "log").read_text()[-4000:]
        if (self.folder / "socket").exists():
            with contextlib.suppress(*NO_ANSWER), self.client() as client:
                return bool(client.ping())
        return False

    def end(self, how: signal.Signals = signal.SIGTERM) -> None:
        """Ends the daemon, and waits until it is gone."""
        assert self._daemon is not None
        self._daemon.send_signal(how)
        self._daemon.wait(WAIT_S)
        if self._containerd is not None:
            # It ends with the daemon, but the next one would wait for it until init has reaped it.
            wait_until(lambda: not psutil.pid_exists(self._containerd or 0), "containerd is gone")

    def load_image(self, name: str = IMAGE) -> None:
        """Makes the image."""
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as archive:
            for folder in ("bin", "work", "sub", "tmp", "dev", "proc", "sys", "etc"):
                entry = tarfile.TarInfo(folder)
                entry.type, entry.mode = tarfile.DIRTYPE, 0o755
                archive.addfile(entry)
            entry = tarfile.TarInfo("bin/play")
            entry.size, entry.mode = len(self.play), 0o755
            archive.addfile(entry, io.BytesIO(self.play))
        with self.client() as client:
            client.api.import_image_from_data(packed.getvalue(), repository=name)

    def boxes(self, *, running_only: bool = False) -> list[str]:
        """Ids of the containers that Cupel has made."""
        with self.client() as client:
            found = client.api.containers(all=not running_only, filters={"label": "cupel=box"})
            return [str(each["Id"]) for each in found]

    def remove_boxes(self) -> None:
        """What `docker rm -f` does, to all boxes."""
        with self.client() as client:
            for box in self.boxes():
                client.api.remove_container(box, force=True)

    def stop(self) -> None:
        """Ends everything of the engine, whatever has become of it, and removes all of it."""
        if self._daemon is not None and self._daemon.poll() is None:
            self._empty()
            self._daemon.terminate()
            try:
                self._daemon.wait(WAIT_S)
            except subprocess.TimeoutExpired:
                self._daemon.kill()
                self._daemon.wait()
        for process in self._processes():  # of a killed engine
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        for mount in reversed(self.mounts()):
            subprocess.run(["umount", "--lazy", mount], check=False, capture_output=True)
        wait_until(self._remove_cgroups, "its cgroups are gone")
        shutil.rmtree(self.folder)

    def _empty(self) -> None:
        with contextlib.suppress(*NO_ANSWER), self.client() as client:
            for each in client.api.containers(all=True):
                client.api.remove_container(each["Id"], force=True)

    def _remove_cgroups(self) -> bool:
        groups = list(Path("/sys/fs/cgroup").glob(f"*/{self._group}"))
        groups += Path("/sys/fs/cgroup").glob(self._group)  # with v2 alone
        for group in groups:
            for folder in [*sorted(group.rglob("*/"), reverse=True), group]:
                with contextlib.suppress(OSError):  # until all that was in it is dead
                    for pid in (folder / "cgroup.procs").read_text().split():
                        os.kill(int(pid), signal.SIGKILL)
                    folder.rmdir()
        return not any(group.exists() for group in groups)

    def _processes(self) -> list[psutil.Process]:
        return [
            process
            for process in psutil.process_iter(["cmdline"])
            if any(str(self.folder) in word for word in process.info["cmdline"] or ())
        ]

    def mounts(self) -> list[str]:
        """Where something is mounted in its folder, in the order of mounting."""
        lines = Path("/proc/self/mounts").read_text().splitlines()
        points = [line.split(" ")[1] for line in lines]
        return [point for point in points if point.startswith(f"{self.folder}/")]


@contextmanager
def private_engine(compiler: Compiler) -> Iterator[PrivateEngine]:
    """An engine that runs and has the image; at the end nothing of it is left."""
    if shutil.which("dockerd") is None or shutil.which("unshare") is None:
        _do_without("needs dockerd and unshare (apt install docker.io util-linux)")
    if os.geteuid() != 0:
        _do_without("needs root, to start a Docker engine of its own")
    engine = PrivateEngine(Path(tempfile.mkdtemp(prefix="cupel-engine-")), compiler.c(PLAY))
    try:
        engine.start()
        engine.load_image()
        yield engine
    finally:
        engine.stop()
        assert engine.mounts() == []


def _do_without(reason: str) -> NoReturn:
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)
