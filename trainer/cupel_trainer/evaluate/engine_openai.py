"""The engine `openai`: any endpoint that speaks OpenAI's HTTP API, chat or plain completions.

Each completion is a request of its own, with its seed; whether the endpoint honours the seed, and
what else it does to the prompt, is its own affair. What it turns down for now (429, 5xx, a broken
connection, no answer in time) is asked again.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import httpx

from cupel_trainer.episodes.message import as_dicts, plain_text
from cupel_trainer.errors import EngineError
from cupel_trainer.evaluate.engine import Completion, Request, Waiting, out_of_context
from cupel_trainer.evaluate.records import Sampling

TRIES = 8
"""How often one completion is asked for before the run gives up."""
LONGEST_PAUSE_S = 60.0

_SHOWN_CHARACTERS = 300
_ASK_AGAIN_S = 0.02  # where none was waiting


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a model is served.

    Args:
        base_url: Up to and with the version, such as `http://127.0.0.1:8000/v1`.
        model: The served model's name.
        api_key: Sent as a bearer token; empty for none.
        chat: Chat completions, or plain ones.
        concurrency: Most requests at one time.
        timeout_s: Longest wait for one completion.
        first_pause_s: The pause before the second try; it doubles each time.
    """

    base_url: str
    model: str
    api_key: str = ""
    chat: bool = True
    concurrency: int = 32
    timeout_s: float = 600.0
    first_pause_s: float = 1.0

    def __repr__(self) -> str:  # the key must not end in a log
        return f"Endpoint({self.base_url!r}, {self.model!r})"


class OpenAIEngine:
    """A model behind an OpenAI-compatible endpoint.

    Args:
        endpoint: Where it is.

    Raises:
        EngineError: The URL or the key makes no sense.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        if not endpoint.base_url.startswith(("http://", "https://")):
            raise EngineError(f"--base-url {endpoint.base_url!r} must begin with http(s)://")
        if not (endpoint.api_key.isascii() and (endpoint.api_key + "k").isprintable()):
            raise EngineError("the API key must be printable ASCII")
        self._endpoint = endpoint
        self._runner = asyncio.Runner()

    @property
    def together(self) -> int:
        """1: what is computed together is the endpoint's affair."""
        return 1

    def draw(
        self, requests: Iterable[Request | None], sampling: Sampling
    ) -> Iterator[Sequence[Completion]]:
        """Draws with as many requests under way as the endpoint may have; see `Engine`."""
        http = self._http()
        waiting = Waiting(iter(requests))
        running: set[asyncio.Task[Completion]] = set()
        failed: list[asyncio.Task[Completion]] = []

        async def finished() -> list[Completion]:
            """Completions; none if none is under way and none is waiting now."""
            while True:
                for task in failed:
                    task.result()  # raises, now that what came with it is kept
                while len(running) < self._endpoint.concurrency and (each := waiting.take()):
                    running.add(asyncio.create_task(self._ask(http, *each, sampling)))
                if not running:
                    return []
                done, _ = await asyncio.wait(
                    running,
                    timeout=None if waiting.over else _ASK_AGAIN_S,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                running.difference_update(done)
                failed.extend(task for task in done if task.exception() is not None)
                if completions := [task.result() for task in done if task not in failed]:
                    return completions

        async def leave() -> None:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            await http.aclose()

        try:
            while (completions := self._runner.run(finished())) or not waiting.over:
                yield completions
        finally:
            self._runner.run(leave())

    def close(self) -> None:
        """Ends the event loop."""
        self._runner.close()

    def _http(self) -> httpx.AsyncClient:
        key = self._endpoint.api_key
        return httpx.AsyncClient(
            base_url=self._endpoint.base_url.rstrip("/") + "/",
            headers={"authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(self._endpoint.timeout_s, connect=10.0, pool=None),
            limits=httpx.Limits(max_connections=self._endpoint.concurrency),
        )

    async def _ask(
        self, http: httpx.AsyncClient, index: int, request: Request, sampling: Sampling
    ) -> Completion:
        """One completion, asked for until it is there or the endpoint says that it never will."""
        path, body = self._call(request, sampling)
        for nth in range(1, TRIES + 1):
            asked_s: float | None = None
            try:
                response = await http.post(path, json=body)
            except (httpx.TransportError, httpx.InvalidURL) as error:
                fault = f"{type(error).__name__} {error}".rstrip()
            else:
                if response.is_success:
                    return _read_completion(index, response, chat=self._endpoint.chat)
                fault = _fault_of(response)
                if len(request.messages) > 1 and _is_too_long(response):
                    return out_of_context(index)
                asked_s = _retry_after_s(response)
                if response.status_code not in (408, 409, 429) and response.status_code < 500:
                    raise EngineError(f"{self._endpoint.base_url} refuses: {fault}")
            if nth < TRIES:
                await asyncio.sleep(max(self._pause_s(nth), asked_s or 0.0))
        raise EngineError(
            f"{self._endpoint.base_url} gave no completion in {TRIES} tries, at last: {fault}; "
            "what was drawn is kept, run the same command again to go on"
        )

    def _call(self, request: Request, sampling: Sampling) -> tuple[str, dict[str, object]]:
        """The path and the body of a request."""
        body: dict[str, object] = {
            "model": self._endpoint.model,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_tokens,
            "seed": request.seed,
        }
        if self._endpoint.chat:
            return "chat/completions", body | {"messages": as_dicts(request.messages)}
        return "completions", body | {"prompt": plain_text(request.messages)}

    def _pause_s(self, nth: int) -> float:
        """Between half and all of the doubled pause: many requests must not come back as one."""
        full_s = min(LONGEST_PAUSE_S, self._endpoint.first_pause_s * 2.0 ** (nth - 1))
        return full_s * random.uniform(0.5, 1.0)  # noqa: S311 (pauses, not secrets)


def _read_completion(index: int, response: httpx.Response, *, chat: bool) -> Completion:
    try:
        document = json.loads(response.content)
        choice = document["choices"][0]
        text = choice["message"]["content"] if chat else choice["text"]
        usage = document.get("usage") or {}
        return Completion(
            index=index,
            # A server may send half of a surrogate pair, which no UTF-8 file can hold; and nothing,
            # where a reasoning model was cut off before it answered.
            text=(text or "").encode("utf-8", "replace").decode(),
            prompt_tokens=int(usage.get("prompt_tokens") or 0),
            completion_tokens=int(usage.get("completion_tokens") or 0),
            finish_reason=str(choice.get("finish_reason") or ""),
        )
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        shown = response.text[:_SHOWN_CHARACTERS]
        raise EngineError(f"{response.url} answers, but with no completion: {shown!r}") from error


def _is_too_long(response: httpx.Response) -> bool:
    """Whether a request is refused since the model takes less; OpenAI and vLLM say so in words."""
    return response.status_code == httpx.codes.BAD_REQUEST and bool(
        re.search(
            r"context_length_exceeded|(maximum|max_model)[ _]?(context|model)?[ _]?len",
            response.text,
        )
    )


def _fault_of(response: httpx.Response) -> str:
    shown = " ".join(response.text.split())[:_SHOWN_CHARACTERS]
    return f"HTTP {response.status_code} {shown}".rstrip()


def _retry_after_s(response: httpx.Response) -> float | None:
    """The seconds that the endpoint asks to wait, at most LONGEST_PAUSE_S."""
    try:
        asked_s = float(response.headers.get("retry-after", ""))
    except ValueError:  # absent, or a date: the doubled pauses will do
        return None
    return min(max(asked_s, 0.0), LONGEST_PAUSE_S)
