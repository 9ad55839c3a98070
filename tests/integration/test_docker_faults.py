"""Docker engines that fail, and what fails in them: no submission is judged by another's fault.

Every test that harms an engine has one of its own; see docker_engine_stage.
"""

from __future__ import annotations

import gc
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from box_stage import Compiler
from cupel.schema import Judgement, Language, Limits, Problem, Submission, Testcase, Verdict
from cupel_sandbox.docker_boxes import DockerBoxConfig, DockerHost
from cupel_sandbox.errors import CannotStart, SandboxError
from cupel_sandbox.pool import Pool
from cupel_service.judge import judge
from cupel_service.program import Slot
from cupel_service.suite import Suite, prepare
from docker_engine_stage import (
    IMAGE,
    PrivateEngine,
    is_running,
    new_marker,
    play_languages,
    private_engine,
    wait_until,
)

pytestmark = [
    pytest.mark.docker,
    # The Docker SDK forgets sockets whose connection was refused; those with one name their peer.
    pytest.mark.filterwarnings(
        r"ignore:unclosed <socket\.socket fd=\d+, family=1, type=1, proto=0>:ResourceWarning"
    ),
]

RECOVERED_WITHIN_S = 30.0
AWAY_S = 10.0
SUM = "sum\n"
# The second test waits for two seconds: long enough to be met in the middle of it.
PAUSING = ("1 2 0", "20 22 2", "5 6 0")
PROMPT = ("1 2 0", "20 22 0")


@pytest.fixture
def engine(compiler: Compiler, monkeypatch: pytest.MonkeyPatch) -> Iterator[PrivateEngine]:
    """An engine of the test's own, which this process takes for the host's."""
    with private_engine(compiler) as engine:
        monkeypatch.setenv("DOCKER_HOST", engine.url)
        yield engine
    gc.collect()  # what it warns of belongs to this test


@contextmanager
def pool_of(
    slots: int = 1, *, patience_s: float = 60.0, config: DockerBoxConfig | None = None
) -> Iterator[Pool]:
    config = config or DockerBoxConfig(image=IMAGE)
    pool = Pool(lambda: DockerHost(config), slots, patience_s)
    pool.start()
    try:
        yield pool
    finally:
        pool.close()


def suite_of(inputs: tuple[str, ...], limits: Limits = Limits(cpu_s=5, wall_s=30)) -> Suite:  # noqa: B008 - frozen
    return prepare(
        Problem(
            limits=limits,
            tests=tuple(
                Testcase(
                    name=str(number),
                    input=line,
                    output=str(sum(map(int, line.split()[:2]))),
                    tier=number,
                )
                for number, line in enumerate(inputs, start=1)
            ),
        )
    )


def judged(slot: Slot, suite: Suite, source: str = SUM, marker: str = "any") -> Judgement:
    return judge(
        Submission(problem="p", source=source, language=Language.C),
        suite,
        slot,
        play_languages(marker),
        submission_id="s",
        problem_id="p",
    )


def assert_accepted(judgement: Judgement, tests: int) -> None:
    """It has the verdict that the program deserves, and nothing else is said of it."""
    assert judgement.verdict is Verdict.AC, judgement
    assert [(each.verdict, each.flags) for each in judgement.tests] == [(Verdict.AC, ())] * tests
    assert judgement.message == ""


@contextmanager
def judging(slot: Slot) -> Iterator[Future[Judgement]]:
    """A right program that is in the middle of its second test."""
    marker = new_marker()
    with ThreadPoolExecutor(1) as thread:
        future = thread.submit(judged, slot, suite_of(PAUSING), marker=marker)
        wait_until(lambda: is_running(marker), "the program runs")
        time.sleep(0.3)  # its first test takes no time
        yield future


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "killed"])
def test_a_run_that_an_engines_restart_interrupts_is_run_again_and_judged_by_its_merits(
    engine: PrivateEngine, how: signal.Signals
) -> None:
    with pool_of() as pool:
        (slot,) = pool.slots
        before = slot.box
        with judging(slot) as judgement:
            engine.end(how)
            assert not judgement.done()
            engine.start()
            assert_accepted(judgement.result(RECOVERED_WITHIN_S), tests=3)
        assert slot.box is not before
        assert_accepted(judged(slot, suite_of(PROMPT)), tests=2)


@pytest.mark.slow
def test_an_engine_that_is_away_for_ten_seconds_is_waited_for(engine: PrivateEngine) -> None:
    with pool_of() as pool:
        with judging(pool.slots[0]) as judgement:
            engine.end(signal.SIGKILL)
            time.sleep(AWAY_S)
            assert not judgement.done()
            engine.start()
            assert_accepted(judgement.result(RECOVERED_WITHIN_S), tests=3)
        assert_accepted(judged(pool.slots[0], suite_of(PROMPT)), tests=2)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "killed"])
