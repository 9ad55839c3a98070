from __future__ import annotations

import logging
from collections.abc import Iterable

import pytest
from fakes import KILLED_BY_CPU, Answer, FakeSlot, in_order, languages, outcome

from cupel.schema import (
    FailureClass,
    Judgement,
    Language,
    Limits,
    Problem,
    Stop,
    Submission,
    Testcase,
    TleKind,
    Verdict,
)
from cupel_sandbox.box import Limit, Outcome, Run
from cupel_sandbox.errors import BoxLost, BoxRefused, CannotStart
from cupel_service.errors import LanguageUnavailable
from cupel_service.judge import judge
from cupel_service.suite import Suite, prepare

AC, WA, RTE, OLE, TLE, MLE, JE, CE = (
    *(Verdict.AC, Verdict.WA, Verdict.RTE, Verdict.OLE),
    *(Verdict.TLE, Verdict.MLE, Verdict.JE, Verdict.CE),
)
RIGHT = outcome(b"42\n")
WRONG = outcome(b"41\n")
LOST = BoxLost("the box died")
NEAR = outcome(b"42\n", cpu_s=2.1)  # the limit is 2.0, the kill point 2.2
LIMITS = Limits(cpu_s=2.0, memory_bytes=100_000_000, output_bytes=1000)


def suite(*tiers: int, limits: Limits = LIMITS) -> Suite:
    """A suite of tests named 1, 2, ... in the given tiers; the answer is always 42."""
    return prepare(
        Problem(
            limits=limits,
            tests=tuple(
                Testcase(name=str(number), input="x" * number, output="42", tier=tier)
                for number, tier in enumerate(tiers, start=1)
            ),
        )
    )


def submit(
    slot: FakeSlot,
    tests: Suite,
    *,
    source: str | None = "print(42)",
    completion: str | None = None,
    language: Language | None = Language.PYTHON,
    stop: Stop = Stop.FIRST_FAILURE,
    coverage: int | None = None,
    probe_endless: bool = False,
    time_factor: float = 1.0,
) -> Judgement:
    submission = Submission(
        problem="p",
        source=source,
        completion=completion,
        language=language,
        stop=stop,
        coverage=coverage,
        probe_endless=probe_endless,
    )
    return judge(
        submission,
        tests,
        slot,
        languages(python=time_factor),
        submission_id="s-1",
        problem_id="p",
        degraded=("seccomp",),
    )


def judged(
    answers: Iterable[Answer], *tiers: int, stop: Stop = Stop.NEVER, coverage: int | None = None
) -> Judgement:
    """Judges a Python program on tests of the given tiers, with these answers of the box."""
    return submit(FakeSlot(in_order(answers)), suite(*tiers), stop=stop, coverage=coverage)


def verdicts(judgement: Judgement) -> list[Verdict]:
    return [test.verdict for test in judgement.tests]


def test_a_program_that_passes_every_test_is_accepted() -> None:
    slot = FakeSlot(in_order([RIGHT, outcome(b"42", cpu_s=1.5, wall_s=3.0, memory_bytes=7000)]))
    judgement = submit(slot, suite(1, 2))
    assert judgement.verdict is AC
    assert judgement.failure_class is FailureClass.NONE
    assert judgement.complete
    assert (judgement.id, judgement.problem, judgement.degraded) == ("s-1", "p", ("seccomp",))
    assert (judgement.tiers, judgement.coverage, judgement.tests_per_tier) == (2, 2, (1, 1))
    assert (judgement.cpu_s, judgement.wall_s, judgement.memory_bytes) == (1.5, 3.0, 7000)
    assert judgement.first_failing_tier is None
    assert judgement.compile is None
    assert slot.box.resets == 1
    assert slot.box.files == {}


