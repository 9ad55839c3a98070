"""Tiny checkpoints, made on the fly."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

CONFIG = {"model_type": "qwen2", "hidden_size": 8, "tie_word_embeddings": False}

Tensors = dict[str, torch.Tensor]


def random_tensors(
    seed: int, *, step: float = 0.0, dtype: torch.dtype = torch.bfloat16, hidden: int = 24
) -> Tensors:
    """Weights of a small model; the same for every step, plus noise of that size."""
    generator = torch.Generator().manual_seed(seed)
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (50, hidden)}
    for layer in range(3):
        shapes[f"model.layers.{layer}.mlp.down_proj.weight"] = (hidden, 3 * hidden)
        shapes[f"model.layers.{layer}.self_attn.q_proj.weight"] = (hidden, hidden)
        shapes[f"model.layers.{layer}.norm.weight"] = (hidden,)
    shapes["lm_head.weight"] = (50, hidden)
    tensors = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    noise = torch.Generator().manual_seed(seed + 1)
    return {
        name: (value + step * torch.randn(value.shape, generator=noise)).to(dtype)
        for name, value in tensors.items()
    }


def write_checkpoint(
    folder: Path,
    tensors: Mapping[str, torch.Tensor],
    *,
    shards: int = 1,
    config: Mapping[str, object] = CONFIG,
    files: Mapping[str, str] | None = None,
) -> Path:
    """Writes a checkpoint folder as transformers would."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(dict(config)))
    for name, text in (files or {"tokenizer.json": '{"vocab": 1}'}).items():
        (folder / name).write_text(text)
    if shards == 1:
        save_file(dict(tensors), folder / "model.safetensors", metadata={"format": "pt"})
        return folder
    weight_map = {}
    names = list(tensors)
    for shard in range(shards):
        file = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        part = {name: tensors[name] for name in names[shard::shards]}
        save_file(part, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def write_pair(
    folder: Path, *, step: float = 0.01, shards: int = 1, dtype: torch.dtype = torch.bfloat16
) -> tuple[str, str]:
    """Writes two ends that share an initialisation."""
    low = write_checkpoint(folder / "low", random_tensors(1, dtype=dtype), shards=shards)
    high = write_checkpoint(
        folder / "high", random_tensors(1, step=step, dtype=dtype), shards=shards
    )
    return str(low), str(high)


def read_tensors(folder: Path | str) -> Tensors:
    """All tensors of a checkpoint, by the safetensors library: not by what is tested."""
    tensors: Tensors = {}
    for file in sorted(Path(folder).glob("*.safetensors")):
        tensors |= load_file(file)
    return tensors


def content(folder: Path) -> dict[str, str]:
    """The SHA-256 of every file below a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
