"""Grading a file of samples: what is in it, what is judged already, and what came of the rest."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cupel import AsyncClient
from cupel.schema import FailureClass, Info, ProblemSummary
from cupel_trainer.errors import ProblemSetError, RecordsError
from cupel_trainer.evaluate.judging import Completion, Judging, ProblemWork
from cupel_trainer.evaluate.problem_set import ProblemEntry, Registered
from cupel_trainer.evaluate.record_file import Appender, appending, read_at, read_header, read_lines
from cupel_trainer.evaluate.records import (
    JudgedSample,
    Sample,
    SamplesHeader,
    VerdictsHeader,
)
from cupel_trainer.evaluate.registration import Registrar
from cupel_trainer.evaluate.tally import Tally
from cupel_trainer.evaluate.verdict_record import outcome_of

TESTS_DIGITS = 16
"""How much of a problem's digest a verdict carries."""


@dataclass(frozen=True, slots=True)
class SampleAt:
    """A sample in its file.

    Args:
        number: Within its problem.
        key: Digest of its completion.
        offset_bytes: Where it stands.
        completion_tokens: As the engine said.
    """

    number: int
    key: str
    offset_bytes: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Verdicted:
    """A sample that has a verdict already.

    Args:
        offset_bytes: Where its last line stands.
        outcome: What it counts as; infrastructure if its verdict is open.
    """

    offset_bytes: int
    outcome: FailureClass


class Evaluation:
    """The grading of one file of samples into one file of verdicts.

    Args:
        samples: The file of samples.
        entries: The problems that are graded; samples of others are left alone.
        out: The file of verdicts.
        show: Is told of the counts as they change.

    Raises:
        RecordsError: The samples cannot be read.
    """

    def __init__(
        self,
        samples: Path,
        entries: Iterable[ProblemEntry],
        out: Path,
        show: Callable[[Tally], None],
    ) -> None:
        self._samples = samples
        self._out = out
        self._show = show
        self._header = read_header(samples, SamplesHeader)
        found = _read_samples(samples)
        self._entries = {entry.id: entry for entry in entries if entry.id in found}
        self._found = {problem: found[problem] for problem in self._entries}
        if not self._found:
            raise RecordsError(f"{samples} holds no sample of these problems")
        self._digests: dict[str, str] = {}
        self._waiting: dict[tuple[str, str], list[SampleAt]] = {}
        self.tally = Tally(wanted=sum(len(each) for each in self._found.values()))
        self.tally.problems.update(entry.difficulty for entry in self._entries.values())

    async def run(self, client: AsyncClient, cleaner: AsyncClient) -> None:
        """Judges what has no verdict yet, or one that judging errors left open.

        Args:
            client: Speaks with the service.
            cleaner: The same without patience, for tidying up.

        Raises:
            CupelError: The service is away, or refuses; verdicts so far are kept.
            TrainerError: A file belongs to something else, or cannot be read or written.
        """
        info = await client.info()
        summaries = {each.id: each for each in await client.problems.list()}
        self._digests = {
            entry.id: _tests_digest(entry, summaries) for entry in self._entries.values()
        }
        registrar = Registrar(client, cleaner, self._out)
        header = VerdictsHeader(
            checkpoint=self._header.checkpoint,
            setting=self._header.setting,
            sampling=self._header.sampling,
            problem_set=self._header.problem_set,
            service=describe_service(info),
        )
        with appending(self._out, header, ignored=frozenset({"service"})) as file:
            await registrar.remove_left(summaries)
            work = self._plan(file)
            judging = Judging(
                client,
                registrar,
                summaries,
                read=self._read_completions,
                emit=lambda of, completion, record: self._note(file, of, completion, record),
                slots=info.slots,
            )
            await judging.judge(work)

    def _plan(self, file: Appender) -> list[ProblemWork]:
        """What is to be judged; a completion that was judged before needs only its line."""
        held = self._read_verdicts()
        work = []
        for problem, samples in self._found.items():
            entry = self._entries[problem]
            judged: dict[str, int] = {}
            missing: dict[str, list[SampleAt]] = defaultdict(list)
            for each in samples:
                verdict = held.get((problem, each.number))
                if verdict is None or verdict.outcome is FailureClass.INFRASTRUCTURE:
                    missing[each.key].append(each)
                else:
                    judged[each.key] = verdict.offset_bytes
                    self.tally.counts[entry.difficulty, verdict.outcome] += 1
            for key in judged.keys() & missing.keys():
                (record,) = read_at(self._out, JudgedSample, [judged[key]])
                self._write(file, entry, missing.pop(key), record)
            if missing:
                completions = tuple(
                    Completion(key, group[0].offset_bytes) for key, group in missing.items()
                )
                language = entry.language or self._header.sampling.language
                work.append(ProblemWork(entry, language, completions))
                self._waiting |= {(problem, key): group for key, group in missing.items()}
        self._show(self.tally)
        return work

    def _note(
        self, file: Appender, work: ProblemWork, completion: Completion, record: JudgedSample
    ) -> None:
        group = self._waiting.pop((work.entry.id, completion.key))
        self._write(file, work.entry, group, record)
        self._show(self.tally)

    def _write(
        self,
        file: Appender,
        entry: ProblemEntry,
        samples: Sequence[SampleAt],
        record: JudgedSample,
    ) -> None:
        """Gives the verdict of one completion to each sample that has it."""
        file.append(
            record.model_copy(
                update={
                    "sample": each.number,
                    "completion_tokens": each.completion_tokens,
                    "difficulty": entry.difficulty,
                    "date": entry.date,
                    "tests": self._digests[entry.id],
                }
            )
            for each in samples
        )
        self.tally.counts[entry.difficulty, outcome_of(record)] += len(samples)

    def _read_completions(self, offsets_bytes: Sequence[int]) -> list[str]:
        return [each.completion for each in read_at(self._samples, Sample, offsets_bytes)]

    def _read_verdicts(self) -> dict[tuple[str, int], Verdicted]:
        """The verdicts that are there; of several for one sample the last holds."""
        held = {}
        for line in read_lines(self._out, JudgedSample):
            record = line.record
            digest = self._digests.get(record.problem, record.tests)
            if record.tests != digest:
                raise RecordsError(
                    f"{self._out}, line {line.number}: problem {record.problem!r} was judged by "
                    "other tests than it has now; choose another file for the new verdicts"
                )
            held[record.problem, record.sample] = Verdicted(line.offset_bytes, outcome_of(record))
        return held