@pytest.mark.parametrize(
    ("answer", "verdict", "kind", "failure_class"),
    [
        (WRONG, WA, None, FailureClass.CORRECTNESS),
        (outcome(b"42", exit_code=1), RTE, None, FailureClass.CORRECTNESS),
        (outcome(b"42", signal=11), RTE, None, FailureClass.CORRECTNESS),
        (outcome(signal=9, limit=Limit.OUTPUT), OLE, None, FailureClass.CORRECTNESS),
        (outcome(signal=25, limit=Limit.FILE_SIZE), OLE, None, FailureClass.CORRECTNESS),
        (outcome(b"42", stdout_bytes=1001), OLE, None, FailureClass.CORRECTNESS),
        (outcome(b"42", stdout_bytes=1000), AC, None, FailureClass.NONE),
        (KILLED_BY_CPU, TLE, TleKind.CPU, FailureClass.OPTIMIZATION),
        (outcome(b"42", cpu_s=2.3), TLE, TleKind.CPU, FailureClass.OPTIMIZATION),
        (outcome(b"42", cpu_s=2.0), AC, None, FailureClass.NONE),
        (outcome(signal=9, limit=Limit.WALL), TLE, TleKind.IDLE, FailureClass.OPTIMIZATION),
        (
            outcome(signal=9, limit=Limit.WALL, cpu_s=2.05),
            *(TLE, TleKind.CPU, FailureClass.OPTIMIZATION),
        ),
        (outcome(signal=9, limit=Limit.MEMORY), MLE, None, FailureClass.OPTIMIZATION),
        (outcome(signal=9, limit=Limit.MEMORY, cpu_s=9), MLE, None, FailureClass.OPTIMIZATION),
    ],
)
def test_an_outcome_has_one_verdict(
    answer: Outcome, verdict: Verdict, kind: TleKind | None, failure_class: FailureClass
) -> None:
    judgement = judged([answer], 1)
    assert judgement.verdict is verdict
    assert judgement.tests[0].tle_kind is kind
    assert judgement.tests[0].measurements == 1
    assert judgement.failure_class is failure_class


def test_limits_carry_the_factors_of_the_language_and_the_kill_point() -> None:
    slot = FakeSlot(in_order([outcome(b"42", cpu_s=5.9)]))
    judgement = submit(slot, suite(1), time_factor=3.0)
    (run,) = slot.awaited
    assert judgement.verdict is AC
    assert run.limits.cpu_s == pytest.approx(6.6)  # 2 s x 3 x 1.1
    assert run.limits.wall_s == pytest.approx(24.0)  # (3 x 2 s + 2 s) x 3
    assert run.limits.memory_bytes == 100_000_000
    assert run.limits.output_bytes == 1000
    assert run.argv == ("/usr/bin/python3", "/sub/main.py")
    assert run.stdin == b"x"
    assert not run.writable_submission


def test_expected_outputs_never_enter_the_box() -> None:
    seen: list[str] = []

    def respond(run: Run) -> Answer:
        seen.append(f"{run} {slot.box.files}")
        return WRONG

    slot = FakeSlot(respond)
    submit(slot, suite(1, 1), source="print(6 * 7)", stop=Stop.NEVER)
    assert len(seen) == 2
    assert "6 * 7" in seen[0]
    assert not any("42" in each for each in seen)


@pytest.mark.parametrize(
    ("stop", "expected"),
    [
        (Stop.FIRST_FAILURE, [AC, WA]),
        (Stop.TIER, [AC, WA, RTE]),
        (Stop.NEVER, [AC, WA, RTE, AC, TLE]),
    ],
)
def test_stop_rules(stop: Stop, expected: list[Verdict]) -> None:
    crash = outcome(exit_code=1)
    judgement = judged([RIGHT, WRONG, crash, RIGHT, KILLED_BY_CPU], 1, 2, 2, 3, 3, stop=stop)
    assert verdicts(judgement) == expected
    assert judgement.verdict is WA
    assert judgement.first_failing_tier == 2
    assert judgement.complete is (stop is Stop.NEVER)


