"""No program chooses its own result: not by forged reports, odd pipes, nor stolen answers."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import replace

import pytest

from box_stage import LIMITS, QUICK, TOOLCHAINS, Stage
from cupel.schema import (
    Judgement,
    Language,
    Limits,
    Problem,
    Stop,
    Submission,
    Testcase,
    Verdict,
)
from cupel_sandbox.box import Limit, Run
from cupel_sandbox.errors import BoxRefused
from cupel_sandbox.pool import Host, Slot
from cupel_sandbox.protocol import HEADER, Reply
from cupel_service.judge import judge
from cupel_service.languages import setup_languages
from cupel_service.suite import prepare


def test_output_that_looks_like_a_report_is_output(stage: Stage) -> None:
    forged = b"".join(
        HEADER.pack(HEADER.size - 4 + 86, kind, number) + bytes(86)
        for kind in Reply
        for number in range(10)
    )
    forge = stage.prepare_python(
        """
        import os, sys
        frames = sys.stdin.buffer.read()
        os.write(1, frames), os.write(2, frames)
        sys.exit(3)
        """,
        stdin=forged,
    )
    for outcome in stage.box.run([forge] * 3):
        assert (outcome.stdout, outcome.stderr, outcome.exit_code) == (forged, forged, 3)


def test_reports_written_anywhere_else_go_nowhere(stage: Stage) -> None:
    outcome = stage.python(
        """
        import glob, os, struct
        frame = struct.pack("<IBI", 91, 104, 1) + bytes(86)
        for fd in range(3, 1000):
            try:
                os.write(fd, frame)
                print("wrote", fd)
            except OSError:
                pass
        for path in glob.glob("/proc/[0-9]*/fd/*") + glob.glob("/proc/1/fd/*"):
            if not path.startswith(f"/proc/{os.getpid()}/"):
                print("saw", path)
        """
    )
    assert (outcome.exit_code, outcome.stdout) == (0, b"")


@pytest.mark.parametrize(
    "code",
    [
        "os._exit(0)",
        "os.close(0); os.close(1); os.close(2)",
        "os.kill(os.getpid(), 9)",
        "os.dup2(0, 1)",
        "os.execv('/bin/true', ['true'])",
    ],
)
def test_an_early_end_is_what_it_is_and_no_more(stage: Stage, code: str) -> None:
    outcome = stage.python(f"import os\n{code}\nprint('more')")
    assert (outcome.stdout, outcome.limit) == (b"", None)
    assert stage.is_usable()


@pytest.mark.parametrize(
    "code",
    [
        "fcntl.fcntl(1, 1031, 4096)",  # F_SETPIPE_SZ
        "fcntl.fcntl(1, 1031, 1 << 20)",
        "fcntl.fcntl(1, fcntl.F_SETFL, os.O_NONBLOCK)",
        "fcntl.fcntl(1, fcntl.F_SETFL, os.O_ASYNC); fcntl.fcntl(1, fcntl.F_SETOWN, os.getpid())",
        "fcntl.fcntl(1, fcntl.F_SETFL, 0o40000)",  # O_DIRECT: a pipe of packets
    ],
)
def test_a_pipe_that_is_tampered_with_still_delivers(stage: Stage, code: str) -> None:
    outcome = stage.python(
        f"""
        import fcntl, os, signal
        signal.signal(signal.SIGIO, signal.SIG_IGN)
        {code}
        left = b"x" * 300000
        while left:
            try:
                left = left[os.write(1, left):]
            except BlockingIOError:
                pass
        """
    )
    assert outcome.exit_code == 0, outcome.stderr
    assert outcome.stdout == b"x" * 300_000
    assert stage.is_usable()


def test_a_program_that_reads_its_own_output_back_ends_at_its_limits(stage: Stage) -> None:
    outcome = stage.python(
        """
        import os
        try:
            back = os.open("/proc/self/fd/1", os.O_RDWR)
        except PermissionError:
            os._exit(5)
        while True:
            os.write(1, b"x")
            os.read(back, 1)
        """,
        limits=replace(QUICK, wall_s=1.0),
    )
    assert outcome.exit_code == 5 or outcome.limit in {Limit.CPU, Limit.WALL, Limit.OUTPUT}
    assert stage.is_usable()


def test_output_of_children_after_the_end_does_not_hang_the_report(stage: Stage) -> None:
    outcome = stage.sh(
        "(trap '' TERM HUP; yes) & exit 4", limits=replace(QUICK, output_bytes=1 << 26)
    )
    assert outcome.exit_code == 4 or outcome.limit is Limit.OUTPUT
    assert stage.is_usable()


BROKEN = {
    "no loader": b"/lib/no-such-loader",
    "loader that is a directory": b"/usr/lib\0",
    "loader that is a device": b"/dev/zero\0",
}


@pytest.mark.parametrize("loader", BROKEN.values(), ids=BROKEN.keys())
def test_a_binary_that_cannot_be_loaded_is_refused_and_the_box_lives(
    stage: Stage, loader: bytes
) -> None:
    build = stage.sh("cp /bin/true /tmp/t && cat /tmp/t")
    marker = b"/lib64/ld-linux-x86-64.so.2\0"
    if marker not in build.stdout:
        pytest.skip("knows the loader of x86-64 only")
    stage.box.put(
        "odd", build.stdout.replace(marker, loader.ljust(len(marker), b"\0")), executable=True
    )
    with pytest.raises(BoxRefused):
        stage.only(Run(("/sub/odd",), limits=LIMITS))
    assert stage.is_usable()


def test_a_binary_that_breaks_while_it_is_loaded_is_a_crash(stage: Stage) -> None:
    """Its segment lies where no program may: the kernel kills it in the middle of the exec."""
    executable = bytearray(stage.compiler.c("int main(void) { return 0; }"))
    headers = int.from_bytes(executable[32:40], "little")
    address = headers + 16  # of the first segment, in the ELF's 64-bit layout
    executable[address : address + 8] = (0x7FFF_FFFF_F000).to_bytes(8, "little")
    stage.box.put("odd", bytes(executable), executable=True)
    try:
        outcome = stage.only(Run(("/sub/odd",), limits=LIMITS))
    except BoxRefused:
        pass  # some kernels look before they leap
    else:
        assert outcome.signal is not None
    assert stage.is_usable()


# ---- the judge, with a real box


@pytest.fixture
def slot(host: Host) -> Iterator[Slot]:
    slot = Slot(host)
    yield slot
    slot.close()


def judged(slot: Slot, source: str, expected: str, language: Language) -> Judgement:
    problem = Problem(
        limits=Limits(cpu_s=5.0),
        tests=tuple(
            Testcase(name=f"secret-name-{n}", input=f"{n}\n", output=expected, tier=n)
            for n in (1, 2)
        ),
    )
    return judge(
        Submission(problem="p", source=source, language=language, stop=Stop.NEVER),
        prepare(problem),
        slot,
        setup_languages(TOOLCHAINS.values(), {}, {}, {}),
        submission_id="s",
        problem_id="p",
    )


SEARCH = """
import os, re, sys
wanted = re.compile(rb"answer-[0-9a-f]{32}|secret-name-[0-9]")
found = set()
places = ["/proc/self/environ", "/proc/self/cmdline", "/proc/self/comm", "/proc/self/mountinfo"]
for top in ("/sub", "/work", "/tmp", "/dev/shm"):
    for folder, _, names in os.walk(top):
        found.update(wanted.findall(" ".join(names).encode()))
        places += [os.path.join(folder, name) for name in names]
