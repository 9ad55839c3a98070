from __future__ import annotations

from fakes import TOOLCHAINS, languages

from cupel.schema import Language
from cupel_sandbox.toolchains import Toolchain
from cupel_service.languages import setup_languages


def test_every_language_has_its_commands() -> None:
    setups = languages()
    assert setups[Language.C].compile_argv == (
        *("/usr/bin/gcc", "-O2", "-std=gnu17", "-o", "/sub/main", "/sub/main.c", "-lm"),
    )
    assert setups[Language.CPP].compile_argv == (
        *("/usr/bin/g++", "-O2", "-std=gnu++17", "-o", "/sub/main", "/sub/main.cpp"),
    )
    assert setups[Language.CPP].run_argv == ("/sub/main",)
    assert setups[Language.PYTHON].compile_argv is None
    assert setups[Language.PYTHON].run_argv == ("/usr/bin/python3", "/sub/main.py")
    assert setups[Language.PYTHON].source_name == "main.py"


def test_a_missing_toolchain_is_left_out() -> None:
    setups = setup_languages((*TOOLCHAINS[:2], Toolchain("python", "", reason="gone")), {}, {}, {})
    assert set(setups) == {Language.C, Language.CPP}


def test_factors_and_baselines_reach_their_language_only() -> None:
    python = Language.PYTHON
    setups = setup_languages(TOOLCHAINS, {python: 3.0}, {python: 2.0}, {python: 9_000_000})
    assert setups[python].time_factor == 3.0
    assert setups[python].memory_factor == 2.0
    assert setups[python].memory_baseline_bytes == 9_000_000
    assert setups[Language.C].time_factor == 1.0
    assert setups[Language.C].memory_baseline_bytes == 0


def test_the_compiler_has_its_own_limits() -> None:
    limits = languages()[Language.CPP].compile_limits
    assert (limits.cpu_s, limits.wall_s, limits.processes) == (10.0, 30.0, 64)
    assert limits.memory_bytes == 1024**3
    assert limits.file_bytes == 256 * 1024**2
    assert limits.output_bytes == 64 * 1024


def test_the_environment_is_small_and_fixed() -> None:
    environment = languages()[Language.PYTHON].environment
    assert environment["PATH"] == "/usr/bin:/bin"
    assert environment["PYTHONHASHSEED"] == "0"
    assert len(environment) == 7
