"""What is accepted, who works on it and what came out: every change is one script in Redis.

Redis does a script whole or not at all, and its append-only file replays it so; hence whatever is
killed between two changes, the ledger says truly how far each submission is, and somebody goes on
from there. Every script may be repeated when its answer was lost. Times are Redis' own.

The keys, below a prefix P; `job` is batch-chunk-attempt, which is also the name of an RQ job:

| key | kind | what |
|---|---|---|
| P:batch:<batch> | hash | key, digest, size, bytes, times; `at:<api>`: its clients waited then |
| P:key:<sha-256> | string | the batch of a client's key, under the key's hash |
| P:open:<batch> | set | indices of the submissions without a judgement |
| P:tickets:<batch> | hash | index -> ticket |
| P:problems:<batch> | hash | digest -> inline problem |
| P:chunks:<batch> | hash | chunk -> {indices, attempt, losses, alone, begun, holder, poison} |
| P:results:<batch> | stream | index -> judgement: the truth, each index once |
| P:batches | zset | batch -> when it is forgotten unless somebody waits for it |
| P:finished | zset | batch -> when its last judgement came |
| P:due | zset | job -> from when on anybody should put it into RQ's queue |
| P:leases | zset | job -> when its worker counts as dead |
| P:stranded | zset | job -> when it was first seen in RQ's intermediate queue |
| P:load | hash | submissions without a judgement, and bytes, of all batches |
| P:worker:<name>, P:workers | string, set | the living workers (roster.py) |
| P:wake:<api> | stream | one entry when an API process must read further streams (reader.py) |
| P:mending | string | which process looks for what is lost, for a moment (takeover.py) |

The attempt is the fencing token: a taken-over chunk has the next one, and whoever holds an older
one is told so at its next delivery or heartbeat. RQ's own keys are rq:queue:P (the waiting jobs),
rq:queue:P:intermediate, and rq:job:<job>. One server: neither RQ nor these scripts know Redis
Cluster.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files

from redis import Redis
from rq.defaults import RQ_KEY_PREFIX

_SCRIPTS = (
    "admit",
    "attach",
    "attend",
    "detach",
    "withdraw",
    "lease",
    "begin",
    "renew",
    "deliver",
    "release",
    "take_over",
    "strand",
    "recover",
    "claim",
    "expire",
)


@dataclass(frozen=True, slots=True)
class Terms:
    """How much is admitted, and how long things are kept.

    Args:
        capacity: Submissions without a judgement, over all batches.
        bytes_max: Bytes of all batches in Redis; one batch may always come in.
        kept_s: A finished batch with a key is kept for so long.
        due_s: After so long anybody may enqueue what the API process has not.
        attached_s: A batch whose API process is silent for so long has no client any more.
        abandoned_s: A batch with a key and without a client is kept for so long.
    """

    capacity: int
    bytes_max: int
    kept_s: float
    due_s: float
    attached_s: float
    abandoned_s: float

    @property
    def patience_ms(self) -> tuple[int, int]:
        """How long a batch lives on: without its API process, and without a client."""
        return _ms(self.attached_s), _ms(self.abandoned_s)


@dataclass(frozen=True, slots=True)
class Entry:
    """A batch as it is admitted.

    Args:
        batch: Its name: hexadecimal digits.
        key: What its client calls it; empty if it does not.
        digest: Of the request.
        tickets: Each submission, as JSON, in the order of the request.
        problems: The inline problems by digest, as JSON.
        chunks: How the submissions are cut, by index.
        result_bytes: About how much the judgements will take.
    """

    batch: str
    key: str
    digest: str
    tickets: Sequence[bytes]
    problems: Mapping[str, bytes]
    chunks: Sequence[Sequence[int]]
    result_bytes: int

    def as_known(self) -> Known:
        """The batch once it is in the ledger."""
        return Known(self.batch, self.digest, len(self.tickets))

    def jobs(self) -> list[str]:
        """The names of its first attempts, in order."""
        return [f"{self.batch}-{chunk}-1" for chunk in range(len(self.chunks))]


@dataclass(frozen=True, slots=True)
class Known:
    """A batch that is in the ledger already, under its client's key."""

    batch: str
    digest: str
    size: int


@dataclass(frozen=True, slots=True)
class Excess:
    """There is no room: so many of `unit` (`submissions` or `bytes`) are in the ledger."""

    used: int
    unit: str


@dataclass(frozen=True, slots=True)
class Lease:
    """A job that is held now.

    Args:
        job: Its name.
        batch: The batch that it is of.
        alone: Nothing else may run in its process.
        poison: It has taken down so many workers that it is not run again.
        tickets: What is to be judged, by index.
    """

    job: str
    batch: str
    alone: bool
    poison: bool
    tickets: Mapping[int, str]