def test_a_failure_in_the_last_test_leaves_the_judgement_complete() -> None:
    judgement = judged([RIGHT, WRONG], 1, 2, stop=Stop.FIRST_FAILURE)
    assert judgement.complete


def test_only_the_tiers_of_the_coverage_are_judged() -> None:
    judgement = judged([RIGHT, RIGHT], 1, 1, 2, 3, coverage=1)
    assert verdicts(judgement) == [AC, AC]
    assert (judgement.coverage, judgement.tiers, judgement.complete) == (1, 3, True)


def test_a_coverage_beyond_the_last_tier_means_all_tiers() -> None:
    judgement = judged([RIGHT, RIGHT], 1, 2, coverage=9)
    assert (judgement.coverage, judgement.complete) == (2, True)


def test_a_correctness_failure_outweighs_an_earlier_optimization_failure() -> None:
    judgement = judged([KILLED_BY_CPU, WRONG], 1, 2)
    assert judgement.verdict is TLE
    assert judgement.failure_class is FailureClass.CORRECTNESS


# Measuring again near the time limit


def test_the_smaller_cpu_time_decides_near_the_limit() -> None:
    judgement = judged([NEAR, outcome(b"42", cpu_s=1.9), RIGHT], 1, 1)
    assert verdicts(judgement) == [AC, AC]
    assert (judgement.tests[0].cpu_s, judgement.tests[0].measurements) == (1.9, 2)
    assert judgement.tests[1].measurements == 1


@pytest.mark.parametrize(
    ("second", "cpu_s"), [(outcome(b"42", cpu_s=2.05), 2.05), (KILLED_BY_CPU, 2.1)]
)
def test_a_program_that_is_too_slow_twice_is_tle(second: Outcome, cpu_s: float) -> None:
    judgement = judged([NEAR, second], 1)
    (test,) = judgement.tests
    assert (test.verdict, test.tle_kind) == (TLE, TleKind.CPU)
    assert (test.cpu_s, test.measurements) == (cpu_s, 2)


@pytest.mark.parametrize(
    ("first", "second", "verdict"),
    [
        (outcome(b"41", cpu_s=2.1), RIGHT, WA),
        (NEAR, WRONG, WA),
        (outcome(b"42", cpu_s=2.1, exit_code=3), RIGHT, RTE),
        (NEAR, outcome(signal=9, limit=Limit.WALL), TLE),
    ],
)
def test_both_measurements_must_be_right(first: Outcome, second: Outcome, verdict: Verdict) -> None:
    judgement = judged([first, second], 1)
    assert verdicts(judgement) == [verdict]
    assert judgement.tests[0].measurements == 2


def test_at_most_three_tests_are_measured_again() -> None:
    fast = outcome(b"42", cpu_s=1.0)
    judgement = judged([*[NEAR, fast] * 3, NEAR], 1, 1, 1, 1)
    assert verdicts(judgement) == [AC, AC, AC, TLE]
    assert [test.measurements for test in judgement.tests] == [2, 2, 2, 1]


def test_a_killed_program_is_never_measured_again() -> None:
    slot = FakeSlot(in_order([KILLED_BY_CPU]))
    submit(slot, suite(1))
    assert len(slot.awaited) == 1


# Endless programs


@pytest.mark.parametrize(
    ("probe", "endless"),
    [
        (outcome(signal=9, limit=Limit.CPU, cpu_s=20), True),
        (outcome(signal=9, limit=Limit.WALL), True),
        (outcome(b"42", cpu_s=19.0), False),
        (outcome(signal=9, limit=Limit.MEMORY), False),
    ],
)
def test_a_tle_in_the_smallest_tier_is_probed_at_ten_times_the_limit(
    probe: Outcome, endless: bool
) -> None:
    slot = FakeSlot(in_order([RIGHT, KILLED_BY_CPU, probe]))
    judgement = submit(slot, suite(1, 1, 2), probe_endless=True)
    assert judgement.endless is endless
    assert verdicts(judgement) == [AC, TLE]
    assert slot.awaited[-1].stdin == b"xx"
    assert slot.awaited[-1].limits.cpu_s == pytest.approx(20.0)
    assert slot.awaited[-1].limits.wall_s == pytest.approx(80.0)


