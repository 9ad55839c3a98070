"""No session gets out of its box, fools its service, or leaves anything to the next one."""

from __future__ import annotations

import contextlib
import struct
import threading
from collections.abc import Iterator
from dataclasses import replace
from textwrap import dedent

import pytest

from box_stage import TOOLCHAINS, Compiler
from cupel_sandbox.box import MEBIBYTE, Limit, Run
from cupel_sandbox.errors import BoxRefused, WorkspaceEnded
from cupel_sandbox.pool import Host
from cupel_sandbox.runner_box import RunnerBox
from cupel_sandbox.workspace import Command, Workspace
from workspace_stage import ENVIRONMENT, LIMITS, begin, opened, sh, start, until


@pytest.fixture
def room(host: Host) -> Iterator[RunnerBox]:
    box = host.open_box()
    yield box
    box.close()


@pytest.fixture
def python(host: Host) -> str:
    return TOOLCHAINS["python"].executable if host.facts.box == "native" else "/usr/bin/python3"


def assert_clean(room: RunnerBox) -> None:
    """The next session finds nothing, and all of it works."""
    with opened(room) as workspace:
        assert workspace.alive() == 0
        assert workspace.list(".") == ()
        found = sh(workspace, "find /work /tmp /dev/shm -mindepth 1; ls -A /sub")
        assert found.split() == ["agent"]
        workspace.write("x", b"x")
        assert sh(workspace, "cat x") == "x"


def prints(workspace: Workspace, python: str, source: str) -> str:
    workspace.write("attack.py", dedent(source).encode())
    shown = start(workspace, python, "-I", "attack.py")
    ended = shown.wait()
    assert ended.exit_code == 0, (ended, shown.stderr)
    return shown.stdout.decode()


# ---- the agent


@pytest.mark.parametrize("signal", ["KILL", "TERM", "SEGV"])
def test_who_kills_the_agent_ends_the_own_session(room: RunnerBox, signal: str) -> None:
    with opened(room) as workspace:
        workspace.write("x", b"x")
        ended = begin(workspace, f"setsid sleep 1000 & kill -{signal} $PPID; sleep 1000").wait()
        assert ended.exit_code is None
        assert isinstance(workspace.ended, WorkspaceEnded)
        assert workspace.ended.outcome is not None
        with pytest.raises(WorkspaceEnded):
            workspace.read("x", 1)
    assert_clean(room)


def test_an_agent_that_was_stopped_ends_the_session_in_time(room: RunnerBox) -> None:
    with opened(room, answer_s=2.0) as workspace:
        stopped = begin(workspace, "kill -STOP $PPID; sleep 1000")
        until(lambda: bool(workspace.ended) or unanswered(workspace))
        with pytest.raises(WorkspaceEnded, match="does not answer"):
            workspace.alive()
        assert stopped.wait().exit_code is None
    assert_clean(room)


def unanswered(workspace: Workspace) -> bool:
    try:
        workspace.alive()
    except WorkspaceEnded:
        return True
    return False


def test_a_stopped_agent_does_not_keep_a_workspace_from_closing(room: RunnerBox) -> None:
    workspace = Workspace(room, LIMITS)
    begin(workspace, "echo; kill -STOP $PPID; sleep 1000")
    workspace.close()
    assert_clean(room)


def test_the_agents_memory_pipes_and_files_are_closed_to_commands(
    room: RunnerBox, python: str
) -> None:
    with opened(room) as workspace:
        said = prints(
            workspace,
            python,
            """
            import ctypes, os
            agent = os.getppid()
            for name in ["mem", "fd/0", "fd/1", "fd/2", "environ", "maps", "root", "cwd", "exe"]:
                for flags in (os.O_RDONLY, os.O_WRONLY):
                    try:
                        os.close(os.open(f"/proc/{agent}/{name}", flags | os.O_NONBLOCK))
                        print("opened", name)
                    except OSError:
                        pass
            if ctypes.CDLL(None).ptrace(16, agent, None, None) != -1:
                print("traced")
            for fd in range(3, 256):
                try:
                    os.fstat(fd)
                    print("inherited", fd)
                except OSError:
                    pass
            try:
                os.close(os.open("/sub/agent", os.O_WRONLY))
                print("wrote the agent")
            except OSError:
                pass
            """,
        )
        assert said == ""


