"""Problem sets: what is sampled from, and where the hidden tests of each problem are.

A set is a JSON Lines file, a folder of problem folders, or what is registered at a service. Its
hidden tests may be larger than the memory: reading a set keeps none of them, and `load_tests`
fetches those of one problem when it is judged.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Self

from pydantic import Field, ValidationError, field_validator, model_validator

from cupel import Client, CupelError, load_problem, problem_id
from cupel.schema import Identifier, Language, Limits, Problem
from cupel_trainer.episodes.prompt import Example, ProblemView, view_of, view_of_problem
from cupel_trainer.errors import ProblemSetError
from cupel_trainer.evaluate.record_file import first_fault
from cupel_trainer.evaluate.records import Record
from cupel_trainer.evaluate.releases import parse_release

SERVICE = "service"
"""What a set is called that is registered at a service; `service:a,b` is part of it."""


class ProblemRow(Record):
    """One line of a problem set."""

    id: Identifier = Field(description="Unique within the set.")
    title: str = ""
    statement: str = Field("", description="By default that of the problem inline or in a folder.")
    starter_code: str = ""
    language: Language | None = Field(None, description="The only one that is judged, if given.")
    difficulty: str = ""
    date: str = Field("", description="When it was published, as YYYY-MM-DD.")
    release: str = Field("", description="The slice that added it, such as `v4` of LiveCodeBench.")
    tags: tuple[str, ...] = ()
    problem: Identifier | Problem | None = Field(
        None, description="With its tests, or the id of a registered one; by default `id`."
    )
    folder: str | None = Field(
        None, description="A problem's folder in place of `problem`, relative to the file."
    )

    @field_validator("date")
    @classmethod
    def _is_a_day(cls, value: str) -> str:
        if value and not re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", value):
            raise ValueError("not a date of the form YYYY-MM-DD")
        if value:
            date.fromisoformat(value)
        return value

    @model_validator(mode="after")
    def _one_home(self) -> Self:
        if self.problem is not None and self.folder is not None:
            raise ValueError("give `problem` or `folder`, not both")
        return self


@dataclass(frozen=True, slots=True)
class Inline:
    """Tests in a line of a file, from this byte on."""

    path: Path
    offset_bytes: int


@dataclass(frozen=True, slots=True)
class InFolder:
    """Tests in a problem's folder."""

    path: Path


@dataclass(frozen=True, slots=True)
class Registered:
    """Tests at the service, under this id."""

    problem_id: str


@dataclass(frozen=True, slots=True)
class ProblemEntry:
    """One problem of a set, without its tests.

    Args:
        id: Its name within the set.
        title: For people.
        statement: What the policy is asked.
        starter_code: Code that the program must begin with; empty if there is none.
        language: The only language that is judged, if the set says one.
        difficulty: As the set says.
        date: When it was published, as YYYY-MM-DD; empty if unknown.
        release: The slice of a benchmark that added it; empty if unknown.
        tags: As the set says.
        tests: Where its tests are.
        digest: SHA-256 of the problem with its tests; empty for a registered one.
        examples: Its public tests; of a problem that a file names by its id, none.
        limits: Those of a test; None for a problem that a file names by its id.
    """

    id: str
    title: str
    statement: str
    starter_code: str
    language: Language | None
    difficulty: str
    date: str
    release: str
    tags: tuple[str, ...]
    tests: Inline | InFolder | Registered
    digest: str
    examples: tuple[Example, ...] = ()
    limits: Limits | None = None

    @property
    def view(self) -> ProblemView:
        """What a policy may see of it."""
        return ProblemView(
            id=self.id,
            title=self.title,
            statement=self.statement,
            starter_code=self.starter_code,
            language=self.language,
            examples=self.examples,
            limits=self.limits,
        )


