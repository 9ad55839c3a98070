"""The runner is compiled once per source, and what keeps it from that is said with its remedy."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cupel_sandbox.build import build_runner, cache_folder, runner_sources
from cupel_sandbox.errors import CannotStart

COMPILER = """#!/bin/sh
# A compiler as far as the build can see: it writes what -o names, and counts its calls.
echo called >> "{log}"
while [ "$1" != -o ]; do shift; done
echo runner > "$2"
"""


@pytest.fixture
def compiler(tmp_path: Path) -> Path:
    file = tmp_path / "fake-cc"
    file.write_text(COMPILER.format(log=tmp_path / "calls"))
    file.chmod(0o755)
    return file


def built(copy: Path, compiler: Path, cache: Path) -> Path:
    """Builds the runner of a copied installation, in a process of its own."""
    command = [sys.executable, "-c", "from cupel_sandbox.build import *; print(build_runner())"]
    environment = {
        "PYTHONPATH": str(copy),
        "CC": str(compiler),
        "XDG_CACHE_HOME": str(cache),
        "PATH": os.environ["PATH"],
    }
    shown = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return Path(shown.stdout.strip())


def test_a_changed_source_is_compiled_anew_and_an_unchanged_one_is_not(
    tmp_path: Path, compiler: Path
) -> None:
    copy, cache = tmp_path / "installed", tmp_path / "cache"
    shutil.copytree(runner_sources().parent, copy)
    first = built(copy, compiler, cache)
    assert first.read_text() == "runner\n"
    assert built(copy, compiler, cache) == first
    assert (tmp_path / "calls").read_text() == "called\n"
    header = copy / "runner" / "runner.h"
    header.write_text(header.read_text() + "\n")
    second = built(copy, compiler, cache)
    assert second != first
    assert (tmp_path / "calls").read_text() == "called\n" * 2
    assert sorted(path.name for path in (cache / "cupel").iterdir()) == sorted(
        [first.name, second.name]
    )


def test_the_cache_lies_where_the_user_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiler: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "there"))
    monkeypatch.setenv("CC", str(compiler))
    assert cache_folder() == tmp_path / "there" / "cupel"
    runner = build_runner()
    assert runner.parent == cache_folder()


def test_a_compiler_that_fails_is_quoted_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = tmp_path / "cc"
    failing.write_text("#!/bin/sh\necho 'cannot find -lc' >&2\nexit 1\n")
    failing.chmod(0o755)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("CC", str(failing))
    with pytest.raises(CannotStart, match="cannot find -lc") as refused:
        build_runner()
    assert "libc6-dev" in refused.value.remedy
    assert list((tmp_path / "cache" / "cupel").iterdir()) == []


def test_a_compiler_that_is_not_there_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("CC", "/no/such/compiler")
    with pytest.raises(CannotStart) as refused:
        build_runner()
    assert "/no/such/compiler" in refused.value.reason
    assert "CC" in refused.value.remedy


def test_without_any_compiler_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(CannotStart, match="no C compiler") as refused:
        build_runner()
    assert "apt install gcc" in refused.value.remedy


def test_a_cache_that_cannot_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiler: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))  # no folder can be made in a file
    monkeypatch.setenv("CC", str(compiler))
    with pytest.raises(CannotStart, match=str(tmp_path)) as refused:
        build_runner()
    assert "XDG_CACHE_HOME" in refused.value.remedy
