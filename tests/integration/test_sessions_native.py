"""Sessions as a trainer uses them: the SDK, over HTTP, in native boxes."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

import cupel
from cupel import (
    AsyncClient,
    AsyncSession,
    Client,
    CommandResult,
    OutputEvent,
    Problem,
    RewardSpec,
    SessionLimits,
    Testcase,
)
from cupel.embedded import embedded_service

HIDDEN = {
    "name": "zz-hidden-name",
    "input": "4711 815\n",
    "output": "5526\n",
}
SUM = Problem(
    tests=(
        Testcase(name="seen", input="1 2\n", output="3\n", tier=1, public=True),
        Testcase(tier=2, **HIDDEN),
    )
)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUPEL_SESSION_BOXES", "3")
        with embedded_service() as url:
            with Client(url) as client:
                client.problems.add("sum", SUM)
            yield url


def episode(
    url: str, scenario: Callable[[AsyncSession], Awaitable[None]], **fields: object
) -> None:
    """Plays a scenario in a session of its own."""

    async def play() -> None:
        async with AsyncClient(url) as client, client.session(**fields) as session:  # type: ignore[arg-type]  # each test gives what fits
            await scenario(session)

    asyncio.run(play())


def test_a_whole_episode_over_the_synchronous_client(url: str) -> None:
    with Client(url) as client, client.session("sum", reward=RewardSpec()) as session:
        assert session.run("cat examples/1.in").stdout == "1 2\n"
        session.write("main.py", "print(sum(map(int, input().split())))\n")
        tried = session.run("python3 main.py < examples/1.in | diff - examples/1.out")
        assert (tried.exit_code, tried.stdout, tried.stderr) == (0, "", "")
        assert session.python("x = 20\nx + 1").stdout == "21\n"
        events = list(session.stream("echo out; echo err >&2; exit 3"))
        assert isinstance(events[-1], CommandResult)
        assert events[-1].exit_code == 3
        said = {event.stream: event.text for event in events if isinstance(event, OutputEvent)}
        assert said == {"stdout": "out\n", "stderr": "err\n"}
        process = session.start("sleep 1000")
        assert process.output().running
        assert process.kill().signal == signal.SIGKILL
        assert [entry.name for entry in session.list()] == ["examples", "main.py"]
        answer = session.submit("main.py")
        assert answer.rewards == {"reward": 1.0}
        assert session.info().submissions_left == 9


def test_output_comes_while_the_command_runs(url: str) -> None:
    async def scenario(session: AsyncSession) -> None:
        # The command waits for a file that is only written when its first words have arrived.
        command = "echo ready; until [ -e go ]; do sleep 0.01; done; echo gone"
        said = ""
        async for event in session.stream(command):
            if isinstance(event, OutputEvent):
                said += event.text
                if said == "ready\n":
                    await session.write("go", "")
            else:
                assert event.exit_code == 0
        assert said == "ready\ngone\n"

    episode(url, scenario)


def test_a_command_is_killed_with_its_descendants_at_its_time_limit(url: str) -> None:
    async def scenario(session: AsyncSession) -> None:
        result = await session.run("sleep 600 & sleep 601; echo no", timeout_s=0.3)
        assert (result.timed_out, result.signal, result.stdout) == (True, signal.SIGKILL, "")
        assert (await session.run("pgrep sleep")).stdout == ""

    episode(url, scenario)


def test_a_background_server_answers_later_commands(url: str) -> None:
    async def scenario(session: AsyncSession) -> None:
        server = (
            "import socket, sys\n"
            "s = socket.socket(socket.AF_UNIX)\n"
            "s.bind('server.sock')\n"
            "s.listen()\n"
            "print('ready', flush=True)\n"
            "c, _ = s.accept()\n"
            "c.sendall(c.recv(100).upper())\n"
        )
        await session.write("server.py", server)
        process = await session.start("python3 server.py")
        while "ready" not in (seen := await process.output()).stdout:
            assert seen.running, seen
            await asyncio.sleep(0.02)
        asked = await session.python(
            "import socket\n"
            "s = socket.socket(socket.AF_UNIX)\n"
            "s.connect('server.sock')\n"
            "s.sendall(b'hello')\n"
            "s.recv(100)"
        )
        assert asked.stdout == "b'HELLO'\n"

    episode(url, scenario)


def test_the_interpreter_is_a_notebook(url: str) -> None:
    async def scenario(session: AsyncSession) -> None:
        assert (await session.python("import math\nx = [1, 2]")).stdout == ""
        assert (await session.python("x.append(3)\nprint('len')\nx")).stdout == "len\n[1, 2, 3]\n"
        assert (await session.python("None")).stdout == ""
        failed = await session.python("def f():\n    return 1 / 0\nf()")
        assert failed.exit_code == 1
        assert "<cell" in failed.stderr
        assert "return 1 / 0" in failed.stderr
        assert "ZeroDivisionError" in failed.stderr
        assert "python_driver" not in failed.stderr
        wrong = await session.python("def")
        assert (wrong.exit_code, "SyntaxError" in wrong.stderr) == (1, True)
        assert (await session.python("input()")).stderr.endswith(
            "EOFError: EOF when reading a line\n"
        )
        assert (await session.python("raise SystemExit(7)")).exit_code == 7
        assert (await session.python("import os; os.system('echo child')")).stdout == "child\n0\n"
        assert (await session.python("__name__, len(x)")).stdout == "('__main__', 3)\n"
        endless = await session.python("while True: pass", timeout_s=0.3)
        assert (endless.timed_out, endless.restarted) == (True, True)
        anew = await session.python("x")
        assert "NameError" in anew.stderr
        ended = await session.python("import os; os._exit(5)")
        assert (ended.exit_code, ended.restarted, ended.timed_out) == (5, True, False)
        flood = await session.python("print('y' * 10**6)", output_bytes=1000)
        assert flood.stdout_bytes == 10**6 + 1
        assert len(flood.stdout) < 1100

    episode(url, scenario)


def test_what_a_command_prints_without_end_costs_it_its_life(url: str) -> None:
    async def scenario(session: AsyncSession) -> None:
        result = await session.run("yes", timeout_s=60, output_bytes=1000)
        assert (result.limit, result.timed_out) == ("output", False)
        assert len(result.stdout) < 1100
        assert (await session.run("echo on")).stdout == "on\n"

    episode(url, scenario)


def test_no_link_leads_a_file_out_of_the_box(url: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("of the host")

    async def scenario(session: AsyncSession) -> None:
        outside = f"/proc/1/root{secret}"
        await session.run(
            f"ln -s {secret} link; ln -s /etc folder; ln -s {outside} root; ln -s / all; "
            "mkfifo pipe; mkdir real; ln -s ../.. real/up"
        )
        for path in ("link", "root", "folder/passwd", f"all{secret}", "real/up/etc/passwd", "pipe"):
            with pytest.raises((cupel.InvalidRequest, cupel.NotFound)):
                await session.read(path)
        for path in ("folder/new", "all/tmp/new", "real/up/tmp/new"):
            with pytest.raises((cupel.InvalidRequest, cupel.NotFound)):
                await session.write(path, "new")
        with pytest.raises((cupel.InvalidRequest, cupel.NotFound)):
            await session.list("folder")
        await session.write("link", "mine")  # the link itself is replaced, or refused
        assert secret.read_text() == "of the host"

    with suppress(cupel.InvalidRequest):
        episode(url, scenario)
    assert secret.read_text() == "of the host"


def test_files_go_up_and_come_down_as_they_are(url: str) -> None:
    async def scenario(session: AsyncSession) -> None:
        content = secrets.token_bytes(300_000)
        await session.write("a b/ü%2F?#.bin", content)
        assert await session.read("a b/ü%2F?#.bin") == content
        (folder,) = await session.list()
        assert (folder.name, folder.kind) == ("a b", "directory")
        await session.write("tool", "#!/bin/sh\necho ran\n", executable=True)
        assert (await session.run("./tool")).stdout == "ran\n"
        await session.delete("a b")
        assert [entry.name for entry in await session.list()] == ["tool"]
        with pytest.raises(cupel.NotFound):
            await session.read("none")

    episode(url, scenario)


def test_a_snapshot_is_the_folder_as_it_was(url: str) -> None:
    async def play() -> None:
        async with AsyncClient(url) as client:
            async with client.session() as session:
                await session.run("echo before > f; mkdir d; chmod 700 d; ln -s f link")
                taken = await session.snapshot()
                await session.run("echo after > f; rm -r d")
                await session.restore(taken)
                assert (await session.run("cat link; stat -c %a d")).stdout == "before\n700\n"
            async with client.session(snapshot=taken) as heir:
                assert (await heir.run("cat f")).stdout == "before\n"

    asyncio.run(play())


@pytest.mark.parametrize(
    "program",
    [
        "print(sum(map(int, input().split())))",
        "print(3)",
        "import sys; sys.stderr.write(sys.stdin.read()); sys.exit(1)",
        "print(open(0).read())",
        "while True: pass",
        "this is no program",
    ],
)
def test_feedback_to_the_policy_holds_nothing_hidden(url: str, program: str) -> None:
    async def scenario(session: AsyncSession) -> None:
        await session.write("main.py", program)
        answer = await session.submit("main.py")
        shown = answer.feedback.model_dump_json()
        for hidden in (*HIDDEN.values(), "4711", "5526"):
            assert hidden.strip() not in shown
        assert answer.feedback.hidden_tests.total == 1
        assert answer.feedback.public_tests[0].expected == "3\n"
        # Neither may its box: everything that it can read of itself.
        found = await session.run(
            "grep -rl 'zz-hidden\\|4711 815\\|5526' /work /tmp /sub", timeout_s=30
        )
        assert found.stdout == ""

    limits = SessionLimits(submissions=1)
    problem = SUM.model_copy(update={"limits": cupel.Limits(cpu_s=0.5)})
    episode(url, scenario, problem=problem, limits=limits)


def test_sixty_interleaved_sessions_on_three_boxes_do_not_mix(url: str) -> None:
    async def play() -> None:
        async with AsyncClient(url) as client:

            async def one() -> None:
                secret = secrets.token_hex(8)
                async with client.session() as session:
                    await session.run(f"echo {secret} > secret")
                    for step in range(3):
                        seen = await session.run(
                            "cat secret; echo >> steps; wc -l < steps; ls -a /tmp"
                        )
                        assert seen.stdout.split() == [secret, str(step + 1), ".", ".."]

            await asyncio.gather(*(one() for _ in range(60)))
            sessions = (await client.info()).sessions
            assert (sessions.boxes, sessions.live, sessions.parked) == (3, 0, 0)

    asyncio.run(play())


class Cutting:
    """A way to the service that breaks its first connections after so many bytes of answers."""

    def __init__(self, url: str, bytes_max: Sequence[int]) -> None:
        self._port = int(url.rpartition(":")[2])
        self._bytes_max = iter(bytes_max)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.cuts = 0

    def __enter__(self) -> Cutting:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                threading.Thread(target=self._carry, args=(near,), daemon=True).start()

    def _carry(self, near: socket.socket) -> None:
        far = socket.create_connection(("127.0.0.1", self._port))

        def up() -> None:
            with suppress(OSError):
                while data := near.recv(65536):
                    far.sendall(data)

        threading.Thread(target=up, daemon=True).start()
        left = next(self._bytes_max, 1 << 30)
        with near, far, suppress(OSError):
            while left > 0 and (data := far.recv(min(left, 65536))):
                near.sendall(data)
                left -= len(data)
            if left == 0:
                self.cuts += 1
            for end in (near, far):
                end.shutdown(socket.SHUT_RDWR)


def test_a_command_runs_once_over_connections_that_break(url: str) -> None:
    async def play(broken: str) -> None:
        async with AsyncClient(url) as client, client.session() as session:
            async with AsyncClient(broken, retry_pause_s=0.01) as fragile:
                through = fragile.session()
                through._opened = session._opened
                said = ""
                async for event in through.stream(
                    "echo ran >> log; for n in 1 2 3 4 5 6 7 8; do echo word $n; sleep 0.05; done"
                ):
                    if isinstance(event, OutputEvent):
                        said += event.text
                assert said == "".join(f"word {n}\n" for n in range(1, 9))
                through._opened = None
            assert (await session.run("cat log")).stdout == "ran\n"

    with Cutting(url, (100, 300, 400, 450)) as cutting:
        asyncio.run(play(cutting.url))
        assert cutting.cuts == 4


@asynccontextmanager
async def _own_service(folder: Path, port: int) -> AsyncIterator[asyncio.subprocess.Process]:
    command = [sys.executable, "-m", "cupel.cli", "serve", "--port", str(port)]
    environment = {**os.environ, "CUPEL_DATA_DIR": str(folder), "CUPEL_SESSION_BOXES": "2"}
    process = await asyncio.create_subprocess_exec(
        *command, env=environment, stdout=subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def test_sessions_do_not_outlive_their_service_and_say_so(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]

    async def play() -> None:
        async with AsyncClient(f"http://127.0.0.1:{port}") as client:
            session = client.session()
            async with _own_service(tmp_path, port):
                await client.wait_until_ready()
                await session.open()
                other = client.session()
                third = client.session()
                for each in (other, third):
                    await each.open()
                for each in (session, other, third):
                    await each.run("echo left > f")
                assert (await client.info()).sessions.parked == 1
            assert len(list((tmp_path / "sessions").iterdir())) == 1  # killed: it could not tidy up
            async with _own_service(tmp_path, port):
                await client.wait_until_ready()
                (folder,) = (tmp_path / "sessions").iterdir()
                assert [path.name for path in folder.iterdir()] == ["lock"]
                with pytest.raises(cupel.SessionEnded) as ended:
                    await session.run("cat f")
                assert ended.value.by_host
                await session.close()  # no error: it is over

    asyncio.run(play())


def test_a_session_that_is_over_says_why_for_a_while(url: str) -> None:
    async def play() -> None:
        async with AsyncClient(url) as client:
            limits = SessionLimits(idle_s=0.3)
            async with client.session(limits=limits) as session:
                await session.run("true")
                deadline = time.monotonic() + 60
                while (info := await session.info()).state != "ended":
                    assert time.monotonic() < deadline
                    await asyncio.sleep(0.05)
                assert not info.by_host
                with pytest.raises(cupel.SessionEnded, match="nothing was asked of it") as ended:
                    await session.run("true")
                assert not ended.value.by_host

    asyncio.run(play())


def test_a_program_that_ends_its_own_session_is_to_blame(url: str) -> None:
    async def scenario(session: AsyncSession) -> None:
        with pytest.raises(cupel.SessionEnded) as ended:
            # The agent is the command's parent: it may be killed like anything in the box.
            await session.run("kill -9 $PPID; sleep 60")
        assert not ended.value.by_host

    episode(url, scenario)


def test_cpu_time_ends_a_session_and_says_so(url: str) -> None:
    async def scenario(session: AsyncSession) -> None:
        with pytest.raises(cupel.SessionEnded, match="CPU time of 0.5 s") as ended:
            await session.run("while :; do :; done", timeout_s=60)
        assert not ended.value.by_host

    episode(url, scenario, limits=SessionLimits(cpu_s=0.5))


def test_a_hungry_program_is_killed_and_its_session_goes_on(url: str) -> None:
    async def scenario(session: AsyncSession) -> None:
        hungry = await session.run("python3 -c 'x = bytearray(300 << 20)'; echo $?")
        assert hungry.stdout.strip() in {"137", "1"}
        assert (await session.run("echo on")).stdout == "on\n"

    episode(url, scenario, limits=SessionLimits(memory_bytes=128 * 2**20))


def test_a_line_of_shell_may_hold_anything(url: str) -> None:
    async def scenario(session: AsyncSession) -> None:
        text = "quotes ' \" and ünïcödé\n and lines"
        result = await session.run("cat; echo $A", stdin=text, environment={"A": "B C"})
        assert result.stdout == f"{text}B C\n"
        raw = await session.run("cat", stdin=b"\xff\x00\xfe")
        assert (raw.stdout, raw.stdout_bytes) == ("�\0�", 3)
        assert json.loads(result.model_dump_json())["exit_code"] == 0
        await session.run("mkdir -p a/b")
        assert (await session.run("pwd", cwd="a/b")).stdout == "/work/a/b\n"

    episode(url, scenario)