@pytest.mark.parametrize(
    "answers",
    [
        [RIGHT, KILLED_BY_CPU],  # in tier 2
        [outcome(signal=9, limit=Limit.WALL)],  # a sleeper
        [RIGHT, RIGHT],
    ],
)
def test_nothing_is_probed_without_a_tle_by_cpu_in_the_smallest_tier(answers: list[Answer]) -> None:
    slot = FakeSlot(in_order(answers))
    assert submit(slot, suite(1, 2), probe_endless=True).endless is None


def test_a_fault_while_probing_does_not_touch_the_verdict() -> None:
    slot = FakeSlot(in_order([KILLED_BY_CPU, BoxRefused("no")]))
    judgement = submit(slot, suite(1), probe_endless=True)
    assert (judgement.verdict, judgement.endless) == (TLE, None)
    assert "judging error" in judgement.message


# Programs and compilers


def test_a_program_is_taken_from_a_completion() -> None:
    slot = FakeSlot(in_order([RIGHT]))
    judgement = submit(
        slot, suite(1), source=None, completion="Sure:\n```python\nprint(42)\n```", language=None
    )
    assert (judgement.verdict, judgement.language) == (AC, Language.PYTHON)


def test_a_completion_without_a_program_is_a_compile_error_and_runs_nothing() -> None:
    slot = FakeSlot(in_order([]))
    judgement = submit(slot, suite(1), source=None, completion="I cannot.", language=None)
    assert (judgement.verdict, judgement.failure_class) == (CE, FailureClass.CORRECTNESS)
    assert judgement.message.startswith("no program found")
    assert judgement.complete
    assert judgement.tests == ()
    assert slot.box.sent == []


@pytest.mark.parametrize("language", list(Language))
def test_nul_bytes_in_a_source_are_a_compile_error_and_run_nothing(language: Language) -> None:
    slot = FakeSlot(in_order([]))
    judgement = submit(slot, suite(1), source="int main\0", language=language)
    assert (judgement.verdict, judgement.message) == (CE, "the source holds NUL bytes")
    assert slot.box.sent == []


def test_a_compiled_language_is_compiled_before_its_tests() -> None:
    slot = FakeSlot(in_order([outcome(stderr=b"warning: hm", cpu_s=0.5), RIGHT]))
    judgement = submit(slot, suite(1), language=Language.CPP, source="int main() {}")
    assert judgement.verdict is AC
    assert judgement.compile is not None
    assert (judgement.compile.ok, judgement.compile.diagnostics) == (True, "warning: hm")
    assert judgement.cpu_s == 0.01  # the compiler's time is not the program's
    compiler, program = slot.awaited
    assert compiler.writable_submission
    assert not program.writable_submission
    assert program.argv == ("/sub/main",)


def test_a_program_that_does_not_compile_is_a_compile_error_with_diagnostics() -> None:
    message = b"main.cpp:1: error: \xff " + b"x" * 9000
    slot = FakeSlot(in_order([outcome(exit_code=1, stderr=message)]))
    judgement = submit(slot, suite(1), language=Language.CPP, source="x")
    assert (judgement.verdict, judgement.complete) == (CE, True)
    assert judgement.compile is not None
    assert not judgement.compile.ok
    assert judgement.compile.diagnostics.startswith("main.cpp:1: error: \ufffd xxx")
    assert judgement.compile.diagnostics.endswith(
        f"[truncated: the compiler printed {len(message)} bytes]"
    )
    assert len(judgement.compile.diagnostics) < 8300
    assert slot.box.resets == 1


