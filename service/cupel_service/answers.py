"""How judgements leave: together in the order of the request, or as lines as they are finished."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from cupel.schema import Judgement
from cupel_service.errors import Stopping
from cupel_service.queue.contract import Batch, QueueUnreachable

_log = logging.getLogger(__name__)

NDJSON = "application/x-ndjson"


async def judgements_in_order(batch: Batch, receive: Receive) -> tuple[Judgement, ...]:
    """Waits for every judgement of a request.

    Args:
        batch: The request's submissions.
        receive: The request's ASGI channel; at a disconnect the batch is left.

    Returns:
        The judgements in the order of the submissions.

    Raises:
        Stopping: Some submissions were dropped.
        QueueUnreachable: Some judgements cannot be had now.
    """
    judgements: dict[int, Judgement] = {}
    async with _left_on_disconnect(batch, receive):
        async for bunch in batch:
            judgements.update((finished.index, finished.judgement) for finished in bunch)
    return tuple(judgements[index] for index in sorted(judgements))


class JudgementLines(Response):
    """Judgements as newline-delimited JSON, in the order in which they are finished.

    When the service stops in the middle, or loses its queue, the answer breaks off without its
    proper end, so that no client can take it for whole.
    """

    media_type = NDJSON

    def __init__(self, batch: Batch) -> None:
        super().__init__()
        del self.headers["content-length"]
        self._batch = batch

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the answer."""
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        async with _left_on_disconnect(self._batch, receive):
            await send(start)
            try:
                async for bunch in self._batch:
                    lines = "".join(each.judgement.model_dump_json() + "\n" for each in bunch)
                    await _send_body(send, lines.encode(), more=True)
            except (Stopping, QueueUnreachable) as error:
                _log.warning("an answer was broken off: %s", error)
                return
            await _send_body(send, b"", more=False)


async def _send_body(send: Send, body: bytes, *, more: bool) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": more})


@asynccontextmanager
async def _left_on_disconnect(batch: Batch, receive: Receive) -> AsyncIterator[None]:
    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        batch.leave()

    watching = asyncio.create_task(watch())
    try:
        yield
    finally:
        batch.leave()  # nothing is left of it unless this task itself was cancelled or failed
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching
