"""Connections to Redis: how long a command may take, and whether the server is fit for a queue."""

from __future__ import annotations

import logging

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from cupel_service.errors import CannotServe

_log = logging.getLogger(__name__)

OLDEST_REDIS = (6, 2)
"""RQ's intermediate queue needs LMOVE, the scripts need SMISMEMBER and ZADD GT."""

COMMAND_S = 2.0
"""How long one command may take before its connection is given up."""

_CONNECTIONS = 10_000  # each slot of a worker has one; redis-py allows 100


def connect(url: str, *, text: bool, command_s: float = COMMAND_S) -> Redis:
    """A client that connects when it is first used. A lost connection is tried once more.

    Every script of the ledger may be repeated, so a second try never does anything twice.

    Args:
        url: Such as redis://:password@host:6379/0.
        text: Whether answers are text; RQ's jobs are bytes.
        command_s: How long one command may take.
    """
    return Redis.from_url(
        url,
        decode_responses=text,
        socket_timeout=command_s,
        socket_connect_timeout=COMMAND_S,
        retry=Retry(NoBackoff(), 1),
        protocol=2,
        max_connections=_CONNECTIONS,
    )


def check_server(url: str) -> None:
    """Refuses a Redis that cannot hold the queue, and warns of one that could lose it.

    Raises:
        CannotServe: It cannot be reached, or is too old, or throws keys away when it is full.
    """
    client = connect(url, text=True)
    try:
        facts = client.info("server", "memory", "persistence")
    except RedisError as error:
        raise CannotServe(
            f"Redis does not answer ({type(error).__name__})",
            "Start it, and check the address and password in CUPEL_QUEUE",
        ) from error
    except ValueError as error:
        raise CannotServe(
            f"CUPEL_QUEUE is no address of a Redis server ({error})",
            "Write it as redis://host:6379/0",
        ) from error
    finally:
        client.close()
    version = str(facts.get("redis_version", "0.0"))
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST_REDIS:
        raise CannotServe(
            f"Redis {version} is too old for the queue",
            f"Install Redis {OLDEST_REDIS[0]}.{OLDEST_REDIS[1]} or later",
        )
    policy = str(facts.get("maxmemory_policy", "noeviction"))
    if policy != "noeviction":
        raise CannotServe(
            f"Redis throws away keys when it is full (maxmemory-policy {policy})",
            "Set maxmemory-policy to noeviction, or accepted work would be lost",
        )
    if str(facts.get("aof_enabled", "0")) != "1":
        _log.warning(
            "queue: Redis keeps no append-only file: its restart loses accepted work "
            "(set appendonly to yes)"
        )
