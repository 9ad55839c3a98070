"""Who works in a cluster: each worker process writes a record that outlives it by seconds only."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass

from cupel_service.queue.ledger import Ledger

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WorkerRecord:
    """A worker process, as the rest of the cluster knows it.

    Args:
        name: Its name; no two have the same.
        slots: How many submissions it judges at one time.
        pace_s: About how long judging one took lately; 0 if it has not judged any.
        info: What it runs on, as the JSON of `cupel.schema.Info`; empty if it does not say.
    """

    name: str
    slots: int
    pace_s: float
    info: str

    def to_json(self) -> str:
        """The record as it is written."""
        return json.dumps(
            {"name": self.name, "slots": self.slots, "pace_s": self.pace_s, "info": self.info}
        )


def live_workers(ledger: Ledger) -> list[WorkerRecord]:
    """The workers that were alive a few seconds ago, by name. Blocks for a round trip or two.

    Raises:
        redis.exceptions.RedisError: Redis does not answer.
    """
    workers = f"{ledger.prefix}:workers"
    names = sorted(str(name) for name in ledger.client.smembers(workers))
    if not names:
        return []
    texts = ledger.client.mget([ledger.key("worker", name) for name in names])
    found = [_read(text) for text in texts if isinstance(text, str)]
    dead = [name for name, text in zip(names, texts, strict=True) if text is None]
    if dead:
        ledger.client.srem(workers, *dead)
    return [record for record in found if record is not None]


def _read(text: str) -> WorkerRecord | None:
    try:
        fields = json.loads(text)
        return WorkerRecord(
            str(fields["name"]),
            int(fields["slots"]),
            float(fields["pace_s"]),
            str(fields["info"]),
        )
    except (ValueError, KeyError, TypeError):
        _log.warning("queue: a worker's record is not readable: is it of another version?")
        return None
