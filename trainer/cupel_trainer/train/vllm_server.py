"""Turns from a vLLM server, each a request of its own: it is judged as it ends, not as a batch.

An engine that serves requests takes new ones in as others end. So every episode is played by
itself, and nothing waits for the longest answer of a chunk but the update (docs/scaling.md says
what that is worth). What the server is told and what it answers is OpenAI's completions API with
token ids on both sides: nothing is tokenised again.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from cupel_trainer.errors import EngineError
from cupel_trainer.train.recipe import Sampling
from cupel_trainer.train.rollout import Ids, Sampler, Turn

TRIES = 6
"""How often one turn is asked for before training stops; it resumes from its last checkpoint."""
PAUSE_S = 1.0
"""Before the second try; it doubles each time."""
SHOWN_CHARACTERS = 300
PROBE_TOKENS = 64
PROBE_STEP = 7
MEAN_DIFFERENCE_MAX = 0.5
"""Nats. bfloat16 on both sides differs by hundredths; stale or wrong weights by whole units."""


def probe_ids(vocabulary: int) -> list[int]:
    """The fixed sequence by which two engines are compared.

    Args:
        vocabulary: Tokens of the model.

    Returns:
        Token ids; long enough that a wrong attention or a stale output head shows.
    """
    return [(PROBE_STEP * place) % max(1, vocabulary - 1) + 1 for place in range(PROBE_TOKENS)]


def compare(own: Sequence[float], theirs: Sequence[float]) -> float:
    """How far the server's log-probabilities are from the trainer's.

    Args:
        own: The trainer's.
        theirs: The server's.

    Returns:
        The largest difference.

    Raises:
        EngineError: They differ by more in the mean than any rounding: the server has other
            weights, and what it draws would not be the policy's.
    """
    differences = [abs(mine - other) for mine, other in zip(own, theirs, strict=True)]
    mean = math.fsum(differences) / len(differences)
    if not mean <= MEAN_DIFFERENCE_MAX:  # nan, too
        raise EngineError(
            "the vLLM server has other weights than the trainer: its log-probabilities of a fixed "
            f"sequence are off by {mean:.3g} in the mean; restart it from the recipe's model"
        )
    return max(differences)


@dataclass(frozen=True, slots=True)
class VllmServer:
    """A vLLM server and how it is asked.

    Args:
        client: With the server's base URL and its time limit.
        model: The served model's name.
    """

    client: httpx.Client
    model: str

    @classmethod
    def at(cls, url: str, *, connections: int, timeout_s: float) -> VllmServer:
        """Connects to a server.

        Args:
            url: Where it listens, such as `http://127.0.0.1:8000`.
            connections: Most requests at one time.
            timeout_s: Longest wait for one answer.

        Raises:
            EngineError: It does not answer, or serves no model.
        """
        client = httpx.Client(
            base_url=url.rstrip("/").removesuffix("/v1"),
            timeout=httpx.Timeout(timeout_s, pool=None),
            limits=httpx.Limits(max_connections=connections),
        )
        try:
            models = client.get("/v1/models").raise_for_status().json()
            return cls(client, str(models["data"][0]["id"]))
        except (httpx.HTTPError, ValueError, LookupError) as error:
            client.close()
            raise EngineError(f"{url}: no vLLM server answers there: {error}") from error

    def turn(self, context: Ids, sampling: Sampling, seed: int) -> Turn:
        """One turn after a context.

        Args:
            context: Token ids.
            sampling: How it is drawn.
            seed: Of its chance.

        Raises:
            EngineError: The server is away, or refuses.
        """
        choice = self._complete(
            {
                "prompt": list(context),
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "max_tokens": sampling.max_tokens,
                "seed": seed,
                "logprobs": 0,
                "return_token_ids": True,
            }
        )
        try:
            ids = [int(each) for each in choice["token_ids"]]
            logprobs = [float(each) for each in choice["logprobs"]["token_logprobs"]]
            return Turn(ids, logprobs, ended=choice["finish_reason"] != "length")
        except (LookupError, TypeError, ValueError) as error:
            raise EngineError(
                f"{self.client.base_url}: not an answer of vLLM's: {error}"
            ) from error

    def log_probabilities(self, ids: Ids) -> list[float]:
        """The log-probability of each token but the first, after those before it.

        Args:
            ids: A sequence.

        Returns:
            One number for each token but the first: (T - 1,).

        Raises:
            EngineError: The server is away, or refuses.
        """
        choice = self._complete(
            {"prompt": list(ids), "max_tokens": 1, "temperature": 1.0, "prompt_logprobs": 0}
        )
        try:
            places = zip(ids[1:], choice["prompt_logprobs"][1:], strict=True)
            return [float(found[str(token)]["logprob"]) for token, found in places]
        except (LookupError, TypeError, ValueError) as error:
            raise EngineError(
                f"{self.client.base_url}: not an answer of vLLM's: {error}"
            ) from error

    def close(self) -> None:
        """Closes the connections."""
        self.client.close()

    # Any: a document as the server writes it; each caller takes what it needs.
    def _complete(self, asked: dict[str, object]) -> dict[str, Any]:
        pause_s, fault = PAUSE_S, ""
        for nth in range(TRIES):
            if nth:
                time.sleep(pause_s)
                pause_s *= 2
            try:
                response = self.client.post("/v1/completions", json={"model": self.model} | asked)
            except httpx.TransportError as error:
                fault = f"{type(error).__name__} {error}".rstrip()
                continue
            if response.is_success:
                choice: dict[str, Any] = response.json()["choices"][0]
                return choice
            fault = f"HTTP {response.status_code} {response.text[:SHOWN_CHARACTERS]}"
            if response.status_code < 500 and response.status_code != 429:
                break
        raise EngineError(f"{self.client.base_url}: no completion from the vLLM server: {fault}")


@dataclass(frozen=True, slots=True)
class OneEpisode:
    """Draws the turns of one episode; a `Sampler` that asks no other process.

    Args:
        server: The server.
        sampling: How turns are drawn.
        seed: Of the step and process.
        number: Of the episode in it.
    """

    server: VllmServer
    sampling: Sampling
    seed: int
    number: int

    def draw(self, contexts: Sequence[Ids]) -> list[Turn]:
        """One turn after each context; see `Sampler`."""
        return [self.server.turn(each, self.sampling, self._seed(each)) for each in contexts]

    def any_active(self, active: bool) -> bool:
        """Whether this episode is under way; the server waits for nobody."""
        return active

    def alone(self, number: int) -> Sampler | None:
        """Is alone; see `Sampler`."""
        return self

    def _seed(self, context: Ids) -> int:
        """Of a turn; a longer context is a later turn.

        Hashed, because the generators of a CPU take the lowest 32 bits of a seed only: two seeds
        that differ above them draw the same.
        """
        text = f"cupel turn {self.seed} {self.number} {len(context)}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")
