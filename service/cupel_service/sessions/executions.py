"""Running a program once, in a box that is as new before and after."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from cupel.schema import CompileResult, Data, Language, decode_data, encode_data
from cupel.session_schema import ExceededLimit, ExecutionRequest, ExecutionResult
from cupel_sandbox.box import MEBIBYTE, SUBMISSION, Box, Limit, Outcome, Run, RunLimits
from cupel_sandbox.errors import BoxLost, BoxRefused
from cupel_service.errors import JudgingError, LanguageUnavailable
from cupel_service.languages import LanguageSetup
from cupel_service.program import Fault, Program, Slot
from cupel_service.requests import InvalidRequest
from cupel_service.sessions.capture import cut_middle
from cupel_service.sessions.files import OUTPUTS_BYTES_MAX, file_path

PRINTED_BYTES_MAX = 16 * MEBIBYTE
"""A program that prints more than this is killed."""
_STDERR_BYTES_MAX = MEBIBYTE
_FOLDER = "files"
_LIMITS: Mapping[Limit, ExceededLimit] = {
    Limit.CPU: ExceededLimit.CPU,
    Limit.WALL: ExceededLimit.WALL,
    Limit.MEMORY: ExceededLimit.MEMORY,
    Limit.OUTPUT: ExceededLimit.OUTPUT,
    Limit.FILE_SIZE: ExceededLimit.FILE_SIZE,
    Limit.PROCESSES: ExceededLimit.PROCESSES,
}
