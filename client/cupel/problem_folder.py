"""Problems as folders: how they are written down, kept in git, and loaded.

two-sum/
├── problem.toml        title, tier_fractions, [limits], [checker]: the schema's own keys; and
│                       public = ["1/small"], the tests that may be shown
├── statement.md        what a model or a person is told; may be absent
└── tests/
    ├── 1/small.in      tier 1, the smallest; `small.in` is the input,
    ├── 1/small.ans     `small.ans` the expected output
    └── 2/large.in …    or tests/small.in without tiers, which are then cut by input size
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

from pydantic import Field, TypeAdapter, ValidationError

from cupel.errors import ProblemFolderError
from cupel.schema import (
    Checker,
    Identifier,
    Limits,
    Problem,
    Request,
    Testcase,
    TokensChecker,
    encode_data,
)

SETTINGS_NAME = "problem.toml"
STATEMENT_NAME = "statement.md"
TESTS_NAME = "tests"

_identifier: TypeAdapter[str] = TypeAdapter(Identifier)


class _ProblemSettings(Request):
    """The content of problem.toml."""

    title: str = ""
    limits: Limits = Limits()
    checker: Checker = TokensChecker()
    tier_fractions: tuple[float, ...] | None = Field(None, min_length=1)
    public: tuple[str, ...] = Field((), description="Names of tests that may be shown.")


def problem_id(path: Path) -> str:
    """The id under which a folder's problem is registered: the folder's name.

    Args:
        path: The folder.

    Raises:
        ProblemFolderError: The name is not a valid id.
    """
    name = path.resolve().name
    try:
        return _identifier.validate_python(name)
    except ValidationError as error:
        raise ProblemFolderError(
            path,
            f"the folder's name {name!r} is the problem's id: rename it to letters, digits, "
            "'.', '_' and '-', beginning with a letter or digit",
        ) from error


def load_problem(path: Path) -> Problem:
    """Reads a problem from its folder.

    Args:
        path: The folder, which holds problem.toml and tests/.

    Returns:
        The problem; test data that is not UTF-8 is held as base64.

    Raises:
        ProblemFolderError: Something is missing, unknown or not valid; names the file.
    """
    if not path.is_dir():
        raise ProblemFolderError(path, "no such folder")
    settings = _load_settings(path / SETTINGS_NAME)
    fields: dict[str, object] = {
        "title": settings.title,
        "limits": settings.limits,
        "checker": settings.checker,
        "statement": _load_statement(path / STATEMENT_NAME),
        "tests": _marked(_load_tests(path / TESTS_NAME), settings.public, path / SETTINGS_NAME),
    }
    if settings.tier_fractions is not None:
        fields["tier_fractions"] = settings.tier_fractions
    try:
        return Problem.model_validate(fields)
    except ValidationError as error:
        raise ProblemFolderError(path, _faults(error)) from error


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise ProblemFolderError(path, "missing") from error
    except OSError as error:
        raise ProblemFolderError(path, f"cannot be read: {error.strerror}") from error


def _load_settings(path: Path) -> _ProblemSettings:
    try:
        document = tomllib.loads(_read_bytes(path).decode("utf-8"))
        return _ProblemSettings.model_validate(document)
    except UnicodeDecodeError as error:
        raise ProblemFolderError(path, "not UTF-8 text") from error
    except tomllib.TOMLDecodeError as error:
        raise ProblemFolderError(path, f"not valid TOML: {error}") from error
    except ValidationError as error:
        raise ProblemFolderError(path, _faults(error)) from error


def _load_statement(path: Path) -> str:
    if not path.exists():
        return ""
    try:
        return _read_bytes(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise ProblemFolderError(path, "not UTF-8 text") from error


def _load_tests(path: Path) -> tuple[Testcase, ...]:
    if not path.is_dir():
        raise ProblemFolderError(path, "no such folder: put tests there, NAME.in and NAME.ans")
    entries = _entries(path)
    folders = [entry for entry in entries if entry.is_dir()]
    if folders and len(folders) != len(entries):
        stray = next(entry for entry in entries if not entry.is_dir())
        raise ProblemFolderError(stray, "a file beside tiers: move it into the folder of its tier")
    tests: list[Testcase] = []
    if folders:
        for folder in folders:
            tier = _tier(folder)
            tests += _load_tier(folder, tier, f"{tier}/")
    else:
        tests += _load_tier(path, None, "")
    if not tests:
        raise ProblemFolderError(path, "holds no tests: each is a pair NAME.in and NAME.ans")
    return tuple(tests)


def _marked(
    tests: tuple[Testcase, ...], public: tuple[str, ...], path: Path
) -> tuple[Testcase, ...]:
    """The same tests, those of some names public."""
    unknown = set(public) - {test.name for test in tests}
    if unknown:
        raise ProblemFolderError(path, f"public: no test is called {sorted(unknown)[0]!r}")
    return tuple(
        test.model_copy(update={"public": True}) if test.name in public else test for test in tests
    )


def _tier(folder: Path) -> int:
    if not re.fullmatch(r"[1-9][0-9]{0,2}", folder.name):
        raise ProblemFolderError(folder, "not a tier: folders in tests/ are named 1, 2, ...")
    return int(folder.name)


def _load_tier(folder: Path, tier: int | None, prefix: str) -> Iterator[Testcase]:
    for entry in _entries(folder):
        if entry.is_dir() or entry.suffix not in (".in", ".ans"):
            raise ProblemFolderError(entry, "neither NAME.in nor NAME.ans: move or rename it")
        other = entry.with_suffix(".in" if entry.suffix == ".ans" else ".ans")
        if not other.exists():
            raise ProblemFolderError(other, f"missing: {entry.name} needs it")
        if entry.suffix != ".in":
            continue
        try:
            yield Testcase(
                name=prefix + entry.stem,
                input=encode_data(_read_bytes(entry)),
                output=encode_data(_read_bytes(other)),
                tier=tier,
            )
        except ValidationError as error:
            raise ProblemFolderError(entry, _faults(error)) from error


def _entries(folder: Path) -> list[Path]:
    """What a folder holds, 2 before 10, without hidden files such as editors leave."""
    try:
        entries = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    except OSError as error:
        raise ProblemFolderError(folder, f"cannot be read: {error.strerror}") from error
    return sorted(entries, key=lambda entry: (_natural(entry.stem), entry.name))


def _natural(name: str) -> tuple[tuple[bool, int, str], ...]:
    parts = [(part, part[0] in "0123456789") for part in re.findall(r"[0-9]+|[^0-9]+", name)]
    return tuple((not digits, int(part) if digits else 0, part) for part, digits in parts)


def _faults(error: ValidationError) -> str:
    """One line from a schema's refusal, with `unknown key` where it says `extra`."""
    lines = []
    for fault in error.errors(include_input=False, include_url=False):
        place = ".".join(str(part) for part in fault["loc"])
        text = "unknown key" if fault["type"] == "extra_forbidden" else fault["msg"]
        lines.append(f"{place}: {text}" if place else text)
    return "; ".join(lines)