def test_a_compiler_that_meets_a_limit_is_a_compile_error_that_says_so() -> None:
    slot = FakeSlot(in_order([outcome(signal=9, limit=Limit.CPU)]))
    judgement = submit(slot, suite(1), language=Language.C, source="x")
    assert judgement.verdict is CE
    assert judgement.compile is not None
    assert judgement.compile.diagnostics == "The compiler was stopped: it took too much CPU time."


def test_a_source_that_kills_its_box_in_the_compiler_is_a_compile_error() -> None:
    slot = FakeSlot(in_order([LOST, LOST]))
    judgement = submit(slot, suite(1), language=Language.C, source="x")
    assert judgement.verdict is CE
    assert judgement.compile is not None
    assert "killed its box" in judgement.compile.diagnostics


def test_a_missing_toolchain_is_refused_before_anything_runs() -> None:
    slot = FakeSlot(in_order([]))
    submission = Submission(problem="p", source="x", language=Language.CPP)
    with pytest.raises(LanguageUnavailable, match="cannot judge cpp"):
        judge(submission, suite(1), slot, {}, submission_id="s", problem_id=None)
    assert slot.box.sent == []


# Lost boxes


def test_an_interrupted_test_runs_again_in_a_new_box_and_the_rest_follows() -> None:
    slot = FakeSlot(in_order([RIGHT, LOST, RIGHT, RIGHT]))
    judgement = submit(slot, suite(1, 1, 1))
    assert verdicts(judgement) == [AC, AC, AC]
    assert len(slot.boxes) == 2
    assert [run.stdin for run in slot.awaited] == [b"x", b"xx", b"xx", b"xxx"]
    assert all(test.flags == () for test in judgement.tests)


def test_after_a_loss_the_program_is_compiled_again() -> None:
    slot = FakeSlot(in_order([outcome(), LOST, outcome(), RIGHT]))
    judgement = submit(slot, suite(1), language=Language.C, source="x")
    assert judgement.verdict is AC
    assert [run.writable_submission for run in slot.awaited] == [True, False, True, False]


def test_a_program_that_kills_its_box_alone_twice_is_a_run_time_error() -> None:
    judgement = judged([LOST, LOST, LOST, RIGHT], 1, 1)
    assert verdicts(judgement) == [RTE, AC]
    assert judgement.tests[0].flags == ("killed_box",)
    assert judgement.failure_class is FailureClass.CORRECTNESS
    assert judgement.complete


def test_a_test_interrupted_three_times_is_a_judging_error() -> None:
    class FragileSlot(FakeSlot):
        def replace(self) -> None:
            super().replace()
            self.box.put_errors.append(BoxLost("died before it ran anything"))

    slot = FragileSlot(in_order([RIGHT, LOST]))
    judgement = submit(slot, suite(1, 1, 1))
    assert verdicts(judgement) == [AC, JE]
    assert (judgement.verdict, judgement.failure_class) == (JE, FailureClass.INFRASTRUCTURE)
    assert not judgement.complete
    assert judgement.first_failing_tier is None
    assert "interrupted 3 times" in judgement.message


def test_no_new_box_is_a_judging_error_that_says_why() -> None:
    slot = FakeSlot(in_order([LOST]), no_more=CannotStart("no cgroup", "Mount one."))
    judgement = submit(slot, suite(1))
    assert judgement.verdict is JE
    assert "no new one can be had: no cgroup. Mount one." in judgement.message


def test_a_judging_error_never_hides_a_failure_that_was_proven_before_it() -> None:
    slot = FakeSlot(in_order([RIGHT, WRONG, LOST]), no_more=CannotStart("gone", "Wait."))
    judgement = submit(slot, suite(1, 1, 2, 2), stop=Stop.NEVER)
    assert verdicts(judgement) == [AC, WA, JE]
    assert (judgement.verdict, judgement.failure_class) == (WA, FailureClass.CORRECTNESS)
    assert judgement.first_failing_tier == 1
    assert not judgement.complete


