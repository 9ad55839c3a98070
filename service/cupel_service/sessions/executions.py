"""Running a program once, in a box that is as new before and after."""

from __future__ import annotations

from collections.abc import Mapping

from cupel.schema import CompileResult, Data, Language, decode_data, encode_data
from cupel.session_schema import ExceededLimit, ExecutionRequest, ExecutionResult
from cupel_sandbox.box import MEBIBYTE, SUBMISSION, Box, Limit, Outcome, Run, RunLimits
from cupel_sandbox.errors import BoxLost, BoxRefused
from cupel_service.errors import JudgingError
from cupel_service.languages import LanguageSetup
from cupel_service.program import INTERRUPTIONS_MAX, KILLS_MAX, Slot, compile_result
from cupel_service.requests import InvalidRequest
from cupel_service.sessions.capture import cut_middle
from cupel_service.sessions.files import OUTPUTS_BYTES_MAX, file_path, refusal

PRINTED_BYTES_MAX = 16 * MEBIBYTE
"""A program that prints more than this is killed."""

_STDERR_BYTES_MAX = MEBIBYTE
_FILES = "files"  # below /sub: as they came
_FOLDER = "work"  # below /sub: where a program with files runs
_LIMITS: Mapping[Limit, ExceededLimit] = {
    Limit.CPU: ExceededLimit.CPU,
    Limit.WALL: ExceededLimit.WALL,
    Limit.MEMORY: ExceededLimit.MEMORY,
    Limit.OUTPUT: ExceededLimit.OUTPUT,
    Limit.FILE_SIZE: ExceededLimit.FILE_SIZE,
    Limit.PROCESSES: ExceededLimit.PROCESSES,
}


def execute(
    slot: Slot, setup: LanguageSetup, request: ExecutionRequest, shell: str
) -> ExecutionResult:
    """Runs a program to its end; blocks until then. The slot's box needs a reset afterwards.

    Args:
        slot: Where it runs; again in a new box where that is lost.
        setup: Its language.
        request: The program, and all that it gets.
        shell: The path of a shell inside the box.

    Returns:
        How it ended; that is also where a program is said to have killed its box, twice.

    Raises:
        InvalidRequest: A path leads out of the working folder.
        JudgingError: Boxes were lost by none of its doing.
        SandboxError: No new box can be had, or the box cannot take the program.
    """
    paths = {path: file_path(path) for path in (*request.files, *request.outputs)}
    kills = interruptions = 0
    while True:
        try:
            return _execute(slot.box, setup, request, shell, paths)
        except BoxLost as error:
            interruptions += 1
            kills += not error.by_host
            slot.replace()
            if kills == KILLS_MAX:
                return ExecutionResult(signal=9, stderr="[the program killed its box]")
            if interruptions == INTERRUPTIONS_MAX:
                raise JudgingError(f"an execution was interrupted {interruptions} times") from error


def _execute(
    box: Box,
    setup: LanguageSetup,
    request: ExecutionRequest,
    shell: str,
    paths: Mapping[str, str],
) -> ExecutionResult:
    box.put(setup.source_name, request.source.encode("utf-8", "surrogatepass"))
    for path, content in request.files.items():
        try:
            box.put(f"{_FILES}/{paths[path]}", decode_data(content))
        except BoxRefused as error:
            raise InvalidRequest(f"a file cannot be put into the box: {error}") from error
    compiled = _compile(box, setup)
    if compiled is not None and not compiled.ok:
        return ExecutionResult(
            compile=compiled, missing=dict.fromkeys(request.outputs, "it did not compile")
        )
    outcome = _run(box, setup, request, shell)
    files, missing = _outputs(box, request.outputs, paths)
    kept_bytes = request.limits.output_bytes
    return ExecutionResult(
        exit_code=outcome.exit_code,
        signal=outcome.signal,
        timed_out=outcome.limit is Limit.WALL,
        limit=None if outcome.limit is None else _LIMITS[outcome.limit],
        stdout=cut_middle(outcome.stdout, b"", len(outcome.stdout), kept_bytes),
        stderr=cut_middle(outcome.stderr, b"", len(outcome.stderr), kept_bytes),
        stdout_bytes=outcome.stdout_bytes,
        stderr_bytes=outcome.stderr_bytes,
        cpu_s=outcome.cpu_s,
        wall_s=outcome.wall_s,
        memory_bytes=outcome.memory_bytes,
        compile=compiled,
        files=files,
        missing=missing,
    )


def _compile(box: Box, setup: LanguageSetup) -> CompileResult | None:
    if setup.compile_argv is None:
        return None
    include = (f"-I{SUBMISSION}/{_FILES}",) if setup.language in (Language.C, Language.CPP) else ()
    run = Run(
        argv=(*setup.compile_argv, *include),
        limits=setup.compile_limits,
        environment=setup.environment,
        writable_submission=True,
    )
    (outcome,) = box.run((run,))
    return compile_result(outcome)


def _run(box: Box, setup: LanguageSetup, request: ExecutionRequest, shell: str) -> Outcome:
    limits = request.limits
    argv = setup.run_argv
    environment = dict(setup.environment)
    with_files = bool(request.files or request.outputs)
    if with_files:
        # A folder of its own user, which outlives the run; `exec` leaves the outcome the program's.
        folder = f"{SUBMISSION}/{_FOLDER}"
        copy = f"cp -R {SUBMISSION}/{_FILES}/. {folder} && " if request.files else ""
        argv = (shell, "-c", f'mkdir {folder} && {copy}cd {folder} && exec "$@"', "sh", *argv)
        environment["PYTHONPATH"] = folder
    run = Run(
        argv=argv,
        stdin=decode_data(request.stdin),
        limits=RunLimits(
            cpu_s=limits.cpu_s,
            wall_s=limits.effective_wall_s,
            memory_bytes=limits.memory_bytes,
            processes=limits.processes,
            output_bytes=PRINTED_BYTES_MAX,
            stderr_bytes=_STDERR_BYTES_MAX,
            file_bytes=limits.file_bytes,
        ),
        environment=environment,
        memory_baseline_bytes=setup.memory_baseline_bytes,
        writable_submission=with_files,
    )
    (outcome,) = box.run((run,))
    return outcome


def _outputs(
    box: Box, outputs: tuple[str, ...], paths: Mapping[str, str]
) -> tuple[dict[str, Data], dict[str, str]]:
    files: dict[str, Data] = {}
    missing: dict[str, str] = {}
    left_bytes = OUTPUTS_BYTES_MAX
    for path in outputs:
        try:
            content = box.get(f"{_FOLDER}/{paths[path]}", left_bytes)
        except BoxRefused as error:
            missing[path] = str(refusal("file", error))
            continue
        left_bytes -= len(content)
        files[path] = encode_data(content)
    return files, missing