class Ledger:
    """The scripts, as functions. Any of them may raise redis.exceptions.RedisError.

    Args:
        client: A connection that answers text.
        prefix: First part of every key.
    """

    def __init__(self, client: Redis, prefix: str) -> None:
        self.client = client
        self.prefix = prefix
        folder = files(__package__) / "scripts"
        prelude = (folder / "prelude.lua").read_text()
        self._scripts = {
            name: client.register_script(prelude + (folder / f"{name}.lua").read_text())
            for name in _SCRIPTS
        }
        self._keys = [prefix, f"{RQ_KEY_PREFIX}:queue:{prefix}", f"{RQ_KEY_PREFIX}:job:"]

    def key(self, kind: str, name: str) -> str:
        """The key of that kind and name, as the table above has it."""
        return f"{self.prefix}:{kind}:{name}"

    def admit(self, entry: Entry, api: str, terms: Terms) -> Known | Excess | None:
        """Takes a batch whole, attached to an API process, or says why not.

        Its jobs are noted as due in `terms.due_s`, so that they reach RQ's queue also if the API
        process dies before it has put them there.

        Returns:
            None if it was admitted (also by an earlier call), what its key stands for already, or
            what there is too much of.
        """
        problems = [text for pair in entry.problems.items() for text in pair]
        request_bytes = sum(map(len, entry.tickets)) + sum(map(len, entry.problems.values()))
        answer = self._run(
            "admit",
            entry.batch,
            _key_name(entry.key),
            entry.digest,
            api,
            terms.capacity,
            terms.bytes_max,
            request_bytes,
            entry.result_bytes,
            *terms.patience_ms,
            _ms(terms.kept_s) if entry.key else 0,
            _ms(terms.due_s),
            len(entry.tickets),
            len(entry.problems),
            len(entry.chunks),
            *entry.tickets,
            *problems,
            *(json.dumps(list(chunk)) for chunk in entry.chunks),
        )
        match answer:
            case ["known", batch, digest, size]:
                return Known(batch, digest, int(size))
            case ["full", used]:
                return Excess(int(used), "submissions")
            case ["heavy", used]:
                return Excess(int(used), "bytes")
        return None

    def attach(self, key: str, api: str, terms: Terms) -> Known | None:
        """Finds a batch by its client's key, and attaches it to an API process."""
        answer = self._run("attach", _key_name(key), api, *terms.patience_ms)
        if not answer:
            return None
        batch, digest, size = answer
        return Known(batch, digest, int(size))

    def attend(self, api: str, terms: Terms, batches: Iterable[str]) -> list[str]:
        """Says that an API process has clients for batches; returns those that are no more."""
        return self._run("attend", api, *terms.patience_ms, *batches)

    def detach(self, batch: str, api: str, terms: Terms) -> None:
        """Says that an API process has no client for a batch any more.

        Without a client anywhere, a batch without a key is forgotten, with all that waits or runs;
        one with a key is kept for a while.
        """
        self._run("detach", batch, api, *terms.patience_ms)

    def withdraw(self, batch: str) -> list[int]:
        """Finds what of a batch has not started, and drops it if the batch has no key.

        Returns:
            The indices of what has not started.
        """
        return [int(index) for index in self._run("withdraw", batch)]

    def lease(self, job: str, holder: str, lease_s: float) -> Lease | None:
        """Takes a job off RQ's hands. None if somebody else has it, or nothing is left to judge.

        Args:
            job: Its name.
            holder: Who takes it, to be told from any other.
            lease_s: How long its worker may be silent.
        """
        answer = self._run("lease", job, holder, _ms(lease_s))
        if not answer:
            return None
        alone, poison, *tickets = answer
        return Lease(
            job,
            job.partition("-")[0],
            bool(alone),
            bool(poison),
            {int(tickets[at]): tickets[at + 1] for at in range(0, len(tickets), 2)},
        )

    def problem(self, batch: str, digest: str) -> bytes | None:
        """An inline problem of a batch, as JSON."""
        found = self.client.hget(self.key("problems", batch), digest)
        return found.encode() if isinstance(found, str) else found

    def begin(self, job: str) -> bool:
        """Notes that a job which runs alone starts now. Whether it is still held."""
        return bool(self._run_number("begin", job))

    def renew(
        self, worker: str, record: str, record_s: float, lease_s: float, jobs: Iterable[str]
    ) -> list[str]:
        """Says that a worker process lives, with all its jobs; returns those it lost."""
        return self._run("renew", worker, record, _ms(record_s), _ms(lease_s), *jobs)

    def deliver(self, job: str, judgements: Mapping[int, str], *, last: bool) -> bool:
        """Writes judgements (as JSON) down, the first of each submission only.

        Args:
            job: Whose they are.
            judgements: By index.
            last: Nothing more will come of this job, because it is done.

        Returns:
            Whether the job is still held; if not, the rest of it is not worth judging.
        """
        pairs = [each for pair in judgements.items() for each in pair]
        return bool(self._run_number("deliver", job, int(last), *pairs))

    def release(self, job: str) -> str | None:
        """Gives a job back unfinished. The next attempt's name, which is due at once."""
        answer = self._call("release", job)
        return answer if isinstance(answer, str) else None

    def take_over(self, most: int = 50) -> list[str]:
        """Makes jobs due again whose lease ran out. Lines for the log."""
        return self._run("take_over", most)

    def strand(self, after_s: float) -> int:
        """Makes jobs due again that RQ moved `after_s` ago and nobody leased. How many."""
        return self._run_number("strand", _ms(after_s))

    def recover(self) -> int:
        """Makes chunks due again that are nowhere, though nothing waits or runs. How many."""
        return self._run_number("recover")

    def claim(self, claim_s: float, most: int = 200) -> list[str]:
        """Jobs that are due, for the caller to enqueue within `claim_s`."""
        return self._run("claim", _ms(claim_s), most)

    def expire(self, most: int = 20) -> list[str]:
        """Forgets what nobody waits for any more; returns the batches that had work left."""
        return self._run("expire", most)

    def _call(self, script: str, *arguments: str | bytes | int) -> object:
        answer: object = self._scripts[script](keys=self._keys, args=arguments)
        return answer

    def _run(self, script: str, *arguments: str | bytes | int) -> list[str]:
        answer = self._call(script, *arguments)
        return answer if isinstance(answer, list) else []

    def _run_number(self, script: str, *arguments: str | bytes | int) -> int:
        answer = self._call(script, *arguments)
        return answer if isinstance(answer, int) else 0


def _key_name(key: str) -> str:
    # A client's text is no part of a key's name: it may be long, or be meant to clash.
    return hashlib.sha256(key.encode()).hexdigest() if key else ""


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
