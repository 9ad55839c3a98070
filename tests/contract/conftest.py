"""Every test of this folder runs on every kind of box: a new kind adds one line to PROVIDERS."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import pytest

from cupel_sandbox.box import Box

PROVIDERS = (
    pytest.param("host", id="native"),
    pytest.param("docker_host", id="docker", marks=pytest.mark.docker),
    pytest.param("runsc_host", id="runsc", marks=pytest.mark.docker),
)
"""Fixtures that give something with `open_box`."""


class LosableBox(Box, Protocol):
    """A box that a test can lose on purpose."""

    def kill(self) -> None: ...


class Provider(Protocol):
    """What opens boxes of one kind."""

    def open_box(self) -> LosableBox: ...


@pytest.fixture(params=PROVIDERS)
def open_box(request: pytest.FixtureRequest) -> Iterator[Callable[[], LosableBox]]:
    provider: Provider = request.getfixturevalue(request.param)
    opened: list[LosableBox] = []

    def open_one() -> LosableBox:
        opened.append(provider.open_box())
        return opened[-1]

    yield open_one
    for box in opened:
        box.close()


@pytest.fixture
def box(open_box: Callable[[], LosableBox]) -> LosableBox:
    return open_box()
