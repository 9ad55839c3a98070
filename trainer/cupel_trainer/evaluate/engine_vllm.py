"""The engine `vllm`: an offline vLLM engine that is kept full, with a seed for each request."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from cupel_trainer.episodes.message import Messages
from cupel_trainer.errors import EngineError
from cupel_trainer.evaluate.engine import Completion, Request, Waiting, out_of_context
from cupel_trainer.evaluate.prompt_tokens import encode_prompts
from cupel_trainer.evaluate.records import Sampling

IN_FLIGHT = 1024
"""Requests that the engine holds at one time: more than it ever runs in one step."""


class VllmEngine:
    """A model in vLLM.

    Args:
        checkpoint: Its folder, or its name on a hub that vLLM can reach.
        dtype: Of the weights, such as `bfloat16`; `auto` for that of the checkpoint.
        chat: Whether the prompt is a chat message, where the tokenizer has a chat template.
        options: Further arguments of `vllm.LLM`, such as `tensor_parallel_size`.

    Raises:
        EngineError: The model cannot be loaded, or vLLM is not installed.
    """

    def __init__(
        self,
        checkpoint: str,
        *,
        dtype: str = "auto",
        chat: bool = True,
        options: Mapping[str, object] | None = None,
    ) -> None:
        try:
            from vllm import LLM
        except ImportError as error:
            raise EngineError(
                f"vLLM is not usable here ({error}): pip install 'cupel[vllm]', or use --engine hf"
            ) from error
        try:
            # Any: vLLM has no types that mypy --strict can use.
            self._llm: Any = LLM(model=checkpoint, dtype=dtype, **(options or {}))
        # vLLM starts a process of its own, and wraps what goes wrong there in what it likes.
        except (OSError, ValueError, KeyError, RuntimeError, TypeError, ImportError) as error:
            raise EngineError(f"vLLM cannot load {checkpoint}: {error}") from error
        self._tokenizer: Any = self._llm.get_tokenizer()
        self._chat = chat
        self._checkpoint = checkpoint
        self._started = 0

    @property
    def together(self) -> int:
        """1: vLLM itself chooses what is computed together, from step to step."""
        return 1

    def draw(
        self, requests: Iterable[Request | None], sampling: Sampling
    ) -> Iterator[Sequence[Completion]]:
        """Draws with the engine always full; see `Engine`."""
        engine = self._llm.llm_engine
        encoded = self._encode(requests) if isinstance(requests, Sequence) else {}
        waiting = Waiting(iter(requests))
        indices: dict[str, int] = {}
        try:
            while True:
                while len(indices) < IN_FLIGHT and (following := waiting.take()):
                    index, request = following
                    ids = (encoded or self._encode([request]))[request.messages]
                    if ids is None:
                        yield [out_of_context(index)]
                        continue
                    name = f"cupel-{self._started}"
                    self._started += 1
                    indices[name] = index
                    engine.add_request(
                        name,
                        {"prompt_token_ids": ids},
                        _params(sampling, request.seed),
                    )
                if not indices:
                    if waiting.over:
                        return
                    yield []
                    continue
                finished = [output for output in self._step() if output.finished]
                if finished:
                    yield [
                        self._completion(indices.pop(output.request_id), output)
                        for output in finished
                    ]
        except GeneratorExit:  # the caller stops early
            engine.abort_request(list(indices))
            raise

    def _encode(self, requests: Sequence[Request | None]) -> dict[Messages, list[int] | None]:
        return encode_prompts(
            self._tokenizer,
            (request.messages for request in requests if request is not None),
            chat=self._chat,
            context_tokens=self._llm.llm_engine.model_config.max_model_len,
            checkpoint=self._checkpoint,
        )

    # Any: vLLM has no types that mypy --strict can use.
    def _step(self) -> list[Any]:
        from vllm.v1.engine.exceptions import EngineDeadError

        try:
            outputs: list[Any] = self._llm.llm_engine.step()
        except (EngineDeadError, RuntimeError) as error:
            raise EngineError(
                f"vLLM failed with {self._checkpoint}, its log above says why: {error}"
            ) from error
        return outputs

    def _completion(self, index: int, output: Any) -> Completion:
        (drawn,) = output.outputs
        return Completion(
            index=index,
            text=self._tokenizer.decode(drawn.token_ids, skip_special_tokens=True),
            prompt_tokens=len(output.prompt_token_ids),
            completion_tokens=len(drawn.token_ids),
            finish_reason=drawn.finish_reason or "",
        )

    def close(self) -> None:
        """Ends vLLM's process, and lets go of its memory."""
        self._llm.llm_engine.engine_core.shutdown()
        del self._llm
        gc.collect()


def _params(sampling: Sampling, seed: int) -> object:
    """Explicit parameters: vLLM then leaves out what the checkpoint's generation config wants."""
    from vllm import SamplingParams

    return SamplingParams(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        max_tokens=sampling.max_tokens,
        seed=seed,
        detokenize=False,  # vLLM's text lacks the bytes of a character that was cut off
    )
