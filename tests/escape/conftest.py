"""Every attack is tried in every kind of box that shares the host's kernel."""

from __future__ import annotations

import pytest

from cupel_sandbox.pool import Host

HOSTS = (
    pytest.param("native_host", id="native"),
    pytest.param("docker_host", id="docker", marks=pytest.mark.docker),
)


@pytest.fixture(params=HOSTS)
def host(request: pytest.FixtureRequest) -> Host:
    found: Host = request.getfixturevalue(request.param)
    return found
