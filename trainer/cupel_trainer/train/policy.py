"""The model that is trained, and its tokenizer."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cupel_trainer.errors import EngineError
from cupel_trainer.train.recipe import Recipe


# Any: transformers has no types that mypy --strict can use.
@dataclass(frozen=True, slots=True)
class Policy:
    """What is trained.

    Args:
        model: With float32 weights.
        tokenizer: Pads on the left.
        context_tokens: What the model takes, or what the recipe allows.
    """

    model: Any
    tokenizer: Any
    context_tokens: int


def load_tokenizer(recipe: Recipe) -> Any:
    """The tokenizer.

    Raises:
        EngineError: It cannot be loaded.
    """
    from transformers import AutoTokenizer

    source = recipe.model.tokenizer or recipe.model.path
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            source, padding_side="left", trust_remote_code=recipe.model.trust_remote_code
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise EngineError(f"the tokenizer {source} cannot be loaded: {error}") from error
    if tokenizer.eos_token_id is None:
        raise EngineError(f"the tokenizer {source} has no end token: no completion would end")
    return tokenizer


def load_policy(recipe: Recipe) -> Policy:
    """Model and tokenizer, with float32 master weights.

    Raises:
        EngineError: They cannot be loaded, or tensors are missing.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    hide_bars: Any = disable_progress_bar  # it has no types
    hide_bars()  # the run has one of its own
    tokenizer = load_tokenizer(recipe)
    path = recipe.model.path
    loader: Any = AutoModelForCausalLM
    options: dict[str, Any] = {"trust_remote_code": recipe.model.trust_remote_code}
    if recipe.model.attention:
        options["attn_implementation"] = recipe.model.attention
    try:
        if recipe.model.random_seed is not None:
            config = AutoConfig.from_pretrained(
                path, trust_remote_code=options["trust_remote_code"]
            )
            torch.manual_seed(recipe.model.random_seed)
            model = loader.from_config(config, dtype=torch.float32, **options)
        else:
            model, found = loader.from_pretrained(
                path, dtype=torch.float32, output_loading_info=True, **options
            )
            if missing := sorted(found["missing_keys"]):
                raise EngineError(f"{path} lacks {len(missing)} tensors, such as {missing[0]}")
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        raise EngineError(f"{path} cannot be loaded: {error}") from error
    return Policy(model, tokenizer, context_tokens(recipe, model.config))


def context_tokens(recipe: Recipe, config: Any) -> int:
    """What the model takes, prompt and completion together."""
    takes = getattr(config, "max_position_embeddings", None) or 2**31
    return min(takes, recipe.sampling.max_context_tokens or takes)


def weights_digest(model: Any) -> str:
    """SHA-256 of a model's weights: names, dtypes, shapes and bytes, in the order of the names.

    A tensor that is tied to another counts once. Sharded weights are gathered one by one: every
    process must ask.
    """
    import torch

    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        with _whole(parameter):
            tensor = parameter.detach().cpu().contiguous()
            digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
            digest.update(tensor.view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def folder_digest(folder: Path) -> str:
    """The same digest of a checkpoint's safetensors files, read one tensor at a time."""
    import torch
    from safetensors import safe_open

    names: dict[str, Path] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            names |= dict.fromkeys(opened.keys(), file)
    digest = hashlib.sha256()
    for name, tensor in _tensors(names):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _tensors(names: dict[str, Path]) -> Iterator[tuple[str, Any]]:
    from safetensors import safe_open

    for name, file in sorted(names.items()):
        with safe_open(file, framework="pt") as opened:
            yield name, opened.get_tensor(name)


def _whole(parameter: Any) -> AbstractContextManager[None]:
    if not hasattr(parameter, "ds_id"):  # only ZeRO 3 has sharded it when it was loaded
        return nullcontext()
    import deepspeed  # type: ignore[import-not-found,unused-ignore]  # no part of our environment: DeepSpeed needs a GPU

    gathered: AbstractContextManager[None] = deepspeed.zero.GatheredParameters([parameter])
    return gathered
