from __future__ import annotations

from collections.abc import Iterator

import pytest
from fake_cupel import FakeCupel, running_fake

from cupel import Client


@pytest.fixture(autouse=True)
def _no_settings_of_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CUPEL_URL", "CUPEL_API_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def fake() -> Iterator[FakeCupel]:
    with running_fake() as running:
        yield running


@pytest.fixture
def client(fake: FakeCupel) -> Iterator[Client]:
    with Client(fake.url, retry_pause_s=0) as made:
        yield made
