"""Docker for tests: boxes on whatever engine is there, and an image made beforehand."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NoReturn

import pytest

from cupel_sandbox.docker_boxes import DockerBoxConfig, DockerHost
from cupel_sandbox.errors import CannotStart

IMAGE = os.environ.get("CUPEL_TEST_IMAGE", "cupel-sandbox")


def docker_hosts(runtime: str | None) -> Iterator[DockerHost]:
    """Docker boxes; where there can be none, the test is skipped (in CI: fails)."""
    try:
        host = DockerHost(DockerBoxConfig(image=IMAGE, runtime=runtime))
    except CannotStart as cannot:
        do_without(cannot)
    try:
        yield host
    finally:
        host.close()


def do_without(cannot: CannotStart) -> NoReturn:
    """Skips the test, or fails in CI."""
    if os.environ.get("CI"):
        raise cannot
    pytest.skip(f"no such boxes here: {cannot}")