def test_a_box_that_died_before_the_submission_is_replaced() -> None:
    slot = FakeSlot(in_order([outcome(), RIGHT]))
    slot.box.close()
    assert submit(slot, suite(1), language=Language.C, source="x").verdict is AC


def test_a_box_that_died_before_a_python_program_is_replaced() -> None:
    slot = FakeSlot(in_order([RIGHT, RIGHT]))
    slot.box.close()
    assert verdicts(submit(slot, suite(1, 1))) == [AC, AC]


def test_a_box_lost_while_dropping_queued_runs_costs_no_verdict() -> None:
    slot = FakeSlot(in_order([NEAR, RIGHT, RIGHT]))
    slot.box.close_error = BoxLost("died while it was told to stop")
    judgement = submit(slot, suite(1, 1))
    assert verdicts(judgement) == [AC, AC]
    assert len(slot.boxes) == 2


def test_a_box_lost_in_the_second_measurement_is_lost_like_any_other() -> None:
    judgement = judged([NEAR, LOST, LOST], 1)
    assert verdicts(judgement) == [RTE]
    assert judgement.tests[0].flags == ("killed_box",)


# Faults that are not the program's, and such that look so


def test_a_binary_that_cannot_be_started_is_a_run_time_error_if_the_compiler_can() -> None:
    def respond(run: Run) -> Answer:
        if run.argv == ("/sub/main",):
            return BoxRefused("exec /sub/main: no such file")
        return outcome()

    judgement = submit(FakeSlot(respond), suite(1), language=Language.C, source="x")
    assert verdicts(judgement) == [RTE]
    assert judgement.tests[0].flags == ("cannot_execute",)


def test_a_box_that_starts_nothing_is_a_judging_error() -> None:
    slot = FakeSlot(in_order([outcome(), *[BoxRefused("no processes left")] * 3]))
    judgement = submit(slot, suite(1), language=Language.C, source="x")
    assert (judgement.verdict, verdicts(judgement)) == (JE, [JE])


def test_a_missing_interpreter_is_a_judging_error() -> None:
    judgement = judged([BoxRefused("no python"), BoxRefused("no python")], 1)
    assert judgement.verdict is JE
    assert judgement.message == "judging error, not the program's fault: no python"


def test_an_unexpected_exception_is_a_judging_error_logged_without_the_source(
    caplog: pytest.LogCaptureFixture,
) -> None:
    slot = FakeSlot(in_order([RIGHT, RuntimeError("odd")]))
    with caplog.at_level(logging.ERROR):
        judgement = submit(slot, suite(1, 1), source="print(42)  # private")
    assert verdicts(judgement) == [AC, JE]
    assert "unexpected RuntimeError" in judgement.message
    assert "s-1" in caplog.text
    assert "private" not in caplog.text
    assert slot.box.resets == 1


def test_a_box_that_fails_its_reset_is_replaced_and_the_judgement_stands() -> None:
    slot = FakeSlot(in_order([RIGHT]))
    slot.box.reset_error = BoxLost("a process was left")
    judgement = submit(slot, suite(1))
    assert (judgement.verdict, judgement.message) == (AC, "")
    assert len(slot.boxes) == 2


def test_a_reset_that_cannot_even_be_mended_does_not_change_the_judgement() -> None:
    slot = FakeSlot(in_order([RIGHT]), no_more=CannotStart("gone", "Wait."))
    slot.box.reset_error = BoxLost("a process was left")
    assert submit(slot, suite(1)).verdict is AC


def test_the_next_run_is_sent_while_one_is_going() -> None:
    slot = FakeSlot(in_order([WRONG]))
    submit(slot, suite(1, 1, 1))
    assert len(slot.box.sent) == 2
    assert len(slot.box.awaited) == 1
