"""Every setting of the service: one frozen document, read once from `CUPEL_*` and passed in."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from cupel.schema import MEBIBYTE, Language

Factor = Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)]


def default_data_dir() -> Path:
    """The folder that the XDG base directory specification gives to an application's data."""
    root = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(root).expanduser() / "cupel"


def default_cache_dir() -> Path:
    """The folder that the same specification gives to what can be had again."""
    root = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(root).expanduser() / "cupel"


class Settings(BaseSettings):
    """What an operator may choose. Lists are written with commas, factors as `python=3,cpp=1`."""

    # Errors of this model are shown to people: they must not repeat a key.
    model_config = SettingsConfigDict(
        env_prefix="CUPEL_", frozen=True, extra="forbid", hide_input_in_errors=True
    )

    host: str = Field("127.0.0.1", min_length=1, description="Address to listen on.")
    port: int = Field(8400, ge=0, le=65535, description="TCP port; 0 takes any free one.")
    data_dir: Path = Field(
        default_factory=default_data_dir,
        description="Folder of the problem store; by default $XDG_DATA_HOME/cupel.",
    )
    slots: int | None = Field(
        None, ge=1, le=1024, description="Boxes that run at one time; default: physical cores."
    )
    queue_capacity: int = Field(
        4096, ge=1, le=1_000_000, description="Submissions that may wait or run at one time."
    )
    request_bytes_max: int = Field(
        256 * MEBIBYTE, ge=1024, le=8192 * MEBIBYTE, description="Largest request body, in bytes."
    )
    suite_cache_bytes: int = Field(
        512 * MEBIBYTE, ge=0, description="Test data of registered problems kept in memory."
    )
    api_keys: Annotated[frozenset[SecretStr], NoDecode] = Field(
        frozenset(), description="Keys that clients must show; needed beyond loopback."
    )
    api_keys_file: Path | None = Field(
        None, description="File with one such key per line, read at start; adds to api_keys."
    )
    allow_degraded: Annotated[frozenset[str], NoDecode] = Field(
        frozenset(), description="Isolation layers that may be missing, such as cgroup or seccomp."
    )
    time_factors: Annotated[dict[Language, Factor], NoDecode] = Field(
        default_factory=dict, description="Multiplies time limits per language; 1 where not given."
    )
    memory_factors: Annotated[dict[Language, Factor], NoDecode] = Field(
        default_factory=dict, description="Multiplies memory limits per language; likewise."
    )
    box: Literal["native", "docker"] = Field(
        "native", description="Kind of box that programs run in: native, or docker."
    )
    docker_image: str = Field(
        "cupel-sandbox", min_length=1, description="Image of docker boxes; `make image` builds it."
    )
    docker_runtime: str | None = Field(
        None, description="Container runtime of docker boxes, such as runsc; default: Docker's own."
    )
    queue: str | None = Field(
        None,
        repr=False,  # it may hold a password
        description="redis:// URL of a cluster's queue; by default this process is the queue.",
    )
    queue_prefix: str = Field(
        "cupel", pattern=r"^[A-Za-z0-9._-]+$", description="First part of every key in Redis."
    )
    store: str | None = Field(
        None,
        repr=False,
        description="URL of a cluster's problem store (file://, s3://); default: data_dir.",
    )
    cache_dir: Path = Field(
        default_factory=default_cache_dir,
        description="Folder of a worker's copy of test data; by default $XDG_CACHE_HOME/cupel.",
    )
    cache_bytes: int = Field(
        4096 * MEBIBYTE, ge=0, description="Test data that a worker keeps in cache_dir, in bytes."
    )
    lease_s: float = Field(
        5.0,
        ge=0.2,
        le=300,
        description="A worker silent for so many seconds is taken for dead.",
    )
    abandoned_s: float = Field(
        60.0, ge=0, le=86400, description="Work whose client is gone for so long is dropped."
    )
    results_kept_s: float = Field(
        600.0, ge=0, le=86400, description="How long finished judgements can be asked for again."
    )
    stop_grace_s: float = Field(
        10.0, ge=0, le=3600, description="How long a stop waits for what runs, in seconds."
    )
    session_boxes: int | None = Field(
        None,
        ge=0,
        le=4096,
        description="Boxes for sessions and executions; default: two per core, in a cluster none.",
    )
    session_commands: int | None = Field(
        None,
        ge=1,
        le=4096,
        description="Their commands that run at one time; default: two per core.",
    )
    sessions_max: int = Field(
        4096, ge=1, le=1_000_000, description="Sessions that may be open at one time."
    )
    session_wait_s: float = Field(
        30.0, gt=0, le=3600, description="How long a command waits for a box before it gets a 429."
    )
    session_grace_s: float = Field(
        60.0,
        ge=0,
        le=86400,
        description="A session idle for so long loses its processes when its box is needed.",
    )
    session_folder_bytes: int = Field(
        256 * MEBIBYTE,
        ge=MEBIBYTE,
        le=16384 * MEBIBYTE,
        description="Largest working folder that is parked or snapshot, in bytes.",
    )
    session_spool_bytes: int = Field(
        16384 * MEBIBYTE, ge=MEBIBYTE, description="All of those on disk together, in bytes."
    )
    snapshots_max: int = Field(
        8, ge=0, le=1000, description="Snapshots that one session may keep at one time."
    )
    snapshot_kept_s: float = Field(
        3600.0, gt=0, le=604800, description="How long a snapshot nobody uses is kept, in seconds."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severe log lines shown."
    )

    @field_validator("api_keys", "allow_degraded", mode="before")
    @classmethod
    def _commas_separate(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        return [part.strip() for part in value.split(",") if part.strip()]

    @field_validator("time_factors", "memory_factors", mode="before")
    @classmethod
    def _commas_separate_factors(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        pairs = [part.partition("=") for part in value.split(",") if part.strip()]
        if not all(equals for _, equals, _ in pairs):
            raise ValueError("write factors as language=factor, for example python=3,cpp=1")
        return {language.strip(): factor.strip() for language, _, factor in pairs}

    @field_validator("api_keys")
    @classmethod
    def _keys_are_not_empty(cls, value: frozenset[SecretStr]) -> frozenset[SecretStr]:
        if not all(key.get_secret_value().strip() for key in value):
            raise ValueError("an API key is empty")
        return value

    @field_validator("data_dir", "cache_dir")
    @classmethod
    def _home_is_expanded(cls, value: Path) -> Path:
        return value.expanduser().absolute()

    @field_validator("queue")
    @classmethod
    def _queue_is_redis(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("redis://", "rediss://", "unix://")):
            raise ValueError("write a URL of Redis, for example redis://127.0.0.1:6379/0")
        return value

    @model_validator(mode="after")
    def _runtime_is_of_docker(self) -> Self:
        # Else somebody believes that programs run below gVisor, and they do not.
        if self.docker_runtime is not None and self.box != "docker":
            raise ValueError(
                f"CUPEL_DOCKER_RUNTIME is for docker boxes, but these are {self.box} ones: "
                "set CUPEL_BOX=docker (--box docker) as well, or leave the runtime out"
            )
        return self

    @model_validator(mode="after")
    def _store_is_of_a_cluster(self) -> Self:
        if self.store is not None and self.queue is None:
            raise ValueError(
                "CUPEL_STORE is the shared problem store of a cluster: "
                "name its queue too (CUPEL_QUEUE), or use CUPEL_DATA_DIR alone"
            )
        return self

    @model_validator(mode="after")
    def _strangers_need_a_key(self) -> Self:
        if not self.api_keys and self.api_keys_file is None and not is_loopback(self.host):
            raise ValueError(
                f"refusing to listen on {self.host} without an API key: anyone who reaches it "
                "could run programs here. Set CUPEL_API_KEYS (openssl rand -hex 32 makes a key) "
                "or CUPEL_API_KEYS_FILE, or listen on 127.0.0.1"
            )
        return self


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a service that listens on `host`."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def shown_queue(url: str) -> str:
    """A Redis URL as people may see it: without user, password and options."""
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return f"unix://{parts.path}"
    host = parts.hostname or "localhost"
    host = f"[{host}]" if ":" in host else host
    try:
        port = parts.port or 6379
    except ValueError:
        return f"{parts.scheme}://{host}"
    return f"{parts.scheme}://{host}:{port}/{parts.path.strip('/') or '0'}"


def explain(error: ValidationError) -> str:
    """Says in one line per setting what is wrong with it, without its value.

    Args:
        error: What `Settings()` raised.

    Returns:
        Lines such as `CUPEL_PORT: Input should be less than or equal to 65535`.
    """
    return "\n".join(_explained(error))


def _explained(error: ValidationError) -> Iterable[str]:
    for item in error.errors(include_url=False, include_input=False, include_context=False):
        name = "CUPEL_" + str(item["loc"][0]).upper() if item["loc"] else "settings"
        yield f"{name}: {item['msg'].removeprefix('Value error, ')}"
