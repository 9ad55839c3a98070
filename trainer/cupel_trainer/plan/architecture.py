"""A model's shape, without its weights: built on the meta device, where tensors have no bytes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from cupel_trainer.errors import CheckpointError

if TYPE_CHECKING:
    from torch import nn
    from transformers import PretrainedConfig


@dataclass(frozen=True, slots=True)
class Architecture:
    """What a plan needs to know of a model.

    Args:
        name: As the recipe has it.
        parameters: All of them, tied ones once.
        block_parameters: Of one decoder layer, the largest.
        root_parameters: Of all that is in no decoder layer: embeddings, output head, last norm.
        layers: Decoder layers.
        windows: Of each layer, how many tokens back it looks; None for all.
        hidden: Width of the residual stream.
        intermediate: Width within the feed-forward part.
        query_width: Query heads times their width.
        key_value_width: Key heads (as many as value heads) times their width.
        vocabulary: Tokens.
        context: The longest sequence that it was made for.
    """

    name: str
    parameters: int
    block_parameters: int
    root_parameters: int
    layers: int
    windows: tuple[int | None, ...]
    hidden: int
    intermediate: int
    query_width: int
    key_value_width: int
    vocabulary: int
    context: int

    def cache_bytes(self, tokens: int, element_bytes: int = 2) -> int:
        """Keys and values of one sequence.

        Args:
            tokens: Its length.
            element_bytes: Of one number.
        """
        kept = sum(tokens if window is None else min(window, tokens) for window in self.windows)
        return 2 * self.key_value_width * kept * element_bytes


def find_config(model: str) -> Path:
    """Where the shape of a model that a recipe names is written.

    Args:
        model: A folder, or a model's name on the hub; no hub is asked.

    Raises:
        CheckpointError: It is neither a folder with a config.json nor a model whose shape ships
            with Cupel.
    """
    folder = Path(model)
    if (folder / "config.json").is_file():
        return folder / "config.json"
    shipped = Path(str(files(__package__))) / "architectures"
    found = shipped / f"{model.replace('/', '--')}.json"
    if found.is_file():
        return found
    known = ", ".join(sorted(path.stem.replace("--", "/") for path in shipped.glob("*.json")))
    raise CheckpointError(
        f"{model}: its shape is not known here: name a folder that holds its config.json, "
        f"or one of {known}"
    )


def read_architecture(model: str) -> Architecture:
    """Builds a model on the meta device and measures it.

    Args:
        model: A folder with a config.json, or a model whose shape ships with Cupel.

    Raises:
        CheckpointError: There is no such config, or no model can be built from it.
    """
    path = find_config(model)
    try:
        document = json.loads(path.read_text("utf-8"))
        config = _config(document)
        built = _on_meta(config)
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{path}: no model can be built from it: {error}") from error
    blocks = _blocks(built, config)
    parameters = sum(each.numel() for each in built.parameters())
    in_blocks = [sum(each.numel() for each in block.parameters()) for block in blocks]
    head_width = getattr(config, "head_dim", None) or (
        config.hidden_size // config.num_attention_heads
    )
    return Architecture(
        name=model,
        parameters=parameters,
        block_parameters=max(in_blocks),
        root_parameters=parameters - sum(in_blocks),
        layers=len(in_blocks),
        windows=_windows(config),
        hidden=config.hidden_size,
        intermediate=config.intermediate_size,
        query_width=config.num_attention_heads * head_width,
        key_value_width=config.num_key_value_heads * head_width,
        vocabulary=config.vocab_size,
        context=config.max_position_embeddings,
    )


def _config(document: dict[str, object]) -> PretrainedConfig:
    from transformers import AutoConfig

    fields = dict(document)
    return AutoConfig.for_model(str(fields.pop("model_type")), **fields)


def _on_meta(config: PretrainedConfig) -> nn.Module:
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        built: nn.Module = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]  # theirs
            config
        )
    return built


def _blocks(model: nn.Module, config: PretrainedConfig) -> list[nn.Module]:
    from torch import nn

    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == config.num_hidden_layers:
            return list(module)
    raise ValueError("it has no list of decoder layers")


def _windows(config: PretrainedConfig) -> tuple[int | None, ...]:
    kinds = getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers
    return tuple(config.sliding_window if kind == "sliding_attention" else None for kind in kinds)
