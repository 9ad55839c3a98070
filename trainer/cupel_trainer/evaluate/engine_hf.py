"""The engine `hf`: transformers' generate on a CPU or GPU, with a generator for each sample.

Drawing is by Gumbel's trick: the largest of log-probabilities plus Gumbel noise is a sample of the
distribution (Maddison, Tarlow and Minka 2014, arXiv 1411.0030). With the noise of each row from a
generator of its own, a sample depends on its seed and not on what else is in the batch.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cupel_trainer.episodes.message import Messages
from cupel_trainer.errors import EngineError
from cupel_trainer.evaluate.engine import Completion, Request, out_of_context
from cupel_trainer.evaluate.prompt_tokens import encode_prompts
from cupel_trainer.evaluate.records import Sampling

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class _Row:
    """One row of a batch: which request, its tokens, its seed."""

    index: int
    prompt: list[int]
    seed: int


class HfEngine:
    """A causal language model of transformers.

    Args:
        checkpoint: Its folder, or its name on a hub that transformers can reach.
        dtype: Of the weights, such as `bfloat16`; `auto` for that of the checkpoint.
        device: `cpu`, `cuda`, ...; `auto` for a GPU where there is one.
        batch_size: How many completions are drawn as one.
        chat: Whether the prompt is a chat message, where the tokenizer has a chat template.

    Raises:
        EngineError: The model cannot be loaded.
    """

    def __init__(
        self,
        checkpoint: str,
        *,
        dtype: str = "auto",
        device: str = "auto",
        batch_size: int = 16,
        chat: bool = True,
    ) -> None:
        self._tokenizer, self._model = _load(checkpoint, dtype, device)
        self._checkpoint = checkpoint
        self._chat = chat
        self._batch_size = batch_size
        self._end_ids = _end_ids(self._model, self._tokenizer)
        self._model.generation_config = _generation_config()  # see there
        if self._tokenizer.pad_token_id is None:  # padding is masked: any token will do
            self._tokenizer.pad_token_id = self._end_ids[0] if self._end_ids else 0

    @property
    def together(self) -> int:
        """The batch size."""
        return self._batch_size

    def draw(
        self, requests: Iterable[Request | None], sampling: Sampling
    ) -> Iterator[Sequence[Completion]]:
        """Draws batch after batch; see `Engine`."""
        if isinstance(requests, Sequence):
            self._encode(requests)  # what is too long is said before anything is drawn
        start = 0
        for asked in _batches(requests, self._batch_size):
            encoded = self._encode(asked)
            completions, batch = [], []
            for index, request in enumerate(asked, start):
                ids = encoded[request.messages]
                if ids is None:
                    completions.append(out_of_context(index))
                else:
                    batch.append(_Row(index, ids, request.seed))
            start += len(asked)
            if batch:
                prompts, seeds = [row.prompt for row in batch], [row.seed for row in batch]
                completions += [
                    self._completion(row.index, len(row.prompt), new)
                    for row, new in zip(
                        batch, self._generate(prompts, seeds, sampling), strict=True
                    )
                ]
            yield completions

    def _encode(self, requests: Iterable[Request | None]) -> dict[Messages, list[int] | None]:
        return encode_prompts(
            self._tokenizer,
            (request.messages for request in requests if request is not None),
            chat=self._chat,
            context_tokens=self._context_tokens,
            checkpoint=self._checkpoint,
        )

    def close(self) -> None:
        """Lets go of the model and its memory."""
        import torch

        del self._model
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    @property
    def _context_tokens(self) -> int:
        return int(getattr(self._model.config, "max_position_embeddings", None) or 1 << 30)

    def _generate(
        self, prompts: Sequence[Sequence[int]], seeds: Sequence[int], sampling: Sampling
    ) -> list[list[int]]:
        """The new tokens of each row; rows that ended early are padded."""
        import torch

        inputs = self._tokenizer.pad({"input_ids": prompts}, return_tensors="pt")
        inputs = inputs.to(self._model.device)
        width = inputs["input_ids"].shape[1]
        with torch.inference_mode():
            ids = self._model.generate(
                input_ids=inputs["input_ids"],  # (B, width), padded on the left
                attention_mask=inputs["attention_mask"],
                generation_config=_generation_config(
                    max_new_tokens=min(sampling.max_tokens, self._context_tokens - width),
                    eos_token_id=self._end_ids or None,
                    pad_token_id=self._tokenizer.pad_token_id,
                ),
                logits_processor=_processors(sampling, seeds, self._model.device),
            )
        new: list[list[int]] = ids[:, width:].tolist()  # (B, new)
        return new

    def _completion(self, index: int, prompt_tokens: int, new: list[int]) -> Completion:
        ended = next((place for place, token in enumerate(new) if token in self._end_ids), None)
        kept = new if ended is None else new[: ended + 1]
        return Completion(
            index=index,
            text=self._tokenizer.decode(kept, skip_special_tokens=True),
            prompt_tokens=prompt_tokens,
            completion_tokens=len(kept),
            finish_reason="length" if ended is None else "stop",
        )


def _batches(requests: Iterable[Request | None], size: int) -> Iterator[list[Request]]:
    """Requests in groups of a size; fewer, or none, where there are no more now."""
    batch: list[Request] = []
    for request in requests:
        if request is not None:
            batch.append(request)
        if request is None or len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


# Any: transformers has no types that mypy --strict can use.
def _load(checkpoint: str, dtype: str, device: str) -> tuple[Any, Any]:
    """The tokenizer, and the model on its device."""
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    loader: Any = AutoModelForCausalLM
    try:
        tokenizer = AutoTokenizer.from_pretrained(checkpoint, padding_side="left")
        model, found = loader.from_pretrained(checkpoint, dtype=dtype, output_loading_info=True)
        model = model.eval().to(torch.device(device))
    # What transformers raises where files are missing, torn, or of another model.
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        raise EngineError(f"{checkpoint} cannot be loaded: {error}") from error
    # transformers itself goes on, with random numbers in their place.
    if missing := sorted(found["missing_keys"]):
        raise EngineError(f"{checkpoint} lacks {len(missing)} tensors, such as {missing[0]}")
    return tokenizer, model


def _generation_config(**fields: int | list[int] | None) -> object:
    """What `generate` does beyond our processors: nothing, but to end.

    It would fill what is not set here from the model's own config, which may hold top-k or a
    repetition penalty: the model gets an empty one in place of that.
    """
    from transformers import GenerationConfig

    config: Any = GenerationConfig  # it has no types
    made: object = config(do_sample=False, **fields)  # the noise is ours: see the top of this file
    return made


def _end_ids(model: Any, tokenizer: Any) -> list[int]:
    """The tokens that end a completion: those of the model's generation config, the tokenizer's."""
    stated = model.generation_config.eos_token_id
    ids = [] if stated is None else [stated] if isinstance(stated, int) else list(stated)
    if tokenizer.eos_token_id is not None and tokenizer.eos_token_id not in ids:
        ids.append(tokenizer.eos_token_id)
    return ids


def _processors(sampling: Sampling, seeds: Sequence[int], device: torch.device) -> list[Any]:
    """What turns logits into those whose largest is the drawn token; nothing at temperature 0."""
    import torch
    from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopPLogitsWarper

    if sampling.temperature == 0:
        return LogitsProcessorList()
    generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]

    def add_gumbel_noise(input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Minus the logarithm of an exponential variate is Gumbel noise. (B, V) -> (B, V)."""
        # In double precision: the rare extremes decide, and float32 has few values there.
        noise = torch.empty_like(scores, dtype=torch.float64)
        for row, generator in zip(noise, generators, strict=True):
            row.exponential_(generator=generator)
        return scores - noise.log()

    warpers: list[Any] = [TemperatureLogitsWarper(sampling.temperature)]
    if sampling.top_p < 1:
        warpers.append(TopPLogitsWarper(sampling.top_p))
    return LogitsProcessorList([*warpers, add_gumbel_noise])