def test_frames_that_a_command_writes_are_its_output(room: RunnerBox, python: str) -> None:
    forged = b"".join(
        struct.pack("<IBI", 5 + 21, kind, number) + bytes(21)
        for kind in (101, 104, 107, 108, 110, 111)
        for number in range(6)
    )
    with opened(room) as workspace:
        workspace.write("forged", forged)
        going = begin(workspace, "read x; exit 5", stdin=None)
        shown = begin(workspace, "cat forged; cat forged >&2; exit 3")
        assert shown.wait().exit_code == 3
        assert (bytes(shown.stdout), bytes(shown.stderr)) == (forged, forged)
        said = prints(
            workspace,
            python,
            """
            import glob, os
            forged = open("forged", "rb").read()
            mine = {f"/proc/{os.getpid()}", "/proc/self", "/proc/thread-self"}
            for path in glob.glob("/proc/[0-9]*/fd/*"):
                if os.path.dirname(os.path.dirname(path)) in mine:
                    continue
                try:
                    if not os.readlink(path).startswith("pipe:"):
                        continue
                    fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
                    os.write(fd, forged)
                except OSError:
                    pass
            """,
        )
        assert said == ""
        workspace.send(going.number, b"\n")
        assert going.wait().exit_code == 5  # it was another command's pipe at most
        assert workspace.ended is None


# ---- processes


FORK_BOMB = """
    #include <unistd.h>
    int main() { for (;;) if (fork() < 0) usleep(PAUSE_US); }
"""


def test_a_fork_bomb_in_the_background_ends_its_own_session_only(
    room: RunnerBox, compiler: Compiler
) -> None:
    with opened(room) as workspace:
        bomb = compiler.c(FORK_BOMB.replace("PAUSE_US", "0"))
        workspace.write("bomb", bomb, executable=True)
        assert begin(workspace, "./bomb & exit 0").wait().exit_code in {0, None}
        until(lambda: workspace.ended is not None)
        assert isinstance(workspace.ended, WorkspaceEnded)
        assert workspace.ended.outcome is not None
        assert workspace.ended.outcome.limit == Limit.PROCESSES
    assert_clean(room)


def test_a_fork_bomb_can_be_killed_and_its_session_goes_on(
    room: RunnerBox, compiler: Compiler
) -> None:
    with opened(room) as workspace:
        bomb = compiler.c(FORK_BOMB.replace("PAUSE_US", "5000000"))
        workspace.write("bomb", bomb, executable=True)
        going = start(workspace, "./bomb")
        until(lambda: workspace.alive() >= LIMITS.processes - 2)
        workspace.kill(going.number)
        assert going.wait().signal == 9
        until(lambda: workspace.alive() == 0)
        assert sh(workspace, "echo well") == "well\n"
    assert_clean(room)


def test_no_process_outlives_the_session(room: RunnerBox, compiler: Compiler) -> None:
    daemon = compiler.c(
        """
        #include <signal.h>
        #include <unistd.h>
        #include <sys/prctl.h>
        int main() {
            for (int i = 1; i < 65; i++) signal(i, SIG_IGN);
            prctl(PR_SET_DUMPABLE, 0);
            for (int i = 0; i < 3; i++) { if (fork()) _exit(0); setsid(); }
            for (;;) pause();
        }
        """
    )
    with opened(room) as workspace:
        first = sh(workspace, "id -u")
        workspace.write("daemon", daemon, executable=True)
        for _ in range(3):
            sh(workspace, "./daemon")
        sh(workspace, "(sleep 1000; echo > /work/late) & nohup setsid sleep 1000 > /dev/null &")
    (next_run,) = room.run([Run(("/bin/sh", "-c", "ls /proc; id -u"), environment=ENVIRONMENT)])
    numbers = [word for word in next_run.stdout.decode().split() if word.isdigit()]
    assert first.strip() not in numbers  # nor the same user
    assert len(numbers) <= 4, numbers  # PID 1 where it is seen, the shell, its child, its user
    assert_clean(room)


# ---- files


def test_nothing_is_left_in_any_place(room: RunnerBox, python: str) -> None:
    with opened(room) as workspace:
        sh(workspace, "for d in /work /tmp /dev/shm; do echo x > $d/left; done")
        sh(workspace, "mkdir -p /tmp/a/b/c; chmod 000 /tmp/a/b; mkfifo /tmp/p; ln -s / /dev/shm/l")
        prints(
            workspace,
            python,
            """
            import multiprocessing.shared_memory as m, os
            shared = m.SharedMemory("shared", create=True, size=4096)
            shared.buf[:4] = b"left"
            for depth in range(300):
                os.mkdir("d"); os.chdir("d")
            """,
        )
    assert_clean(room)


def test_a_full_disk_is_the_own_sessions_trouble(room: RunnerBox) -> None:
    with opened(room, replace(LIMITS, memory_bytes=64 * MEBIBYTE)) as workspace:
        begin(workspace, "head -c 200000000 /dev/zero > /work/x").wait()
        with contextlib.suppress(WorkspaceEnded):
            begin(workspace, "head -c 200000000 /dev/zero > /tmp/y").wait()
    assert_clean(room)


