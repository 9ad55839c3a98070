"""How each language is compiled and run inside a box."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from cupel.schema import Language
from cupel_sandbox.box import MEBIBYTE, SUBMISSION, WORK, RunLimits
from cupel_sandbox.toolchains import Toolchain

ENVIRONMENT: Mapping[str, str] = MappingProxyType(
    {
        "PATH": "/usr/bin:/bin",
        "HOME": WORK,
        "TMPDIR": "/tmp",  # noqa: S108 - the box's own, private and wiped after each run
        "LANG": "C.UTF-8",
        # Strict, as in any ordinary locale; in C.UTF-8 alone Python lets lone surrogates through.
        "PYTHONIOENCODING": "utf-8",
        "PYTHONDONTWRITEBYTECODE": "1",
        # A verdict must not depend on the order of a set of strings, which else changes per run.
        "PYTHONHASHSEED": "0",
    }
)
"""The whole environment of every compiler and program; nothing of the host's gets in."""

DIAGNOSTICS_BYTES_MAX = 8 * 1024
"""How much of a compiler's messages a judgement carries."""

COMPILE_LIMITS = RunLimits(
    cpu_s=10.0,
    wall_s=30.0,
    memory_bytes=1024 * MEBIBYTE,
    processes=64,
    output_bytes=64 * 1024,
    stderr_bytes=DIAGNOSTICS_BYTES_MAX,
    file_bytes=256 * MEBIBYTE,
)


@dataclass(frozen=True, slots=True)
class LanguageSetup:
    """One language on this host.

    Python has no compile step: a SyntaxError is met in the first test and is a run-time error
    (RTE), not a compile error (CE).

    Args:
        language: Which language this is.
        source_name: The source's file name under `/sub`.
        compile_argv: The compiler's command, or None for a language without a compile step.
        run_argv: The program's command.
        compile_limits: What the compiler may use.
        time_factor: Multiplies every time limit of a problem, CPU and wall.
        memory_factor: Multiplies the memory limit of a problem.
        memory_baseline_bytes: What an empty program uses here; not charged to programs.
        environment: The environment of the compiler and the program.
    """

    language: Language
    source_name: str
    compile_argv: tuple[str, ...] | None
    run_argv: tuple[str, ...]
    compile_limits: RunLimits = COMPILE_LIMITS
    time_factor: float = 1.0
    memory_factor: float = 1.0
    memory_baseline_bytes: int = 0
    environment: Mapping[str, str] = field(default_factory=lambda: ENVIRONMENT)


def setup_languages(
    toolchains: Iterable[Toolchain],
    time_factors: Mapping[Language, float],
    memory_factors: Mapping[Language, float],
    baselines: Mapping[Language, int],
) -> dict[Language, LanguageSetup]:
    """Says how to compile and run every language that this host has.

    Args:
        toolchains: What was found; toolchains that are missing are left out.
        time_factors: Per language; 1 where not given.
        memory_factors: Per language; 1 where not given.
        baselines: Memory of an empty program per language, in bytes; 0 where not given.

    Returns:
        The setup of each language whose toolchain is there.
    """
    setups: dict[Language, LanguageSetup] = {}
    for toolchain in toolchains:
        if not toolchain.available:
            continue
        language = Language(toolchain.name)
        source_name, compile_argv, run_argv = _commands(language, toolchain.executable)
        setups[language] = LanguageSetup(
            language=language,
            source_name=source_name,
            compile_argv=compile_argv,
            run_argv=run_argv,
            time_factor=time_factors.get(language, 1.0),
            memory_factor=memory_factors.get(language, 1.0),
            memory_baseline_bytes=baselines.get(language, 0),
        )
    return setups


def _commands(
    language: Language, executable: str
) -> tuple[str, tuple[str, ...] | None, tuple[str, ...]]:
    """The source's file name, the compiler's command, and the program's command."""
    program = f"{SUBMISSION}/main"
    if language is Language.PYTHON:
        return "main.py", None, (executable, f"{program}.py")
    source_name, standard, libraries = {
        Language.C: ("main.c", "-std=gnu17", ("-lm",)),
        Language.CPP: ("main.cpp", "-std=gnu++17", ()),
    }[language]
    source = f"{SUBMISSION}/{source_name}"
    return source_name, (executable, "-O2", standard, "-o", program, source, *libraries), (program,)
