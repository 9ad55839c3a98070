"""What every box promises as a workspace: commands, their processes, files, and snapshots."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from cupel_sandbox.box import MEBIBYTE, Limit, Run
from cupel_sandbox.errors import BoxLost, BoxRefused, WorkspaceEnded
from cupel_sandbox.pool import Host
from cupel_sandbox.runner_box import RunnerBox
from cupel_sandbox.workspace import Command, CommandExit, Workspace, WorkspaceLimits
from workspace_stage import LIMITS, PATIENCE_S, Shown, begin, opened, sh, start, until


@pytest.fixture
def room(host: Host) -> Iterator[RunnerBox]:
    """A box for workspaces."""
    box = host.open_box()
    yield box
    box.close()


@pytest.fixture
def workspace(room: RunnerBox) -> Iterator[Workspace]:
    with opened(room) as workspace:
        yield workspace


# ---- commands


def test_output_exit_code_and_use_are_reported(workspace: Workspace) -> None:
    shown = begin(workspace, "printf out; printf err >&2; exit 3")
    ended = shown.wait()
    assert (ended.exit_code, ended.signal) == (3, None)
    assert (shown.stdout, shown.stderr) == (b"out", b"err")
    assert ended.wall_s > 0
    assert ended.cpu_s >= 0


def test_a_signal_is_reported(workspace: Workspace) -> None:
    ended = begin(workspace, "kill -11 $$").wait()
    assert (ended.exit_code, ended.signal) == (None, 11)


def test_a_command_that_cannot_be_is_an_exit_as_in_a_shell(workspace: Workspace) -> None:
    for code, argv, cwd in [
        (127, ("no-such-program",), "/work"),
        (126, ("/etc/passwd",), "/work"),
        (1, ("true",), "/no/such/folder"),
    ]:
        shown = start(workspace, *argv, cwd=cwd)
        assert shown.wait().exit_code == code
        assert shown.stderr.endswith(b"\n")
    assert sh(workspace, "echo well") == "well\n"


def test_a_program_is_found_along_the_path(workspace: Workspace) -> None:
    workspace.write("tools/mine", b"#!/bin/sh\necho mine $1\n", executable=True)
    shown = Shown()
    command = Command(("mine", "own"), environment={"PATH": "/work/tools:/bin:/usr/bin"})
    workspace.start(command, shown.on_output, shown.on_exit)
    assert shown.wait().exit_code == 0
    assert shown.stdout == b"mine own\n"


def test_words_that_no_command_has_are_refused(workspace: Workspace) -> None:
    for argv in [(), ("a\0b",), ("x",) * 600, ("x" * 2 * MEBIBYTE,)]:
        with pytest.raises(BoxRefused):
            start(workspace, *argv)
    assert sh(workspace, "echo well") == "well\n"


def test_the_environment_and_the_folder_are_the_callers(workspace: Workspace) -> None:
    workspace.write("below/x", b"")
    shown = Shown()
    command = Command(
        ("/bin/sh", "-c", "pwd; echo $A; env | wc -l"),
        environment={"A": "ü=", "PATH": "/bin:/usr/bin"},
        cwd="/work/below",
    )
    workspace.start(command, shown.on_output, shown.on_exit)
    assert shown.wait().exit_code == 0
    assert shown.stdout.decode().split() == ["/work/below", "ü=", "3"]  # and the shell's PWD


@pytest.mark.parametrize("size", [0, 1, 3 * MEBIBYTE + 1])
def test_standard_input_comes_whole(workspace: Workspace, size: int) -> None:
    content = secrets.token_bytes(1024) * (size // 1024) + b"x" * (size % 1024)
    shown = begin(workspace, "cat", stdin=content)
    assert shown.wait().exit_code == 0
    assert bytes(shown.stdout) == content


def test_standard_input_may_come_bit_by_bit(workspace: Workspace) -> None:
    shown = begin(workspace, "while read word; do echo got $word; done; echo end", stdin=None)
    for count, word in enumerate([b"one\n", b"two\n"], start=1):
        workspace.send(shown.number, word)
        until(lambda count=count: shown.stdout.count(b"got") == count)  # type: ignore[misc]
    workspace.end_input(shown.number)
    assert shown.wait().exit_code == 0
    assert shown.stdout == b"got one\ngot two\nend\n"
    workspace.send(shown.number, b"nobody hears")
    workspace.end_input(shown.number)


def test_a_command_that_does_not_read_holds_up_no_other(workspace: Workspace) -> None:
    deaf = begin(workspace, "sleep 1000", stdin=bytes(10 * MEBIBYTE))
    assert sh(workspace, "cat", stdin=b"heard") == "heard"
    with pytest.raises(BoxRefused, match="ended"):
        workspace.send(deaf.number, b"more")
    workspace.kill(deaf.number)
    assert deaf.wait().signal == 9


def test_commands_run_side_by_side(workspace: Workspace) -> None:
    sh(workspace, "mkfifo pipe")
    reader = begin(workspace, "cat pipe")
    assert sh(workspace, "echo through > pipe") == ""
    assert reader.wait().exit_code == 0
    assert reader.stdout == b"through\n"


def test_many_commands_are_kept_apart(workspace: Workspace) -> None:
    for _ in range(4):
        shown = [begin(workspace, f"echo {n}; cat; exit {n}", stdin=b"%d" % n) for n in range(8)]
        for number, each in enumerate(shown):
            assert each.wait().exit_code == number
            assert each.stdout == b"%d\n%d" % (number, number)


def test_output_streams_while_a_command_runs(workspace: Workspace) -> None:
    shown = begin(workspace, "echo first; read x; echo second", stdin=None)
    until(lambda: shown.stdout == b"first\n")
    assert not shown.ends
    workspace.send(shown.number, b"\n")
    assert shown.wait().exit_code == 0
    assert shown.stdout == b"first\nsecond\n"


def test_all_output_comes_before_the_end(workspace: Workspace) -> None:
    shown = begin(workspace, "head -c 3000000 /dev/zero; head -c 1000000 /dev/zero >&2")
    assert shown.wait().exit_code == 0
    assert (len(shown.stdout), len(shown.stderr)) == (3_000_000, 1_000_000)


def test_a_reader_that_waits_holds_the_command_up_and_nothing_is_lost(
    workspace: Workspace,
) -> None:
    go, over, sizes = threading.Event(), threading.Event(), list[int]()

    def on_output(stream: object, data: bytes) -> None:
        go.wait(PATIENCE_S)
        sizes.append(len(data))

    command = Command(("/bin/sh", "-c", "head -c 8000000 /dev/zero; echo > /work/done"))
    command = replace(command, environment={"PATH": "/usr/bin:/bin"})
    workspace.start(command, on_output, lambda ended: over.set())
    assert not over.wait(0.5)
    go.set()
    assert over.wait(PATIENCE_S)
    assert sum(sizes) == 8_000_000


# ---- processes


def test_a_command_ends_with_its_first_process_and_the_background_lives_on(
    workspace: Workspace,
) -> None:
    assert workspace.alive() == 0
    shown = begin(workspace, "sleep 1000 & echo started")
    assert shown.wait().exit_code == 0
    assert shown.stdout == b"started\n"
    assert workspace.alive() == 1
    begin(workspace, "(while echo x; do :; done) & exit 0").wait()  # it writes to nobody
    until(lambda: workspace.alive() == 2)
    assert sh(workspace, "echo well") == "well\n"


def test_a_kill_takes_descendants_and_background_processes(workspace: Workspace) -> None:
    going = begin(workspace, "sleep 1000 | cat & setsid sleep 1000 & sleep 1000")
    until(lambda: workspace.alive() >= 4)
    workspace.kill(going.number)
    assert going.wait().signal == 9
    until(lambda: workspace.alive() == 0)
    ended = begin(workspace, "sleep 1000 & sleep 1000 & exit 0")
    assert ended.wait().exit_code == 0
    assert workspace.alive() == 2
    workspace.kill(ended.number)
    until(lambda: workspace.alive() == 0)


def test_a_kill_spares_other_commands(workspace: Workspace) -> None:
    spared = begin(workspace, "read x; echo $x", stdin=None)
    killed = begin(workspace, "sleep 1000")
    until(lambda: workspace.alive() >= 2)
    workspace.kill(killed.number)
    assert killed.wait().signal == 9
    workspace.kill(12345)  # there is no such command
    workspace.send(spared.number, b"alive\n")
    assert spared.wait().exit_code == 0
    assert spared.stdout == b"alive\n"


def test_more_commands_than_there_is_room_for_are_refused_one_by_one(
    workspace: Workspace,
) -> None:
    going = [begin(workspace, "exec sleep 1000") for _ in range(40)]  # of 32 processes
    until(lambda: sum(len(each.ends) for each in going) >= 9)
    for each in going:
        if each.ends:
            assert each.wait().exit_code == 126
            assert b"cannot start" in each.stderr
        workspace.kill(each.number)
    until(lambda: workspace.alive() == 0)
    assert sh(workspace, "echo well") == "well\n"


# ---- files


def test_a_file_that_was_written_is_read(workspace: Workspace) -> None:
    content = secrets.token_bytes(1_500_000)
    for path in ["one", "/work/a/b/two", "./a/../a/three", "ü \n'"]:
        workspace.write(path, content)
        assert workspace.read(path, len(content)) == content
    workspace.write("one", b"")
    assert workspace.read("one", 0) == b""
    assert sh(workspace, "cat one | wc -c; wc -c < a/b/two").split() == ["0", "1500000"]
    with pytest.raises(BoxRefused, match="larger"):
        workspace.read("a/b/two", 100)


def test_an_executable_is_executable_and_what_a_command_wrote_is_read(
    workspace: Workspace,
) -> None:
    workspace.write("run", b"#!/bin/sh\necho ran > out\n", executable=True)
    assert sh(workspace, "./run") == ""
    assert workspace.read("out", 100) == b"ran\n"
    workspace.write("run", b"plain")
    assert begin(workspace, "./run").wait().exit_code == 126


def test_a_folder_is_listed_by_name(workspace: Workspace) -> None:
    workspace.write("b", b"123")
    workspace.write("c", b"#!", executable=True)
    sh(workspace, "mkdir a; ln -s /etc d; mkfifo e")
    entries = workspace.list(".")
    assert [(entry.name, entry.kind) for entry in entries] == [
        ("a", "directory"),
        ("b", "file"),
        ("c", "file"),
        ("d", "link"),
        ("e", "other"),
    ]
    assert [entry.size_bytes for entry in entries] == [0, 3, 2, 0, 0]
    assert [entry.executable for entry in entries] == [False, False, True, False, False]
    assert workspace.list("a") == ()


def test_paths_that_leave_or_lead_nowhere_are_refused(workspace: Workspace) -> None:
    sh(workspace, "ln -s /etc/passwd out; ln -s /tmp away; mkdir folder; mkfifo pipe; ln -s b in")
    for path in ["/etc/passwd", "../etc/passwd", "a/../../x", "/workaround", "a\0b", "out"]:
        for action in (workspace.list, lambda path: workspace.read(path, 10_000)):
            with pytest.raises(BoxRefused):
                action(path)
    for path in ["missing", "folder", "away/x", "pipe", "in"]:
        with pytest.raises(BoxRefused):
            workspace.read(path, 10_000)
    for path in [".", "away/x", "folder", "/tmp/x", "../x"]:
        with pytest.raises(BoxRefused):
            workspace.write(path, b"x")
    workspace.write("out", b"mine")  # in the link's place, not behind it
    assert workspace.read("out", 4) == b"mine"
    assert sh(workspace, "ls -A /tmp | wc -l").strip() == "0"


def test_a_file_larger_than_the_limit_is_refused_and_leaves_nothing(room: RunnerBox) -> None:
    with opened(room, replace(LIMITS, file_bytes=100_000)) as workspace:
        with pytest.raises(BoxRefused, match="too large"):
            workspace.write("x", bytes(100_001))
        assert workspace.list(".") == ()
        workspace.write("x", bytes(100_000))
        assert begin(workspace, "exec head -c 200000 /dev/zero > y").wait().exit_code != 0


# ---- snapshots


def test_a_folder_is_the_same_in_another_box(host: Host, workspace: Workspace) -> None:
    workspace.write("src/main.py", b"print(1)\n")
    workspace.write("run", b"#!/bin/sh\necho ran\n", executable=True)
    workspace.write("large", bytes(3 * MEBIBYTE))
    sh(workspace, "mkdir -p empty deep/er/still; echo x > deep/er/still/one; ln -s run link")
    sh(workspace, "ln -s /nowhere dangling; touch -d 2001-02-03 src/main.py src; chmod 640 large")
    sh(workspace, "echo secret > hidden; chmod 000 hidden; mkdir shut; chmod 500 shut; mkfifo pipe")
    # A link's time is its own; gVisor's stat fails.
    look = (
        "find . -mindepth 1 -printf '%p %y %m %l %s\\n' | sort; find src -printf '%p %T@\\n' | sort"
    )
    sh(workspace, "rm pipe")
    before = sh(workspace, look)
    archive = workspace.save(10 * MEBIBYTE)
    assert sh(workspace, look) == before
    other = host.open_box()
    try:
        with opened(other) as copy:
            copy.write("gone/x", b"what was there before")
            sh(copy, "mkdir -p gone/deep/er; chmod 000 gone/deep")
            copy.load(archive)
            assert sh(copy, look) == before
            assert sh(copy, "./link") == "ran\n"
            assert copy.save(10 * MEBIBYTE) != b""
    finally:
        other.close()


def test_an_empty_folder_can_be_saved_and_loaded(workspace: Workspace) -> None:
    archive = workspace.save(1000)
    workspace.write("x", b"x")
    workspace.load(archive)
    assert workspace.list(".") == ()


def test_a_folder_larger_than_asked_for_is_not_saved(workspace: Workspace) -> None:
    workspace.write("x", bytes(100_000))
    with pytest.raises(BoxRefused, match="larger than a snapshot may be"):
        workspace.save(100_000)
    assert len(workspace.save(101_000)) > 100_000


def test_what_is_no_archive_is_refused(workspace: Workspace) -> None:
    workspace.write("x", bytes(1000))
    archive = workspace.save(10_000)
    for broken in [b"", b"no archive", archive[:-1], archive[:40], archive.replace(b"x", b"/")]:
        with pytest.raises(BoxRefused):
            workspace.load(broken)
    workspace.load(archive)
    assert workspace.read("x", 1000) == bytes(1000)


# ---- the end


def test_a_closed_workspace_leaves_a_clean_box_and_says_what_was_used(room: RunnerBox) -> None:
    workspace = Workspace(room, LIMITS)
    going = begin(workspace, "echo x > /work/left; cp /work/left /tmp; sleep 1000")
    until(lambda: workspace.alive() >= 2)
    outcome = workspace.close()
    assert outcome is not None
    assert (outcome.exit_code, outcome.limit) == (0, None)
    assert outcome.wall_s > 0
    assert going.wait() == CommandExit(None, None, 0.0, 0.0)
    assert workspace.close() == outcome
    with pytest.raises(WorkspaceEnded):
        workspace.alive()
    with pytest.raises(WorkspaceEnded):
        begin(workspace, "true")
    (next_one,) = room.run(
        [Run(("/bin/sh", "-c", "ls -A /work /tmp /sub"), environment={"PATH": "/bin:/usr/bin"})]
    )
    assert b"left" not in next_one.stdout
    assert b"agent" not in next_one.stdout
    with opened(room) as another:
        assert another.list(".") == ()
        assert another.alive() == 0


@pytest.mark.parametrize(
    ("limits", "line", "limit"),
    [
        (replace(LIMITS, cpu_s=0.5), "while :; do :; done", Limit.CPU),
        (replace(LIMITS, wall_s=0.5), "sleep 1000", Limit.WALL),
    ],
)
def test_a_limit_of_the_session_ends_it(
    room: RunnerBox, limits: WorkspaceLimits, line: str, limit: Limit
) -> None:
    with opened(room, limits) as workspace:
        assert begin(workspace, line).wait().exit_code is None
        assert isinstance(workspace.ended, WorkspaceEnded)
        assert workspace.ended.outcome is not None
        assert workspace.ended.outcome.limit == limit
        with pytest.raises(WorkspaceEnded, match=limit.name.lower()):
            workspace.read("x", 1)
    with opened(room) as workspace:
        assert sh(workspace, "echo well") == "well\n"


def test_a_command_that_takes_all_memory_is_killed_and_the_session_goes_on(
    room: RunnerBox, sampled: bool
) -> None:
    with opened(room, replace(LIMITS, memory_bytes=64 * MEBIBYTE)) as workspace:
        workspace.write("kept", b"kept")
        greedy = begin(workspace, "head -c 200000000 /dev/zero | tail")
        ended = greedy.wait()
        if sampled:
            assert isinstance(workspace.ended, WorkspaceEnded)
            assert workspace.ended.outcome is not None
            assert workspace.ended.outcome.limit == Limit.MEMORY
            return
        assert ended.exit_code or ended.signal
        assert workspace.read("kept", 10) == b"kept"
        assert sh(workspace, "echo well") == "well\n"


def test_a_lost_box_is_said_and_ends_every_wait(room: RunnerBox) -> None:
    workspace = Workspace(room, LIMITS)
    going = begin(workspace, "sleep 1000")
    until(lambda: workspace.alive() >= 1)
    room.kill()
    assert going.wait().exit_code is None
    with pytest.raises(BoxLost):
        workspace.alive()
    with pytest.raises(BoxLost):
        workspace.close()


def test_threads_may_share_a_workspace(workspace: Workspace) -> None:
    wrong: list[str] = []

    def use(name: str) -> None:
        for turn in range(5):
            content = f"{name} {turn} ".encode() * 2000
            workspace.write(name, content)
            if workspace.read(name, len(content)) != content:
                wrong.append(name)
            if sh(workspace, f"wc -c < {name}").strip() != str(len(content)):
                wrong.append(name)

    threads = [threading.Thread(target=use, args=(f"file-{n}",)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert wrong == []


def test_boxes_are_used_again_and_again(room: RunnerBox) -> None:
    archive = b""
    opened_box: Callable[[], Workspace] = lambda: Workspace(room, LIMITS)  # noqa: E731
    for turn in range(10):
        workspace = opened_box()
        if archive:
            workspace.load(archive)
        sh(workspace, f"echo {turn} >> log")
        archive = workspace.save(MEBIBYTE)
        assert workspace.close() is not None
    with opened(room) as workspace:
        workspace.load(archive)
        assert workspace.read("log", 100).split() == [b"%d" % turn for turn in range(10)]
