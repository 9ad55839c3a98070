"""A tiny policy with problems, made once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_policy import make_policy, write_problems


@pytest.fixture(scope="session")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `model` and `problems.jsonl`."""
    pytest.importorskip("trl")
    folder = tmp_path_factory.mktemp("train")
    make_policy(folder / "model")
    write_problems(folder / "problems.jsonl")
    return folder


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Sums of several threads differ in their last bit from those of one, as in child processes."""
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
