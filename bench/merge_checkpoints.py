"""Synthetic checkpoints of a given size, sharded, for `bench/merge.py` and by hand."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file


@dataclass(frozen=True, slots=True)
class Shape:
    """A decoder-only model's sizes."""

    layers: int
    hidden: int
    intermediate: int
    vocabulary: int
    key_value: int

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes, as a Qwen2 model has them."""
        shapes: dict[str, tuple[int, ...]] = {
            "model.embed_tokens.weight": (self.vocabulary, self.hidden)
        }
        for layer in range(self.layers):
            at = f"model.layers.{layer}."
            shapes |= {
                at + "input_layernorm.weight": (self.hidden,),
                at + "mlp.down_proj.weight": (self.hidden, self.intermediate),
                at + "mlp.gate_proj.weight": (self.intermediate, self.hidden),
                at + "mlp.up_proj.weight": (self.intermediate, self.hidden),
                at + "post_attention_layernorm.weight": (self.hidden,),
                at + "self_attn.k_proj.bias": (self.key_value,),
                at + "self_attn.k_proj.weight": (self.key_value, self.hidden),
                at + "self_attn.o_proj.weight": (self.hidden, self.hidden),
                at + "self_attn.q_proj.bias": (self.hidden,),
                at + "self_attn.q_proj.weight": (self.hidden, self.hidden),
                at + "self_attn.v_proj.bias": (self.key_value,),
                at + "self_attn.v_proj.weight": (self.key_value, self.hidden),
            }
        return shapes | {"model.norm.weight": (self.hidden,)}


ONE_AND_A_HALF_BILLION = Shape(28, 1536, 8960, 151_936, 256)
SMALL = Shape(4, 512, 1408, 8192, 128)


def write_checkpoint(
    folder: Path, shape: Shape, *, step: float, shard_bytes: int, dtype: torch.dtype
) -> None:
    """Writes a sharded checkpoint whose weights are random, the same for every `step`.

    Args:
        folder: Made; must not exist.
        shape: The model's sizes.
        step: Standard deviation of what is added to every weight: the RL step.
        shard_bytes: A shard is closed before the tensor that would make it larger.
        dtype: Of all weights.
    """
    folder.mkdir(parents=True)
    shapes = shape.tensors()
    shards: list[list[str]] = [[]]
    size_bytes = 0
    for name, extents in shapes.items():
        tensor_bytes = torch.Size(extents).numel() * dtype.itemsize
        if shards[-1] and size_bytes + tensor_bytes > shard_bytes:
            shards.append([])
            size_bytes = 0
        shards[-1].append(name)
        size_bytes += tensor_bytes
    weight_map: dict[str, str] = {}
    for number, names in enumerate(shards, start=1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        tensors = {name: _weights(name, shapes[name], step, dtype) for name in names}
        save_file(tensors, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(names, file)
    total = sum(torch.Size(extents).numel() for extents in shapes.values()) * dtype.itemsize
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
    config = {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.hidden // 128,
        "num_key_value_heads": shape.key_value // 128,
        "vocab_size": shape.vocabulary,
        "tie_word_embeddings": True,
        "torch_dtype": str(dtype).removeprefix("torch."),
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2))


def _weights(name: str, shape: tuple[int, ...], step: float, dtype: torch.dtype) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(name.encode()) + len(name))
    weights = torch.randn(shape, generator=generator).mul_(0.02)
    if step:
        weights += torch.randn(shape, generator=generator).mul_(step)
    return weights.to(dtype)