@dataclass(frozen=True, slots=True)
class Selection:
    """Which problems of a set are wanted.

    Args:
        since: Published on this day or later.
        until: Published on this day or earlier.
        difficulties: One of these; any, if there are none.
        release: Of this release or these slices of LiveCodeBench; see `releases`.
        limit: The first so many of those that remain.
    """

    since: date | None = None
    until: date | None = None
    difficulties: tuple[str, ...] = ()
    release: str = ""
    limit: int | None = None


def read_problem_set(source: str, url: str | None = None) -> tuple[ProblemEntry, ...]:
    """Reads a problem set.

    Args:
        source: A JSON Lines file, a folder of problem folders, `service`, or `service:id,id`.
        url: The service, for the last two.

    Returns:
        The problems in the order of the file, or of their ids.

    Raises:
        ProblemSetError: The set cannot be read, or a problem is not valid; names line and reason.
        CupelError: The service cannot be asked.
    """
    if is_at_service(source):
        return _registered(source, url)
    path = Path(source)
    if path.is_dir():
        entries = _read_folder(path)
    elif path.is_file():
        entries = _read_file(path)
    else:
        raise ProblemSetError(
            f"{source}: no such file or folder; a problem set is a JSON Lines file, a folder of "
            f"problem folders, or `{SERVICE}` for what is registered"
        )
    found = tuple(entries)
    if not found:
        raise ProblemSetError(f"{source} holds no problem")
    return found


def is_at_service(source: str) -> bool:
    """Whether a set of this name is what a service has registered."""
    return source == SERVICE or source.startswith(f"{SERVICE}:")


def select(entries: Iterable[ProblemEntry], selection: Selection) -> tuple[ProblemEntry, ...]:
    """The wanted problems of a set, in its order.

    Raises:
        ProblemSetError: None is left, or a problem lacks the date or difficulty that decides.
    """
    chosen = tuple(entry for entry in entries if _is_wanted(entry, selection))[: selection.limit]
    if not chosen:
        raise ProblemSetError("no problem of the set is left by these filters")
    return chosen