def test_idle_slots_outlive_an_engines_restart(engine: PrivateEngine, how: signal.Signals) -> None:
    with pool_of(2) as pool:
        engine.end(how)
        engine.start()
        with ThreadPoolExecutor(2) as threads:
            for future in [threads.submit(judged, slot, suite_of(PROMPT)) for slot in pool.slots]:
                assert_accepted(future.result(RECOVERED_WITHIN_S), tests=2)
        assert len(engine.boxes(running_only=True)) == 2


def test_an_engine_that_keeps_containers_alive_over_its_restart_keeps_no_box(
    engine: PrivateEngine,
) -> None:
    engine.end()
    engine.start("--live-restore")
    with pool_of() as pool:
        with judging(pool.slots[0]) as judgement:
            engine.end(signal.SIGKILL)
            engine.start("--live-restore")
            assert_accepted(judgement.result(RECOVERED_WITHIN_S), tests=3)
        assert len(engine.boxes()) == 1


def test_a_run_whose_container_is_removed_is_run_again_and_judged_by_its_merits(
    engine: PrivateEngine,
) -> None:
    with pool_of() as pool:
        with judging(pool.slots[0]) as judgement:
            engine.remove_boxes()
            assert_accepted(judgement.result(RECOVERED_WITHIN_S), tests=3)
        assert_accepted(judged(pool.slots[0], suite_of(PROMPT)), tests=2)
        assert len(engine.boxes()) == 1


def test_a_container_that_is_killed_again_and_again_is_never_the_programs_fault(
    engine: PrivateEngine,
) -> None:
    with pool_of() as pool:
        (slot,) = pool.slots
        with judging(slot) as judgement:
            while not judgement.done():
                with engine.client() as client:
                    for box in engine.boxes(running_only=True):
                        client.api.kill(box)
                time.sleep(0.2)
        # Three interruptions are a judging error, which is no reward, and neither a failure.
        assert judgement.result().verdict is Verdict.JE
        assert [each.flags for each in judgement.result().tests] == [(), ()]
        assert_accepted(judged(slot, suite_of(PROMPT)), tests=2)


def test_an_idle_slot_whose_container_is_removed_judges_the_next_program(
    engine: PrivateEngine,
) -> None:
    with pool_of() as pool:
        engine.remove_boxes()
        assert_accepted(judged(pool.slots[0], suite_of(PROMPT)), tests=2)


def test_a_missing_image_is_named_with_the_remedy(engine: PrivateEngine) -> None:
    with pytest.raises(CannotStart, match="cupel-nothing") as cannot:
        DockerHost(DockerBoxConfig(image="cupel-nothing"))
    assert "make image" in cannot.value.remedy


def test_an_unknown_runtime_is_named_with_those_that_there_are(engine: PrivateEngine) -> None:
    with pytest.raises(CannotStart, match=r"no runtime kata, only .*runc") as cannot:
        DockerHost(DockerBoxConfig(image=IMAGE, runtime="kata"))
    assert "CUPEL_DOCKER_RUNTIME" in cannot.value.remedy


