"""What docker boxes ask of the container engine, and how its refusals become ours.

Everything that is made carries the label `cupel`, and only what carries it is ever removed. The
runner reaches the containers in a named volume: the engine may run on another host, or this process
in a container of its own, where no path of ours means anything to it.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import socket
import tarfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import docker
import requests
from docker.errors import APIError, DockerException, ImageNotFound, NotFound

from cupel_sandbox.errors import CannotStart

_log = logging.getLogger(__name__)

LABEL = "cupel"
RUNNER_FOLDER = "/.cupel"
_TIMEOUT_S = 60  # an engine that is loading containers after its start is slow to answer
_NEW_S = 60.0  # a container that was made, but not started, may be somebody's next box
_RUNNER_BYTES_MAX = 64 * 1024 * 1024
_NO_ENGINE = (
    "Start Docker (systemctl start docker), let this user reach it (group docker, or DOCKER_HOST), "
    "or use native boxes: --box native."
)


@dataclass(frozen=True, slots=True)
class Engine:
    """A container engine.

    Args:
        api: The client of its HTTP API; its methods are safe to call from several threads.
        cgroup_version: 1 or 2, on the engine's host.
        runtimes: The runtimes that it knows, and the program behind each.
        default_runtime: The one that it takes when none is named.
        host_cgroups: Whether it can leave a container in the host's cgroup namespace (API 1.41).
    """

    api: docker.APIClient
    cgroup_version: int
    runtimes: Mapping[str, str]
    default_runtime: str
    host_cgroups: bool


def connect() -> Engine:
    """Finds the engine, as the docker command would (DOCKER_HOST, DOCKER_TLS_VERIFY, ...).

    Raises:
        CannotStart: There is none, or this user may not use it.
    """
    try:
        api = docker.from_env(timeout=_TIMEOUT_S).api
        info = api.info()
        version = tuple(int(part) for part in str(api.version()["ApiVersion"]).split("."))
    except (DockerException, requests.RequestException) as error:
        raise CannotStart(f"no Docker engine can be reached: {brief(error)}", _NO_ENGINE) from error
    return Engine(
        api=api,
        cgroup_version=int(info.get("CgroupVersion", 1)),
        runtimes={
            name: f"{name} {how.get('path', '')}"
            for name, how in sorted(info.get("Runtimes", {}).items())
        },
        default_runtime=str(info.get("DefaultRuntime", "runc")),
        host_cgroups=version >= (1, 41),
    )


def brief(error: Exception) -> str:
    """What an engine's error says, in one line."""
    text = error.explanation if isinstance(error, APIError) and error.explanation else str(error)
    return " ".join(str(text).split())[:300]


@contextlib.contextmanager
def refusing(what: str, remedy: str) -> Iterator[None]:
    """Turns what the engine says while it is asked for something into a CannotStart."""
    try:
        yield
    except ImageNotFound as error:
        raise CannotStart(
            f"{what}: {brief(error)}",
            "Build it with `make image`, or name one: CUPEL_DOCKER_IMAGE.",
        ) from error
    except (DockerException, requests.RequestException, OSError) as error:
        raise CannotStart(f"{what}: {brief(error)}", remedy) from error


def image_id(engine: Engine, image: str) -> str:
    """The id of an image that is there.

    Raises:
        CannotStart: It is not.
    """
    with refusing(f"cannot use the image {image}", _NO_ENGINE):
        return str(engine.api.inspect_image(image)["Id"])  # type: ignore[no-untyped-call]  # not in its stubs


def remove_strays(engine: Engine) -> int:
    """Removes containers that no living service can own any more; returns how many.

    A runner lives exactly as long as its owner's connection does, so one that runs is somebody's,
    and one that has ended is nobody's (its owner removes it at once).

    Raises:
        CannotStart: The engine does not answer.
    """
    removed = 0
    with refusing("cannot list old boxes", _NO_ENGINE):
        found = engine.api.containers(all=True, filters={"label": f"{LABEL}=box"})
    for container in found:
        age_s = time.time() - float(container.get("Created", 0))
        ended = container.get("State") in {"exited", "dead"}
        if ended or (container.get("State") == "created" and age_s > _NEW_S):
            remove_container(engine, str(container["Id"]))
            removed += 1
    return removed


