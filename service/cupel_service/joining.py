"""What a process makes sure of before it joins a cluster, so that it fails early and says why."""

from __future__ import annotations

import time

from redis import AuthenticationError, ConnectionError, Redis, RedisError, TimeoutError

from cupel_service.errors import CannotServe
from cupel_service.queue.redis_link import check_server, connect
from cupel_service.settings import Settings, shown_queue

PROTOCOL = "1"
"""Of what processes write to Redis for each other; to be raised when older ones cannot read it."""
PROTOCOL_KEPT_S = 60
"""How long a cluster without any process remembers its protocol."""
PATIENCE_S = 10.0

_PAUSE_S = 0.5


def join_cluster(url: str, prefix: str, *, patience_s: float = PATIENCE_S) -> None:
    """Makes sure that Redis is there, keeps what it is given, and serves this version of Cupel.

    Args:
        url: Of Redis.
        prefix: First part of every key.
        patience_s: For how long a Redis that is not there is tried again: it may be starting too.

    Raises:
        CannotServe: It cannot be reached, is not fit for it, or belongs to another version.
    """
    try:
        connection = connect(url, text=True)
    except ValueError as error:
        raise CannotServe(
            f"{shown_queue(url)} is not a URL of Redis ({error})",
            "Write, for example, redis://127.0.0.1:6379/0",
        ) from None
    with connection:
        _wait_for(connection, url, patience_s)
        check_server(url)
        claim_protocol(connection, prefix)


def claim_protocol(connection: Redis, prefix: str) -> None:
    """Says, for the next minute, what this process writes to Redis.

    Raises:
        CannotServe: Living processes write something else.
        RedisError: Redis cannot be asked now.
    """
    key = f"{prefix}:protocol"
    if connection.set(key, PROTOCOL, nx=True, ex=PROTOCOL_KEPT_S):
        return
    theirs = connection.get(key)
    if theirs is not None and theirs != PROTOCOL:
        raise CannotServe(
            f"processes of another version of Cupel use the queue (prefix {prefix!r}) already",
            "Install one version everywhere and stop the others first, or choose another prefix "
            "with CUPEL_QUEUE_PREFIX",
        )
    connection.expire(key, PROTOCOL_KEPT_S)


def store_url(settings: Settings) -> str:
    """Where a cluster's problems are: in its own store, or in this machine's data folder."""
    return settings.store or str(settings.data_dir)


def _wait_for(connection: Redis, url: str, patience_s: float) -> None:
    """Waits until Redis answers."""
    give_up_s = time.monotonic() + patience_s
    while True:
        try:
            connection.ping()
        except AuthenticationError as error:
            raise CannotServe(
                f"Redis at {shown_queue(url)} refuses the password",
                "Write it into the URL: redis://:PASSWORD@HOST:PORT/0",
            ) from error
        except (ConnectionError, TimeoutError) as error:
            # Also while it loads what it had saved (BusyLoadingError is a ConnectionError).
            if time.monotonic() >= give_up_s:
                raise CannotServe(
                    f"Redis at {shown_queue(url)} cannot be reached",
                    "Start one with `redis-server --appendonly yes`, or correct --queue or "
                    "CUPEL_QUEUE",
                ) from error
        except RedisError as error:
            raise CannotServe(
                f"Redis at {shown_queue(url)} cannot be used ({error})",
                "Check its password, its users and their rights",
            ) from error
        else:
            return
        time.sleep(_PAUSE_S)