@pytest.mark.parametrize("where", ["unix:///nowhere/docker.sock", "tcp://127.0.0.1:9"])
def test_without_an_engine_no_docker_box_starts(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", where)
    with pytest.raises(CannotStart, match="no Docker engine can be reached") as cannot:
        DockerHost(DockerBoxConfig(image=IMAGE))
    assert "DOCKER_HOST" in cannot.value.remedy


def test_a_lost_box_waits_for_its_image_to_come_back(
    engine: PrivateEngine, caplog: pytest.LogCaptureFixture
) -> None:
    with pool_of() as pool, ThreadPoolExecutor(1) as thread:
        engine.remove_boxes()
        with engine.client() as client:
            client.api.remove_image(IMAGE, force=True)
        judgement = thread.submit(judged, pool.slots[0], suite_of(PROMPT))
        wait_until(_says(caplog, "make image"), "the log names the remedy")
        assert not judgement.done()
        engine.load_image()
        assert_accepted(judgement.result(RECOVERED_WITHIN_S), tests=2)


def test_boxes_come_back_on_an_engine_that_has_lost_everything_but_the_image(
    engine: PrivateEngine,
) -> None:
    with pool_of() as pool:
        engine.remove_boxes()
        with engine.client() as client:
            for volume in client.volumes.list():
                volume.remove()
        assert_accepted(judged(pool.slots[0], suite_of(PROMPT)), tests=2)


def _says(caplog: pytest.LogCaptureFixture, words: str) -> Callable[[], bool]:
    return lambda: any(words in record.getMessage() for record in list(caplog.records))


def test_a_program_that_takes_its_runner_down_twice_is_blamed(engine: PrivateEngine) -> None:
    # A container whose memory its programs share with the runner, and far too little of it: what
    # the program writes is kept by the runner, until there is nobody else left to be killed.
    config = DockerBoxConfig(
        image=IMAGE, memory_bytes=8 * 1024**2, allow_degraded=frozenset({"cgroup"})
    )
    limits = Limits(cpu_s=5, wall_s=30, output_bytes=64 * 1024**2)
    with pool_of(config=config) as pool:
        (slot,) = pool.slots
        judgement = judged(slot, suite_of(PROMPT, limits), "flood 40000000\n")
        assert judgement.verdict is Verdict.RTE, judgement
        assert [each.flags for each in judgement.tests] == [("killed_box",)]
        assert judgement.message == ""
        assert_accepted(judged(slot, suite_of(PROMPT, limits)), tests=2)


def test_a_slot_gives_up_when_its_patience_ends(engine: PrivateEngine) -> None:
    with pool_of(patience_s=1.0) as pool:
        (slot,) = pool.slots
        engine.end()
        with pytest.raises(CannotStart, match="Start Docker"):
            slot.replace()
        engine.start()
        slot.replace()
        assert_accepted(judged(slot, suite_of(PROMPT)), tests=2)


def test_an_interrupt_ends_a_slots_waiting_at_once(
    engine: PrivateEngine, caplog: pytest.LogCaptureFixture
) -> None:
    with pool_of(patience_s=3600.0) as pool, ThreadPoolExecutor(1) as thread:
        (slot,) = pool.slots
        engine.end()
        waiting = thread.submit(slot.replace)
        wait_until(_says(caplog, "cannot be replaced yet"), "the slot waits")
        pool.interrupt()
        assert isinstance(waiting.exception(10.0), SandboxError)
        assert not isinstance(waiting.exception(), CannotStart)


OWNER = """
import sys, threading
from cupel_sandbox.box import Run, RunLimits
from cupel_sandbox.docker_boxes import DockerBoxConfig, DockerHost
from cupel_sandbox.pool import Pool
pool = Pool(lambda: DockerHost(DockerBoxConfig(image=sys.argv[1])), 2)
pool.start()
endless = RunLimits(cpu_s=600, wall_s=600)
def spin(slot):
    slot.box.put("main", b"spin\\n")
    list(slot.box.run([Run(("/bin/play", "/sub/main", sys.argv[2]), limits=endless)]))
for slot in pool.slots:
    threading.Thread(target=spin, args=(slot,)).start()
"""


@contextmanager
def another_owner(marker: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process with two boxes, in each of which a program runs for ever."""
    owner = subprocess.Popen([sys.executable, "-c", OWNER, IMAGE, marker])
    try:
        wait_until(lambda: is_running(marker), "its programs run")
        yield owner
    finally:
        owner.kill()
        owner.wait()


def _cgroups_of(pid: int) -> list[Path]:
    return list(Path("/sys/fs/cgroup").rglob(f"cupel-{pid}-*"))


def test_a_killed_owner_leaves_nothing_running_and_nobody_elses_boxes_are_touched(
    engine: PrivateEngine,
) -> None:
    running, ended = _containers_of_somebody_else(engine)
    with pool_of() as living:
        (own,) = engine.boxes(running_only=True)
        marker = new_marker()
        with another_owner(marker) as owner:
            wait_until(lambda: len(engine.boxes(running_only=True)) == 3, "its boxes run")
            assert _cgroups_of(owner.pid) != []

        wait_until(lambda: engine.boxes(running_only=True) == [own], "its boxes have ended")
        wait_until(lambda: not _cgroups_of(owner.pid), "its cgroups are gone", within_s=5.0)
        assert not is_running(marker)
        assert len(engine.boxes()) == 3

        DockerHost(DockerBoxConfig(image=IMAGE)).close()
        assert engine.boxes() == [own]
        with engine.client() as client:
            states = {
                container: client.api.inspect_container(container)["State"]["Status"]
                for container in (running, ended)
            }
        assert states == {running: "running", ended: "exited"}
        before = living.slots[0].box
        assert_accepted(judged(living.slots[0], suite_of(PROMPT)), tests=2)
        assert living.slots[0].box is before


def _containers_of_somebody_else(engine: PrivateEngine) -> tuple[str, str]:
    """The ids of one that runs and one that has ended; neither was made by Cupel."""
    with engine.client() as client:
        made = [
            client.containers.run(
                IMAGE, ["/bin/play", script], detach=True, stdin_open=True, network_mode="none"
            )
            for script in ("/dev/stdin", "/nothing")
        ]
        made[1].wait()
    return str(made[0].id), str(made[1].id)
