"""Every test of this folder runs on every kind of box: a new kind adds one line to PROVIDERS."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import pytest

from cupel_sandbox.box import Box
from cupel_sandbox.pool import Host

PROVIDERS = (
    pytest.param("native_host", id="native"),
    pytest.param("docker_host", id="docker", marks=pytest.mark.docker),
    pytest.param("runsc_host", id="runsc", marks=pytest.mark.docker),
)
"""Fixtures that give something with `open_box`."""


class LosableBox(Box, Protocol):
    """A box that a test can lose on purpose."""

    def kill(self) -> None: ...


@pytest.fixture(params=PROVIDERS)
def host(request: pytest.FixtureRequest) -> Host:
    found: Host = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def sampled(host: Host) -> bool:
    """Whether limits and use are only sampled: then they hold with a wider tolerance."""
    return host.facts.accounting == "sampled"


@pytest.fixture
def open_box(host: Host) -> Iterator[Callable[[], LosableBox]]:
    opened: list[LosableBox] = []

    def open_one() -> LosableBox:
        opened.append(host.open_box())
        return opened[-1]

    yield open_one
    for box in opened:
        box.close()


@pytest.fixture
def box(open_box: Callable[[], LosableBox]) -> LosableBox:
    return open_box()