for place in places:
    try:
        with open(place, "rb") as file:
            found.update(wanted.findall(file.read()))
    except OSError:
        pass
with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb") as memory:
    for line in list(maps):
        if line.split()[1].startswith("r") and "[v" not in line:
            begin, end = (int(each, 16) for each in line.split()[0].split("-"))
            try:
                memory.seek(begin)
                found.update(wanted.findall(memory.read(end - begin)))
            except (OSError, ValueError, OverflowError):
                pass
print(*[each.decode() for each in found] or ["nothing"])
"""


def test_the_expected_output_is_nowhere_in_the_box(slot: Slot) -> None:
    """The program prints whatever looks like an answer: it is right only if it found one."""
    assert judged(slot, SEARCH, "nothing", Language.PYTHON).verdict is Verdict.AC  # it can search
    expected = f"answer-{secrets.token_hex(16)}"
    judgement = judged(slot, SEARCH, expected, Language.PYTHON)
    assert [test.verdict for test in judgement.tests] == [Verdict.WA, Verdict.WA]


@pytest.mark.parametrize(
    "source",
    [
        'print("AC")',
        'print("accepted", 1.0, True)',
        "import os; os._exit(0)",
        "raise SystemExit(0)",
        "import sys; sys.stdout.write(sys.stdin.read())",
        "import sys; sys.stderr.write('42')",
        "open('/sub/main.out', 'w').write('42')",
        "import glob\nfor f in glob.glob('/sub/*') + glob.glob('/work/*'): print(open(f).read())",
        "class A:\n    __eq__ = lambda *a: True\nprint(A())",
    ],
)
def test_nothing_that_a_program_says_makes_it_right(slot: Slot, source: str) -> None:
    judgement = judged(slot, source, "42", Language.PYTHON)
    assert judgement.verdict in {Verdict.WA, Verdict.RTE}


def test_one_test_cannot_hand_anything_to_the_next(slot: Slot) -> None:
    """On its second test the program knows the first one's input only if something survived."""
    source = """
import os
seen = [name for place in ("/tmp", "/work", "/dev/shm") for name in os.listdir(place)]
print("first" if not seen else "again")
for place in ("/tmp", "/work", "/dev/shm"):
    open(place + "/note", "w").write(input() if place == "/tmp" else "")
if not os.fork():
    os.setsid()
    while True:
        open("/tmp/note", "w").close()
"""
    judgement = judged(slot, source, "first", Language.PYTHON)
    assert [test.verdict for test in judgement.tests] == [Verdict.AC, Verdict.AC]


def test_a_source_cannot_include_what_a_program_could_not_read(slot: Slot) -> None:
    for path in ("/etc/shadow", "/proc/1/environ", "/root/.bashrc"):
        source = f'#include "{path}"\nint main(void) {{ return 0; }}\n'
        judgement = judged(slot, source, "", Language.C)
        assert judgement.verdict is Verdict.CE
        assert judgement.compile is not None
        assert "No such file" in judgement.compile.diagnostics or (
            "denied" in judgement.compile.diagnostics
        )


def test_a_source_that_never_ends_compiling_does_not_compile(slot: Slot) -> None:
    judgement = judged(slot, '#include "/dev/zero"\nint main(void) {}', "", Language.C)
    assert judgement.verdict is Verdict.CE
    source = "char large[1UL << 33] = {1};\nint main(void) { return large[5]; }"
    assert judged(slot, source, "", Language.C).verdict in {Verdict.CE, Verdict.MLE, Verdict.RTE}
    assert judged(slot, "int main(void) { return 0; }", "", Language.C).verdict is Verdict.AC