def describe_service(info: Info) -> str:
    """What verdicts depend on: the service's version, boxes, and toolchains."""
    boxes = " ".join(filter(None, (info.box, info.runtime, info.image)))
    parts = [f"cupel {info.version}", f"{boxes} boxes", f"cgroup {info.cgroup}"]
    parts += [each.version for each in info.toolchains if each.available and each.version]
    if info.degraded:
        parts.append(f"without {', '.join(info.degraded)}")
    return "; ".join(parts)


def _read_samples(path: Path) -> dict[str, list[SampleAt]]:
    found: dict[str, list[SampleAt]] = defaultdict(list)
    for line in read_lines(path, Sample):
        sample = line.record
        key = hashlib.sha256(sample.completion.encode()).hexdigest()[:32]
        found[sample.problem].append(
            SampleAt(sample.sample, key, line.offset_bytes, sample.completion_tokens)
        )
    if not found:
        raise RecordsError(f"{path} holds no sample yet; `cupel sample` draws them")
    return found


def _tests_digest(entry: ProblemEntry, summaries: Mapping[str, ProblemSummary]) -> str:
    if not isinstance(entry.tests, Registered):
        return entry.digest[:TESTS_DIGITS]
    summary = summaries.get(entry.tests.problem_id)
    if summary is None:
        raise ProblemSetError(
            f"problem {entry.tests.problem_id!r} is not registered at the service: `cupel "
            "problems add`, or name with --problems a set that holds its tests"
        )
    return summary.digest[:TESTS_DIGITS]
