"""Judgements on their way from Redis to the clients of an API process, in one thread.

The thread reads the result streams of all batches that a client of this process waits for, and one
more, by which it is told that there is a further batch. Where it had to stop reading it goes on, so
an outage of Redis only delays; a batch with a new client is read from its start again, and who had
its judgements before ignores them.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Condition, Event, Thread

from pydantic import ValidationError
from redis import Redis
from redis.exceptions import RedisError
from redis.typing import KeyT, StreamIdT

from cupel.schema import Judgement
from cupel_service.queue.contract import Finished, QueueUnreachable
from cupel_service.queue.ledger import Ledger
from cupel_service.queue.local_batch import View

_log = logging.getLogger(__name__)

BLOCK_S = 2.0
_RETRY_S = 0.5
_OUTAGE_S = 60.0
_ENTRIES_MAX = 200
_START = "0-0"


@dataclass(eq=False, slots=True)
class Client:
    """One client of a batch.

    Args:
        view: What it reads.
        lacking: Indices that it has no judgement of, and will have one.
    """

    view: View
    lacking: set[int]


@dataclass(slots=True)
class _Stream:
    clients: list[Client] = field(default_factory=list)
    last: str = _START
    reset: int = 0  # counts the times that it was begun anew


class ResultReader:
    """Reads results for all clients of this process.

    Args:
        client: A connection that answers text, whose commands may take longer than BLOCK_S.
        ledger: Names the streams.
        wake: The stream that tells of further batches.
        served: Called with a batch whose last client has all it waited for.
    """

    def __init__(
        self, client: Redis, ledger: Ledger, wake: str, served: Callable[[str], None]
    ) -> None:
        self._client = client
        self._ledger = ledger
        self._wake = wake
        self._served = served
        self._changed = Condition()
        self._streams: dict[str, _Stream] = {}
        self._holds: Counter[str] = Counter()
        self._woken = _START
        self._ended = Event()
        self._thread = Thread(target=self._run, name="results", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def end(self) -> None:
        """Tells the thread to end when it is woken, or in BLOCK_S."""
        self._ended.set()

    def join(self) -> None:
        """Waits for the thread's end."""
        self._thread.join()

    def hold(self, batch: str) -> None:
        """Says that a client is about to be added, so that the batch is not detached meanwhile."""
        with self._changed:
            self._holds[batch] += 1

    def let_go(self, batch: str) -> None:
        """Takes a `hold` back."""
        with self._changed:
            self._holds[batch] -= 1
            if not self._holds[batch]:
                del self._holds[batch]

    def add(self, batch: str, client: Client) -> None:
        """Delivers a batch's judgements to a client, from the first one on."""
        with self._changed:
            stream = self._streams.setdefault(batch, _Stream())
            stream.clients.append(client)
            stream.last = _START
            stream.reset += 1

    def remove(self, batch: str, client: Client) -> None:
        """Delivers nothing more to a client."""
        with self._changed:
            stream = self._streams.get(batch)
            if stream is not None and client in stream.clients:
                stream.clients.remove(client)
                self._tidy(batch)

    def batches(self) -> list[str]:
        """The batches that clients wait for."""
        with self._changed:
            return list(self._streams)

    def lacking(self) -> int:
        """How many judgements clients wait for."""
        with self._changed:
            return sum(
                max(len(client.lacking) for client in stream.clients)
                for stream in self._streams.values()
            )

    def is_wanted(self, batch: str) -> bool:
        """Whether a client waits for a batch, or is about to."""
        with self._changed:
            return batch in self._streams or self._holds[batch] > 0

    def drop(self, batch: str, indices: Iterable[int] | None = None) -> None:
        """Tells a batch's clients that judgements (by default all that they lack) never come."""
        with self._changed:
            for client in list(self._clients_of(batch)):
                gone = client.lacking if indices is None else client.lacking & set(indices)
                client.lacking = client.lacking - gone
                client.view.drop(len(gone))
                self._part_from_served(batch, client)

    def fail(self, batch: str, error: QueueUnreachable) -> None:
        """Tells a batch's clients why nothing more comes."""
        with self._changed:
            for client in list(self._clients_of(batch)):
                client.lacking = set()
                client.view.fail(error)
                self._part_from_served(batch, client)

    def wait_until_idle(self, seconds: float) -> bool:
        """Waits until no client waits; whether that was so in time."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._streams, seconds)

    def _clients_of(self, batch: str) -> Sequence[Client]:
        stream = self._streams.get(batch)
        return stream.clients if stream is not None else ()

    def _part_from_served(self, batch: str, client: Client) -> None:
        if not client.lacking:
            self._streams[batch].clients.remove(client)
            self._tidy(batch)

    def _tidy(self, batch: str) -> None:
        if not self._streams[batch].clients:
            del self._streams[batch]
            self._changed.notify_all()
            self._served(batch)

    def _run(self) -> None:
        failing_since: float | None = None
        while not self._ended.is_set():
            try:
                self._read()
                failing_since = None
            except RedisError as error:
                now = time.monotonic()
                if failing_since is None:
                    _log.warning("queue: results wait for Redis (%s)", type(error).__name__)
                    failing_since = now
                if now - failing_since > _OUTAGE_S:
                    self._give_up()
                self._ended.wait(_RETRY_S)

    def _give_up(self) -> None:
        for batch in self.batches():
            self.fail(
                batch,
                QueueUnreachable("Redis has not answered for a minute: ask again for the rest"),
            )

    def _read(self) -> None:
        with self._changed:
            begun = {batch: stream.reset for batch, stream in self._streams.items()}
            names = {self._ledger.key("results", batch): batch for batch in begun}
            streams: dict[KeyT, StreamIdT] = {self._wake: self._woken}
            streams |= {name: self._streams[batch].last for name, batch in names.items()}
        answer = self._client.xread(streams, count=_ENTRIES_MAX, block=round(BLOCK_S * 1000))
        for name, entries in _listed(answer):
            if name == self._wake:
                self._woken = entries[-1][0]
            else:
                batch = names[name]
                self._hand_over(batch, entries, begun[batch])

    def _hand_over(
        self, batch: str, entries: Sequence[tuple[str, Mapping[str, str]]], begun: int
    ) -> None:
        with self._changed:
            wanted = set[int]().union(*(client.lacking for client in self._clients_of(batch)))
        texts = {int(index): text for _, fields in entries for index, text in fields.items()}
        try:
            found = [
                Finished(index, Judgement.model_validate_json(text))
                for index, text in texts.items()
                if index in wanted
            ]
        except ValidationError:
            _log.error("queue: a judgement of batch %s is not readable", batch)
            self.fail(batch, QueueUnreachable("workers run another version of Cupel", 60))
            return
        with self._changed:
            stream = self._streams.get(batch)
            if stream is None:
                return
            if stream.reset == begun:
                stream.last = entries[-1][0]
            for client in list(stream.clients):
                news = [finished for finished in found if finished.index in client.lacking]
                client.lacking.difference_update(finished.index for finished in news)
                client.view.deliver(news)
                self._part_from_served(batch, client)


def _listed(answer: object) -> list[tuple[str, list[tuple[str, Mapping[str, str]]]]]:
    return answer if isinstance(answer, list) else []
