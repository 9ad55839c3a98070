from __future__ import annotations

import os
import subprocess
import sys

import pytest

from cupel_service.errors import CannotServe
from cupel_service.joining import join_cluster
from cupel_service.settings import shown_queue

NOBODY = "redis://someone:geheim@127.0.0.1:1/3"  # nothing listens on that port

COMMAND = """
import typer
from cupel_service.worker import worker
app = typer.Typer()
app.command("worker")(worker)
app()
"""


def refused(*arguments: str, **variables: str) -> str:
    """What `cupel worker` says when it does not start, checked for its exit code and manner."""
    environment = {name: value for name, value in os.environ.items() if name != "CUPEL_QUEUE"}
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, *arguments],
        env={**environment, **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("cupel: cannot work: ")
    return done.stderr


def test_a_worker_without_a_queue_is_told_of_both_forms() -> None:
    said = refused()
    assert "--queue" in said
    assert "cupel serve" in said


def test_a_bad_value_is_named() -> None:
    assert "CUPEL_SLOTS: " in refused("--slots", "0", "--queue", NOBODY)
    assert "CUPEL_QUEUE: " in refused(CUPEL_QUEUE="127.0.0.1:6379")


def test_a_name_that_would_not_fit_into_a_key_is_refused() -> None:
    assert "--name" in refused("--queue", NOBODY, "--name", "one:two")


def test_a_check_that_cannot_ask_is_neither_yes_nor_no() -> None:
    said = refused("--check", "--queue", NOBODY)
    assert "redis://127.0.0.1:1/3 cannot be asked" in said
    assert "geheim" not in said


def test_a_redis_that_is_not_there_is_named_with_the_way_to_start_one() -> None:
    with pytest.raises(CannotServe) as caught:
        join_cluster(NOBODY, "cupel", patience_s=0)
    assert caught.value.reason == "Redis at redis://127.0.0.1:1/3 cannot be reached"
    assert "redis-server --appendonly yes" in caught.value.remedy


def test_an_address_that_is_none_is_refused() -> None:
    with pytest.raises(CannotServe, match="not a URL of Redis"):
        join_cluster("redis://127.0.0.1:many/0", "cupel", patience_s=0)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://user:geheim@example.org:6380/4?ssl=x", "redis://example.org:6380/4"),
        ("rediss://:geheim@example.org", "rediss://example.org:6379/0"),
        ("redis://", "redis://localhost:6379/0"),
        ("redis://[::1]:7000/1", "redis://[::1]:7000/1"),
        ("unix://:geheim@/run/redis.sock?db=1", "unix:///run/redis.sock"),
        ("redis://:geheim@example.org:many", "redis://example.org"),
    ],
)
def test_a_queue_is_shown_without_its_password(url: str, shown: str) -> None:
    assert shown_queue(url) == shown
