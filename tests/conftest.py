"""Boxes for tests: one host per session, a fresh box per test, and programs to put into it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NoReturn

import pytest
from hypothesis import settings

from box_stage import MOUNTS, TOOLCHAINS, Compiler, Stage
from cupel_sandbox.box import Box
from cupel_sandbox.errors import CannotStart
from cupel_sandbox.native import NativeBox, NativeBoxConfig, NativeHost

# No example is timed: these machines are busy. In CI every run tries the same examples.
settings.register_profile("cupel", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("cupel")


@pytest.fixture(scope="session")
def compiler(tmp_path_factory: pytest.TempPathFactory) -> Compiler:
    """Compiles C on this host, each source once per session."""
    return Compiler(tmp_path_factory.mktemp("programs"))


@pytest.fixture(scope="session")
def host() -> Iterator[NativeHost]:
    """Native boxes of this host; where it cannot give any, the test is skipped (in CI: fails)."""
    try:
        host = NativeHost(NativeBoxConfig(mounts=MOUNTS))
    except CannotStart as cannot:
        _do_without(cannot)
    try:
        host.open_box().close()
        yield host
    except CannotStart as cannot:
        _do_without(cannot)
    finally:
        host.close()


def _do_without(cannot: CannotStart) -> NoReturn:
    if os.environ.get("CI"):
        raise cannot
    pytest.skip(f"no native boxes here: {cannot}")


@pytest.fixture
def box(host: NativeHost) -> Iterator[Box]:
    """A fresh box."""
    box: NativeBox = host.open_box()
    yield box
    box.close()


@pytest.fixture
def stage(box: Box, compiler: Compiler) -> Stage:
    """The test's box with the means to put programs into it and run them."""
    return Stage(box, compiler, TOOLCHAINS["python"].executable)