def set_digest(entries: Iterable[ProblemEntry]) -> str:
    """SHA-256 of what is sampled from: ids, statements, languages, but not the hidden tests."""
    document = sorted(
        [each.id, each.title, each.statement, each.starter_code, each.language or ""]
        for each in entries
    )
    text = json.dumps(document, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def load_tests(entry: ProblemEntry) -> Problem | str:
    """A problem with its hidden tests, or the id under which a service has it.

    Raises:
        ProblemSetError: It has changed since the set was read, or cannot be read.
    """
    match entry.tests:
        case Registered(problem_id=registered):
            return registered
        case InFolder(path=path):
            problem = _load_folder(path, str(path))
        case Inline(path=path, offset_bytes=offset_bytes):
            problem = _inline_problem(path, offset_bytes)
    if problem_digest(problem) != entry.digest:
        raise ProblemSetError(f"problem {entry.id!r} was changed while it was in use: start again")
    return problem


def problem_digest(problem: Problem) -> str:
    """SHA-256 of a problem with its tests."""
    return hashlib.sha256(problem.model_dump_json().encode()).hexdigest()


def _read_file(path: Path) -> Iterator[ProblemEntry]:
    lines: dict[str, int] = {}
    offset_bytes = 0
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    entry = _entry(path, number, offset_bytes, line)
                    if entry.id in lines:
                        raise ProblemSetError(
                            f"{path}, line {number}: the id {entry.id!r} is that of line "
                            f"{lines[entry.id]}, too"
                        )
                    lines[entry.id] = number
                    yield entry
                offset_bytes += len(line)
    except OSError as error:
        raise ProblemSetError(f"{path} cannot be read: {error.strerror}") from error


def _entry(path: Path, number: int, offset_bytes: int, line: bytes) -> ProblemEntry:
    where = f"{path}, line {number}"
    try:
        row = ProblemRow.model_validate_json(line)
    except ValidationError as error:
        raise ProblemSetError(f"{where}: {first_fault(error)}") from error
    if row.folder is not None:
        folder = path.parent / row.folder
        return _with_tests(row, _load_folder(folder, where), InFolder(folder))
    if isinstance(row.problem, Problem):
        return _with_tests(row, row.problem, Inline(path, offset_bytes))
    return _of_row(row, Registered(row.problem or row.id), "")


def _with_tests(row: ProblemRow, problem: Problem, tests: Inline | InFolder) -> ProblemEntry:
    filled = row.model_copy(
        update={
            "title": row.title or problem.title,
            "statement": row.statement or problem.statement,
        }
    )
    return _of_row(filled, tests, problem_digest(problem), view_of_problem(row.id, problem))


def _of_row(
    row: ProblemRow,
    tests: Inline | InFolder | Registered,
    digest: str,
    view: ProblemView | None = None,
) -> ProblemEntry:
    return ProblemEntry(
        id=row.id,
        title=row.title,
        statement=row.statement,
        starter_code=row.starter_code,
        language=row.language,
        difficulty=row.difficulty,
        date=row.date,
        release=row.release,
        tags=row.tags,
        tests=tests,
        digest=digest,
        examples=view.examples if view else (),
        limits=view.limits if view else None,
    )


def _inline_problem(path: Path, offset_bytes: int) -> Problem:
    try:
        with path.open("rb") as file:
            file.seek(offset_bytes)
            problem = ProblemRow.model_validate_json(file.readline()).problem
    except (OSError, ValidationError) as error:
        raise ProblemSetError(f"{path} was changed while it was in use: start again") from error
    if not isinstance(problem, Problem):
        raise ProblemSetError(f"{path} was changed while it was in use: start again")
    return problem


def _read_folder(path: Path) -> Iterator[ProblemEntry]:
    """Problem folders within a folder; those without a problem.toml are something else."""
    for folder in sorted(path.iterdir()):
        if not (folder / "problem.toml").is_file():
            continue
        try:
            row = ProblemRow(id=problem_id(folder))
        except CupelError as error:
            raise ProblemSetError(str(error)) from error
        yield _with_tests(row, _load_folder(folder, str(path)), InFolder(folder))


def _load_folder(folder: Path, where: str) -> Problem:
    try:
        return load_problem(folder)
    except CupelError as error:
        raise ProblemSetError(f"{where}: {error}") from error


def _registered(source: str, url: str | None) -> tuple[ProblemEntry, ...]:
    wanted = [name for name in source.removeprefix(SERVICE).removeprefix(":").split(",") if name]
    if len(set(wanted)) != len(wanted):
        raise ProblemSetError(f"{source}: a problem is named twice")
    with Client(url, patience_s=1.0) as client:
        known = {problem.id: problem for problem in client.problems.list()}
    if lacking := [name for name in wanted if name not in known]:
        raise ProblemSetError(f"no problem {lacking[0]!r} is registered at the service")
    if not known:
        raise ProblemSetError("no problem is registered at the service: `cupel problems add`")
    return tuple(
        _of_row(
            ProblemRow(id=name, title=known[name].title, statement=known[name].statement),
            Registered(name),
            "",
            view_of(known[name]),
        )
        for name in wanted or sorted(known)
    )


def _is_wanted(entry: ProblemEntry, selection: Selection) -> bool:
    published = date.fromisoformat(entry.date) if entry.date else None
    if selection.since or selection.until:
        if published is None:
            raise ProblemSetError(
                f"problem {entry.id!r} has no date, so --since and --until cannot tell: give "
                "`date` in the problem set"
            )
        if not (selection.since or published) <= published <= (selection.until or published):
            return False
    if selection.difficulties:
        if not entry.difficulty:
            raise ProblemSetError(
                f"problem {entry.id!r} has no difficulty, so --difficulty cannot tell: give "
                "`difficulty` in the problem set"
            )
        if entry.difficulty not in selection.difficulties:
            return False
    if selection.release:
        held = parse_release(selection.release).holds(entry.release, published)
        if held is None:
            raise ProblemSetError(
                f"problem {entry.id!r} has neither date nor release, so --release cannot tell: "
                "give `date` in the problem set"
            )
        return held
    return True
