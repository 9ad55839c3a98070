"""Snapshots: saved working folders by name, which outlive their sessions for a while."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass

from cupel.session_schema import SnapshotInfo
from cupel_service.errors import NotThere
from cupel_service.requests import InvalidRequest
from cupel_service.sessions.spool import Archive, Spool


@dataclass(slots=True)
class _Kept:
    session_id: str
    archive: Archive
    used_s: float


class Snapshots:
    """All snapshots of a service. On the event loop only.

    Args:
        spool: Where they are.
        each_max: How many one session may have at one time.
        kept_s: For how long one that nobody uses is kept.
    """

    def __init__(self, spool: Spool, each_max: int, kept_s: float) -> None:
        self._spool = spool
        self._each_max = each_max
        self._kept_s = kept_s
        self._kept: dict[str, _Kept] = {}

    def make_room(self, session_id: str) -> None:
        """Makes sure that a session may have one more.

        Raises:
            InvalidRequest: It has as many as it may.
        """
        if len(self.of(session_id)) >= self._each_max:
            raise InvalidRequest(
                f"a session keeps at most {self._each_max} snapshots (CUPEL_SNAPSHOTS_MAX): "
                "delete one"
            )

    def add(self, session_id: str, archive: Archive) -> SnapshotInfo:
        """Keeps an archive as a snapshot of a session."""
        name = secrets.token_hex(12)
        self._kept[name] = _Kept(session_id, archive, time.monotonic())
        return SnapshotInfo(id=name, size_bytes=archive.size_bytes)

    def of(self, session_id: str) -> tuple[str, ...]:
        """The names of those that a session made."""
        return tuple(name for name, kept in self._kept.items() if kept.session_id == session_id)

    def get(self, name: str) -> Archive:
        """A snapshot's archive; it stays the snapshot's.

        Raises:
            NotThere: There is none of this name, or it was kept long enough.
        """
        kept = self._kept.get(name)
        if kept is None:
            raise NotThere("there is no such snapshot: it may have been kept long enough")
        kept.used_s = time.monotonic()
        return kept.archive

    def delete(self, session_id: str, name: str) -> None:
        """Forgets a session's snapshot.

        Raises:
            NotThere: It has none of this name.
        """
        if name not in self.of(session_id):
            raise NotThere("the session has no such snapshot")
        self._spool.remove(self._kept.pop(name).archive)

    def forget_old(self) -> None:
        """Drops those that nobody has used for long."""
        old_s = time.monotonic() - self._kept_s
        for name, kept in list(self._kept.items()):
            if kept.used_s < old_s:
                self._spool.remove(self._kept.pop(name).archive)
