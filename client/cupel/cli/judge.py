"""`cupel judge`: programs in files, judged by a service or by an embedded one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from cupel._client import Client
from cupel._requests import to_submission
from cupel.cli.report import errors_reported, exit_code, fail, show_judgement
from cupel.embedded import embedded_service
from cupel.errors import InvalidRequest, ProblemFolderError
from cupel.problem_folder import load_problem
from cupel.schema import Language, Problem, Stop

LANGUAGES = {
    ".c": Language.C,
    ".cc": Language.CPP,
    ".cpp": Language.CPP,
    ".cxx": Language.CPP,
    ".py": Language.PYTHON,
}


def judge(
    files: Annotated[list[Path], typer.Argument(help="Programs, such as solution.cpp.")],
    problem: Annotated[str, typer.Option(help="A problem's folder, or a registered problem's id.")],
    language: Annotated[
        Language | None, typer.Option(help="Of all files; by default from each name's ending.")
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(envvar="CUPEL_URL", help="The service; without one, a temporary one is run."),
    ] = None,
    stop: Annotated[Stop, typer.Option(help="When judging a program ends.")] = Stop.FIRST_FAILURE,
    coverage: Annotated[
        int | None, typer.Option(min=1, help="Judge tiers 1..coverage only; default all.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print each judgement as one line of JSON, only.")
    ] = False,
) -> None:
    """Judges programs: exit code 0 if all are accepted, 1 if one failed, 2 on any other trouble."""
    with errors_reported():
        target = _target(problem, url)
        submissions = [
            to_submission(
                None,
                {
                    "problem": target,
                    "source": _read_source(file),
                    "language": language or _language_of(file),
                    "stop": stop,
                    "coverage": coverage,
                },
            )
            for file in files
        ]
        with _client(url) as client:
            judgements = client.judge_all(submissions)
    for file, judgement in zip(files, judgements, strict=True):
        if as_json:
            typer.echo(judgement.model_copy(update={"id": str(file)}).model_dump_json())
        else:
            show_judgement(str(file), judgement)
    raise typer.Exit(exit_code(judgements))


@contextmanager
def _client(url: str | None) -> Iterator[Client]:
    if url:
        with Client(url, patience_s=1.0) as client:
            yield client
        return
    with embedded_service() as own_url, Client(own_url, api_key="") as client:
        yield client


def _target(problem: str, url: str | None) -> str | Problem:
    """A folder's problem goes with the submissions; an id needs the service that knows it."""
    folder = Path(problem)
    if folder.is_dir():
        return load_problem(folder)
    if "/" in problem or problem.startswith("."):
        raise ProblemFolderError(folder, "no such folder")
    if not url:
        fail(
            f"there is no folder {problem!r} here; if it is the id of a registered problem, say "
            "which service knows it: --url http://HOST:PORT, or set CUPEL_URL"
        )
    return problem


def _read_source(file: Path) -> str:
    try:
        return file.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"{file}: not UTF-8 text") from error
    except OSError as error:
        raise InvalidRequest(f"{file}: {error.strerror}") from error


def _language_of(file: Path) -> Language:
    language = LANGUAGES.get(file.suffix)
    if language is None:
        known: Sequence[str] = sorted(LANGUAGES)
        raise InvalidRequest(
            f"{file}: no language has the ending {file.suffix!r} (known: {', '.join(known)}); "
            "say it with --language"
        )
    return language
