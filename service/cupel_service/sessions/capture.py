"""What a command prints: bounded, with the middle cut out, and readable while it grows."""

from __future__ import annotations

import asyncio
import codecs
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from threading import Lock

from cupel.session_schema import OutputEvent
from cupel_sandbox.workspace import Stream

FLOOD_BYTES = 64 * 1024 * 1024
"""A command that prints more than this is killed."""

_PIECE_BYTES = 64 * 1024


@dataclass(slots=True)
class _Kept:
    head: bytearray = field(default_factory=bytearray)
    tail: bytearray = field(default_factory=bytearray)
    written_bytes: int = 0


class Capture:
    """Both output streams of one command. Filled by any thread, read on the event loop.

    Args:
        kept_bytes: Kept of each stream.
        on_flood: Called once, in the filling thread, when the command has printed FLOOD_BYTES.
    """

    def __init__(self, kept_bytes: int, on_flood: Callable[[], None] | None = None) -> None:
        self._kept_bytes = kept_bytes
        self._on_flood = on_flood
        self._kept = {Stream.STDOUT: _Kept(), Stream.STDERR: _Kept()}
        self._pieces: list[tuple[Stream, bytearray]] = []  # the heads, in order
        self._handed = 0  # pieces that somebody has seen: they do not change any more
        self._lock = Lock()
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        self._closed = False
        self.flooded = False

    def append(self, stream: Stream, data: bytes) -> None:
        """Adds what was printed."""
        with self._lock:
            kept = self._kept[stream]
            kept.written_bytes += len(data)
            fresh = data[: self._kept_bytes - len(kept.head)]
            if fresh:
                kept.head += fresh
                self._add_piece(stream, fresh)
            rest = data[len(fresh) :]
            if rest:
                kept.tail += rest[-self._kept_bytes :] if self._kept_bytes else b""
                del kept.tail[: -self._kept_bytes or None]
            flood = not self.flooded and kept.written_bytes > FLOOD_BYTES
            self.flooded |= flood
        if flood and self._on_flood is not None:
            self._on_flood()
        if fresh:
            self._notify()

    def close(self) -> None:
        """Nothing more will come; to be called on the event loop."""
        self._closed = True
        self._changed.set()

    def text(self, stream: Stream) -> str:
        """What was printed, the middle cut out if it was more than is kept."""
        with self._lock:
            kept = self._kept[stream]
            head, tail, written = bytes(kept.head), bytes(kept.tail), kept.written_bytes
        return cut_middle(head, tail, written, self._kept_bytes)

    def written_bytes(self, stream: Stream) -> int:
        """How much was printed, kept or not."""
        with self._lock:
            return self._kept[stream].written_bytes

    async def events(self) -> AsyncIterator[OutputEvent]:
        """The heads of both streams piece by piece, from the first one, until `close`."""
        decoders = {
            stream: codecs.getincrementaldecoder("utf-8")("replace") for stream in self._kept
        }
        index = 0
        while True:
            self._changed.clear()
            closed = self._closed
            with self._lock:
                pieces = [(stream, bytes(piece)) for stream, piece in self._pieces[index:]]
                index = len(self._pieces)
                self._handed = max(self._handed, index)
            for stream, piece in pieces:
                text = decoders[stream].decode(piece)
                if text:
                    yield OutputEvent(stream=_NAMES[stream], text=text)
            if closed:
                break
            if not pieces:
                await self._changed.wait()
        for stream, decoder in decoders.items():
            if text := decoder.decode(b"", final=True):
                yield OutputEvent(stream=_NAMES[stream], text=text)

    def _add_piece(self, stream: Stream, data: bytes) -> None:
        if len(self._pieces) > self._handed:
            last_stream, last = self._pieces[-1]
            if last_stream is stream and len(last) < _PIECE_BYTES:
                last += data
                return
        self._pieces.append((stream, bytearray(data)))

    def _notify(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._changed.set)
        except RuntimeError:
            return  # the loop has ended: nobody reads any more


_NAMES = {Stream.STDOUT: "stdout", Stream.STDERR: "stderr"}


def cut_middle(head: bytes, tail: bytes, written_bytes: int, kept_bytes: int) -> str:
    """A long text without its middle: half of what is kept from its beginning, half from its end.

    Args:
        head: The first bytes of it.
        tail: The last ones of what follows `head`, as many as are needed.
        written_bytes: How many there were in all.
        kept_bytes: How many to keep.
    """
    if written_bytes <= kept_bytes:
        return head.decode("utf-8", "replace")
    before = head[: (kept_bytes + 1) // 2]
    after_bytes = kept_bytes // 2
    after = (head + tail)[-after_bytes:] if after_bytes else b""
    cut_bytes = written_bytes - len(before) - len(after)
    return (
        before.decode("utf-8", "replace")
        + f"\n[... {cut_bytes} bytes cut out ...]\n"
        + after.decode("utf-8", "replace")
    )
