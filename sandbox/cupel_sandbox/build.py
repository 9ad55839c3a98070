"""Gets the runner: prebuilt in the wheel, or compiled from source and cached by its hash."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from cupel_sandbox.errors import CannotStart

FLAGS = (
    "-std=c17",
    "-D_GNU_SOURCE",
    "-O2",
    "-static",
    "-Wall",
    "-Wextra",
    "-Wconversion",
    "-fstack-protector-strong",
    "-D_FORTIFY_SOURCE=2",
)
"""How the runner is compiled. It is static because it must not depend on what a box shows."""

_PREBUILT = Path(__file__).with_name("bin") / "cupel-runner"
_SOURCES = (
    Path(__file__).with_name("runner"),  # in a wheel
    Path(__file__).parent.parent / "runner",  # in a checkout
)


def runner_sources() -> Path:
    """The folder with the runner's C sources.

    Raises:
        CannotStart: The installation is incomplete.
    """
    for folder in _SOURCES:
        if (folder / "runner.c").exists():
            return folder
    raise CannotStart("the runner's sources are missing", "Install cupel again.")


def cache_folder() -> Path:
    """Where the compiled runner is kept: `$XDG_CACHE_HOME/cupel`, by default `~/.cache/cupel`."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path("~/.cache").expanduser())
    return Path(base) / "cupel"


def build_runner() -> Path:
    """Returns the path of a runner that fits these sources, compiling it if need be.

    Raises:
        CannotStart: There is no C compiler, it failed, or the cache cannot be written.
    """
    if _PREBUILT.exists():
        return _PREBUILT
    folder = runner_sources()
    files = sorted(folder.glob("*.[ch]"))
    digest = hashlib.sha256(" ".join(FLAGS).encode())
    for file in files:
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    target = cache_folder() / f"cupel-runner-{digest.hexdigest()[:16]}"
    if target.exists():
        return target
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
    if not compiler:
        raise CannotStart(
            "the sandbox's runner must be compiled once, and there is no C compiler",
            "Install one (apt install gcc libc6-dev), or set CC to its path.",
        )
    _compile(compiler, [file for file in files if file.suffix == ".c"], target)
    return target


def _compile(compiler: str, sources: list[Path], target: Path) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".build-") as folder:
            output = Path(folder) / "runner"
            command = [*compiler.split(), *FLAGS, "-o", str(output), *map(str, sources)]
            done = _run_compiler(command)
            if done.returncode:
                raise CannotStart(
                    f"the C compiler could not build the runner: {done.stderr.strip()[-2000:]}",
                    "Install the C library's headers and static library (apt install libc6-dev).",
                )
            with output.open("rb") as written:
                os.fsync(written.fileno())
            output.replace(target)
    except OSError as error:
        raise CannotStart(
            f"the runner cannot be built in {target.parent}: {error.strerror}",
            "Make that folder writable, or set XDG_CACHE_HOME to one that is.",
        ) from error


def _run_compiler(command: list[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise CannotStart(
            f"the C compiler {command[0]} cannot be run: {error.strerror}",
            "Set CC to one that can, or unset it.",
        ) from error
