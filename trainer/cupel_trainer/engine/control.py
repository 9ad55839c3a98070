"""A running vLLM engine as a swap needs it: in this process, or behind HTTP."""

from __future__ import annotations

import base64
import pickle
from typing import TYPE_CHECKING, Any, Protocol, Self

import httpx

from cupel_trainer.errors import EngineError

if TYPE_CHECKING:
    from vllm import LLM


class WeightSyncClient(Protocol):
    """vLLM's `VLLMWeightSyncClient`: its transports drive an update through these four calls."""

    def init_weight_transfer_engine(self, init_info: dict[str, object]) -> None:
        """Hands the workers what the transport needs to know."""

    def start_weight_update(self) -> None:
        """Begins an update."""

    def update_weights(self, update_info: dict[str, object]) -> None:
        """Loads a part of the weights."""

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """Ends an update."""


class RunningEngine(WeightSyncClient, Protocol):
    """What a swap does beside moving weights."""

    def pause(self) -> None:
        """Lets no request begin; returns when none is in flight and no cache holds old results."""

    def resume(self) -> None:
        """Lets requests begin."""

    def call_workers(self, method: str, **arguments: object) -> list[dict[str, list[str]]]:
        """Calls a method of every worker; each one's answer."""

    def weight_version(self) -> str:
        """The version that the engine says its weights are of."""

    def set_weight_version(self, version: str) -> None:
        """What the engine shall say."""


class OfflineEngine:
    """An engine in this process: `vllm.LLM`.

    Args:
        llm: Started with `engine_options()`.
    """

    def __init__(self, llm: LLM) -> None:
        self._llm = llm

    def init_weight_transfer_engine(self, init_info: dict[str, object]) -> None:
        """See `WeightSyncClient`."""
        self._llm.init_weight_transfer_engine({"init_info": init_info})

    def start_weight_update(self) -> None:
        """See `WeightSyncClient`."""
        self._llm.start_weight_update()

    def update_weights(self, update_info: dict[str, object]) -> None:
        """See `WeightSyncClient`."""
        self._llm.update_weights({"update_info": update_info})

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """See `WeightSyncClient`."""
        self._llm.finish_weight_update(weight_version)

    def pause(self) -> None:
        """See `RunningEngine`; an engine in this process runs only while it is called.

        Raises:
            EngineError: Requests were added and not run to their end.
        """
        if self._llm.llm_engine.has_unfinished_requests():
            raise EngineError("the engine has unfinished requests: run them to their end first")
        if not self._llm.reset_prefix_cache(reset_connector=True):
            raise EngineError("the engine cannot reset its prefix cache: restart it")

    def resume(self) -> None:
        """See `RunningEngine`; nothing to do."""

    def call_workers(self, method: str, **arguments: object) -> list[dict[str, list[str]]]:
        """See `RunningEngine`."""
        answers: list[dict[str, list[str]]] = self._llm.collective_rpc(method, kwargs=arguments)
        return answers

    def weight_version(self) -> str:
        """See `RunningEngine`."""
        return str(self._llm.get_weight_version())

    def set_weight_version(self, version: str) -> None:
        """See `RunningEngine`."""
        self._llm.update_weight_version(version)


class ServerEngine:
    """A vLLM server, started with VLLM_SERVER_DEV_MODE=1: only then it can be told these things.

    Requests in flight are served to their end with the old weights before a swap; those that come
    meanwhile wait, and are served with the new ones.

    Args:
        url: Where it listens: `http://127.0.0.1:8000`.
        api_key: What it was given as `--api-key`.
        timeout_s: Of one call; the longest waits for the requests in flight.
    """

    def __init__(self, url: str, *, api_key: str | None = None, timeout_s: float = 600.0) -> None:
        self._url = url.rstrip("/").removesuffix("/v1")
        headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        self._client = httpx.Client(base_url=self._url, headers=headers, timeout=timeout_s)

    def close(self) -> None:
        """Closes the connection; `with` does it, too."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def init_weight_transfer_engine(self, init_info: dict[str, object]) -> None:
        """See `WeightSyncClient`."""
        self._call("POST", "/init_weight_transfer_engine", {"init_info": init_info})

    def start_weight_update(self) -> None:
        """See `WeightSyncClient`."""
        self._call("POST", "/start_weight_update")

    def update_weights(self, update_info: dict[str, object]) -> None:
        """See `WeightSyncClient`.

        Handles of GPU memory (vLLM's IPC transport) travel as vLLM's own client sends them; the
        server takes those only with VLLM_ALLOW_INSECURE_SERIALIZATION=1.
        """
        document = dict(update_info)
        if (handles := document.pop("ipc_handles", None)) is not None:
            document["ipc_handles_pickled"] = base64.b64encode(pickle.dumps(handles)).decode()
        self._call("POST", "/update_weights", {"update_info": document})

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """See `WeightSyncClient`."""
        document = None if weight_version is None else {"weight_version": weight_version}
        self._call("POST", "/finish_weight_update", document)

    def pause(self) -> None:
        """See `RunningEngine`.

        Raises:
            EngineError: Requests did not end in time, or old results cannot be forgotten.
        """
        self._call("POST", "/pause?mode=wait")
        if not self._call("POST", "/reset_prefix_cache?reset_external=true").get("success"):
            self.resume()
            raise EngineError(f"{self._url}: the server cannot reset its prefix cache: restart it")

    def resume(self) -> None:
        """See `RunningEngine`."""
        self._call("POST", "/resume")

    def call_workers(self, method: str, **arguments: object) -> list[dict[str, list[str]]]:
        """See `RunningEngine`."""
        document = {"method": method, "kwargs": arguments}
        answers: list[dict[str, list[str]]] = self._call("POST", "/collective_rpc", document)[
            "results"
        ]
        return answers

    def weight_version(self) -> str:
        """See `RunningEngine`."""
        return str(self._call("GET", "/weight_info")["weight_version"])

    def set_weight_version(self, version: str) -> None:
        """See `RunningEngine`."""
        self._call("POST", "/update_weight_version", {"new_version": version})

    # Any: documents as the server writes them; each caller takes what it needs.
    def _call(self, method: str, path: str, document: object = None) -> dict[str, Any]:
        try:
            response = self._client.request(method, path, json=document)
        except httpx.HTTPError as error:
            raise EngineError(f"{self._url}{path}: no answer from the server: {error}") from error
        if response.status_code == httpx.codes.NOT_FOUND:
            raise EngineError(
                f"{self._url}{path}: not found; start the server with VLLM_SERVER_DEV_MODE=1 in "
                "its environment (and let only those reach it who may change its weights)"
            )
        if response.is_error:
            raise EngineError(f"{self._url}{path}: {response.status_code}: {response.text[:2000]}")
        answer: dict[str, Any] = response.json() if response.content else {}
        return answer
