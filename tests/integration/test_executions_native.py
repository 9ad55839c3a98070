"""Running code once: the SDK, over HTTP, in native boxes."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

import cupel
from cupel import Client, ExceededLimit, ExecutionLimits
from cupel.embedded import embedded_service
from cupel_sandbox.toolchains import find_toolchains

needs_compilers = pytest.mark.skipif(
    not all(toolchain.available for toolchain in find_toolchains()),
    reason="needs a C compiler, a C++ compiler and Python",
)


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUPEL_SESSION_BOXES", "1")
        with embedded_service() as url, Client(url) as client:
            yield client


def test_a_program_gets_its_input_and_its_output_comes_back(client: Client) -> None:
    result = client.execute("import sys; print(input()); sys.exit(3)", stdin="words\n")
    assert (result.exit_code, result.signal, result.limit) == (3, None, None)
    assert (result.stdout, result.stdout_bytes, result.stderr) == ("words\n", 6, "")
    assert result.cpu_s > 0
    assert result.memory_bytes is not None
    assert result.compile is None


def test_files_go_in_and_come_out(client: Client) -> None:
    source = (
        "import data.words, os\n"
        "os.makedirs('out')\n"
        "open('out/a', 'wb').write(open('in.bin', 'rb').read()[::-1])\n"
        "os.symlink('/etc/passwd', 'link')\n"
        "print(data.words.WORD, sorted(os.listdir('.')))\n"
    )
    result = client.execute(
        source,
        files={"in.bin": b"\x00\xff", "data/words.py": "WORD = 'here'\n"},
        outputs=("out/a", "none", "link"),
    )
    assert result.stdout == "here ['data', 'in.bin', 'link', 'out']\n", result
    assert cupel.schema.decode_data(result.files["out/a"]) == b"\xff\x00"
    assert set(result.missing) == {"none", "link"}
    assert result.missing["none"] == "there is no file at this path"
    assert "root" not in str(result.missing["link"])


@needs_compilers
def test_compiled_languages_say_how_compiling_went(client: Client) -> None:
    source = '#include <stdio.h>\n#include "w.h"\nint main(void){puts(WORD);return 4;}'
    result = client.execute(source, language="c", files={"w.h": '#define WORD "here"\n'})
    assert (result.stdout, result.exit_code) == ("here\n", 4)
    assert result.compile is not None
    assert result.compile.ok
    wrong = client.execute("int main( {", language="cpp", outputs=("a",))
    assert wrong.compile is not None
    assert not wrong.compile.ok
    assert "error" in wrong.compile.diagnostics
    assert (wrong.exit_code, wrong.signal) == (None, None)
    assert set(wrong.missing) == {"a"}


@pytest.mark.parametrize(
    ("source", "limits", "limit"),
    [
        ("while True: pass", {"cpu_s": 0.3}, ExceededLimit.CPU),
        ("import time; time.sleep(60)", {"wall_s": 0.3}, ExceededLimit.WALL),
        ("x = bytearray(200 << 20)", {"memory_bytes": 32 << 20}, ExceededLimit.MEMORY),
        ("while True: print('x' * 100000)", {}, ExceededLimit.OUTPUT),
    ],
)
def test_the_limit_that_ended_a_program_is_named(
    client: Client, source: str, limits: dict[str, float], limit: ExceededLimit
) -> None:
    result = client.execute(source, limits=ExecutionLimits.model_validate(limits))
    assert result.limit is limit
    assert result.timed_out == (limit is ExceededLimit.WALL)
    assert len(result.stdout) < 70_000


def test_a_signal_is_a_value_and_nothing_survives(client: Client) -> None:
    left = client.execute(
        "import os, signal; open('/tmp/left', 'w'); open('left', 'w'); os.kill(0, signal.SIGSEGV)",
        outputs=("left",),
    )
    assert left.signal == signal.SIGSEGV
    assert left.files == {"left": ""}
    found = client.execute("import os; print(os.listdir('/tmp'), os.listdir('.'))", files={"a": ""})
    assert found.stdout == "[] ['a']\n"


def test_what_makes_no_sense_is_refused(client: Client) -> None:
    for path in ("../x", "/etc/passwd", "."):
        with pytest.raises(cupel.InvalidRequest):
            client.execute("", files={path: ""})
        with pytest.raises(cupel.InvalidRequest):
            client.execute("", outputs=(path,))
    with pytest.raises(cupel.InvalidRequest):
        client.execute("", language="cobol")


def test_executions_park_an_idle_session_to_have_its_box(client: Client) -> None:
    with client.session() as session:
        session.run("echo kept > f")
        assert client.execute("print(1)").stdout == "1\n"
        assert session.info().state == "parked"
        assert session.run("cat f").stdout == "kept\n"
