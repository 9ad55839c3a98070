"""Boxes for tests: one host per session, a fresh box per test, and programs to put into it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

from box_stage import MOUNTS, Compiler, Stage, stage_in
from cupel_sandbox.box import Box
from cupel_sandbox.docker_boxes import DockerHost
from cupel_sandbox.errors import CannotStart
from cupel_sandbox.native import NativeBoxConfig, NativeHost
from cupel_sandbox.pool import Host
from docker_stage import do_without, docker_hosts

# No example is timed: these machines are busy. In CI every run tries the same examples.
settings.register_profile("cupel", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("cupel")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Merges go first: what they may use is of the whole process, which others fill with TRL."""
    items.sort(key=lambda item: not item.path.name.startswith("test_merge"))


@pytest.fixture(scope="session")
def compiler(tmp_path_factory: pytest.TempPathFactory) -> Compiler:
    """Compiles C on this host, each source once per session."""
    return Compiler(tmp_path_factory.mktemp("programs"))


@pytest.fixture(scope="session")
def native_host() -> Iterator[NativeHost]:
    """Native boxes of this host; where it cannot give any, the test is skipped (in CI: fails)."""
    try:
        host = NativeHost(NativeBoxConfig(mounts=MOUNTS))
    except CannotStart as cannot:
        do_without(cannot)
    try:
        host.open_box().close()
        yield host
    except CannotStart as cannot:
        do_without(cannot)
    finally:
        host.close()


@pytest.fixture(scope="session")
def docker_host() -> Iterator[DockerHost]:
    """Docker boxes of the engine's default runtime."""
    yield from docker_hosts(None)


@pytest.fixture(scope="session")
def runsc_host() -> Iterator[DockerHost]:
    """Docker boxes under gVisor."""
    yield from docker_hosts("runsc")


@pytest.fixture
def host(native_host: NativeHost) -> Host:
    """The boxes that a test runs in."""
    return native_host


@pytest.fixture
def box(host: Host) -> Iterator[Box]:
    """A fresh box."""
    box = host.open_box()
    yield box
    box.close()


@pytest.fixture
def stage(host: Host, box: Box, compiler: Compiler) -> Stage:
    """The test's box with the means to put programs into it and run them."""
    return stage_in(host, box, compiler)