def test_more_files_than_there_is_room_for_are_the_own_sessions_trouble(
    room: RunnerBox, python: str
) -> None:
    with opened(room, replace(LIMITS, memory_bytes=512 * MEBIBYTE)) as workspace:
        said = prints(
            workspace,
            python,
            """
            try:
                for number in range(100_000):
                    open(f"f{number}", "x").close()
            except OSError as error:
                print(error.strerror)
            """,
        )
        assert said == "No space left on device\n"
        with pytest.raises(BoxRefused):
            workspace.write("one-more", b"x")
    assert_clean(room)


def test_links_lead_to_nothing_outside(room: RunnerBox) -> None:
    with opened(room) as workspace:
        sh(workspace, "ln -s /etc e; ln -s /proc/1 p; ln -s /sub s; ln -s /proc/self/root r")
        sh(workspace, "ln -s / root; mkdir d; ln -s ../../etc/passwd d/l")
        for path in ["e/passwd", "p/environ", "s/agent", "r/etc/passwd", "root/etc/passwd", "d/l"]:
            with pytest.raises(BoxRefused):
                workspace.read(path, MEBIBYTE)
            if path != "d/l":  # that would be replaced
                with pytest.raises(BoxRefused):
                    workspace.write(path, b"x")
        for path in ["e", "p", "s", "root", "root/etc"]:
            with pytest.raises(BoxRefused):
                workspace.list(path)
        workspace.save(MEBIBYTE)


def test_a_folder_that_becomes_a_link_in_between_leads_nowhere(
    room: RunnerBox, python: str
) -> None:
    with opened(room) as workspace:
        workspace.write("swap.py", SWAP)
        workspace.write("real/passwd", b"mine")
        shown = start(workspace, python, "swap.py")
        until(lambda: shown.stdout == b"swapping\n")
        read = set()
        for _ in range(200):
            try:
                read.add(workspace.read("d/passwd", MEBIBYTE))
                workspace.write("d/passwd", b"mine")
            except BoxRefused:
                read.add(b"")
        assert read == {b"mine", b""}
        workspace.kill(shown.number)
        shown.wait()


SWAP = b"""
import os
os.symlink("/etc", "link")
os.rename("real", "d")
print("swapping", flush=True)
while True:
    os.rename("d", "real"); os.rename("link", "d")
    os.rename("d", "link"); os.rename("real", "d")
"""


def record(kind: int, path: bytes, content: bytes = b"", mode: int = 0o644) -> bytes:
    """A record of an archive, as runner/archive.c has it."""
    return struct.pack("<BHQHQ", kind, mode, 0, len(path), len(content)) + path + content


DIRECTORY, FILE, LINK, END = 4, 8, 10, record(255, b"")


@pytest.mark.parametrize(
    "records",
    [
        record(FILE, b"../outside", b"x"),
        record(FILE, b"/tmp/outside", b"x"),
        record(LINK, b"l", b"/tmp") + record(FILE, b"l/outside", b"x"),
        record(LINK, b"l", b"/tmp") + record(DIRECTORY, b"l/outside"),
        record(DIRECTORY, b"d") + record(FILE, b"d/../../tmp/outside", b"x"),
        record(DIRECTORY, b".."),
        record(FILE, b"", b"x"),
        record(FILE, b"a\0b", b"x"),
        record(FILE, b"x" * 4090, b"x"),
        record(1, b"pipe"),
        struct.pack("<BHQHQ", FILE, 0o644, 0, 1, 2**63) + b"x",
    ],
    ids=range(11),
)
def test_an_archive_that_was_tampered_with_writes_nothing_outside(
    room: RunnerBox, records: bytes
) -> None:
    with opened(room) as workspace:
        with pytest.raises(BoxRefused):
            workspace.load(b"cupel-work-1\n" + records + END)
        assert sh(workspace, "find /tmp /dev/shm -mindepth 1") == ""
        workspace.load(b"cupel-work-1\n" + record(FILE, b"fine", b"x") + END)
        assert [entry.name for entry in workspace.list(".")] == ["fine"]


def test_no_archive_makes_a_file_of_another_users_rights(room: RunnerBox) -> None:
    records = record(FILE, b"x", b"#!/bin/sh\nid -u\n", 0o6755)
    with opened(room) as workspace:
        workspace.load(b"cupel-work-1\n" + records + END)
        assert sh(workspace, "stat -c %a x") == "755\n"


# ---- output


def test_a_flood_of_output_is_held_up_and_ends_with_the_session(room: RunnerBox) -> None:
    seen = threading.Event()
    going = threading.Event()

    def on_output(stream: object, data: bytes) -> None:
        seen.set()
        going.wait(2.0)

    workspace = Workspace(room, LIMITS)
    for stream in ("", ">&2"):
        command = Command(("/bin/sh", "-c", f"yes {stream}"), environment=ENVIRONMENT)
        workspace.start(command, on_output, lambda ended: None)
    assert seen.wait(60.0)
    going.set()
    assert workspace.alive() >= 2
    workspace.close()
    assert_clean(room)