def create_container(engine: Engine, config: Mapping[str, Any]) -> str:
    """Makes a container of the engine's own JSON; returns its id.

    Raises:
        DockerException: The engine refused.
    """
    made = engine.api.create_container_from_config(config)  # type: ignore[no-untyped-call]  # not in its stubs
    return str(made["Id"])


def remove_container(engine: Engine, container: str) -> bool:
    """Kills and removes a container; returns whether it is gone."""
    try:
        engine.api.remove_container(container, force=True, v=True)
    except NotFound:
        pass
    except (DockerException, requests.RequestException) as error:
        _log.warning("container %.12s was not removed yet: %s", container, brief(error))
        return False
    return True


def runner_volume(engine: Engine, image: str, runner: bytes) -> str:
    """The name of a volume that holds the runner, made and filled if it is not there.

    Args:
        engine: Where.
        image: Any image that is there: a container of it lends its file system for the copy.
        runner: The static executable.

    Raises:
        CannotStart: The engine refused.
    """
    name = f"cupel-runner-{hashlib.sha256(runner).hexdigest()[:16]}"
    with refusing("cannot put the runner into a volume", _NO_ENGINE):
        engine.api.create_volume(name, labels={LABEL: "runner"})
        helper = create_container(
            engine,
            {
                "Image": image,
                "Entrypoint": ["/never-started"],
                "Labels": {LABEL: "box"},
                "NetworkDisabled": True,
                "HostConfig": {"Mounts": [runner_mount(name, read_only=False)]},
            },
        )
        try:
            # The same name always holds the same bytes: what is there already is left alone, since
            # boxes may be running it.
            if _read_runner(engine, helper) != runner:
                engine.api.put_archive(helper, RUNNER_FOLDER, _archive(runner))
        finally:
            remove_container(engine, helper)
    return name


def runner_mount(volume: str, *, read_only: bool = True) -> Mapping[str, Any]:  # the API's JSON
    """How the volume is mounted."""
    return {
        "Type": "volume",
        "Source": volume,
        "Target": RUNNER_FOLDER,
        "ReadOnly": read_only,
        "VolumeOptions": {"NoCopy": True},
    }


def _read_runner(engine: Engine, container: str) -> bytes | None:
    try:
        chunks, stat = engine.api.get_archive(container, f"{RUNNER_FOLDER}/runner")
    except NotFound:
        return None
    if int(stat["size"]) > _RUNNER_BYTES_MAX:
        return None
    with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as archive:
        member = archive.extractfile("runner")
        return member.read() if member else None


def _archive(runner: bytes) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        entry = tarfile.TarInfo("runner")
        entry.size, entry.mode = len(runner), 0o755
        entry.mtime = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp())
        archive.addfile(entry, io.BytesIO(runner))
    return packed.getvalue()


class Attached:
    """A connection to a container's standard input, output and error.

    Raises:
        DockerException: The engine refused.
    """

    def __init__(self, engine: Engine, container: str) -> None:
        self._streams = engine.api.attach_socket(
            container, params={"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}
        )
        # Over UNIX sockets and plain TCP the SDK gives a file object around the socket.
        found = getattr(self._streams, "_sock", self._streams)
        assert isinstance(found, socket.socket)  # noqa: S101 - an ssl.SSLSocket is one, too
        self.socket = found
        self.socket.settimeout(None)

    def close(self) -> None:
        """Ends the connection, and with it the container's standard input. Idempotent."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        response = getattr(self._streams, "_response", None)  # the SDK's hold on the socket
        for each in (response, self._streams, self.socket):
            with contextlib.suppress(OSError, ValueError):  # one may have closed another
                if each is not None:
                    each.close()
