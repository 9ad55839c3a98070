"""LoRA adapters as PEFT keeps them: what a folder's config and tensors say of its deltas.

arXiv 2106.09685, "LoRA: Low-Rank Adaptation of Large Language Models": a weight changes by
s * B A with A of shape (r, in), B of shape (out, r) and s = lora_alpha / r; with rank-stabilised
scaling, arXiv 2312.03732, s = lora_alpha / sqrt(r). Whatever makes a delta something else than
this (DoRA, biases, initialisations that change the base model) is refused by its name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cupel_trainer.errors import CheckpointError, MergeRefused
from cupel_trainer.merge.agreement import FLOATS
from cupel_trainer.merge.checkpoint import ADAPTER_CONFIG, Checkpoint
from cupel_trainer.merge.layout import TensorEntry

PREFIX = "base_model.model."
"""What PEFT puts before the base model's names."""
_PART = re.compile(r"(?P<module>.+)\.lora_(?P<kind>embedding_)?(?P<part>[AB])(?(kind)|\.weight)")

_HARMLESS_INITS = (True, False, "gaussian", "eva", "orthogonal")
"""Initialisations that leave the base model as it is."""
_NO_MATTER = {
    *("auto_mapping", "eva_config", "inference_mode", "init_lora_weights", "loftq_config"),
    *("lora_dropout", "megatron_core", "peft_version", "qalora_group_size", "runtime_config"),
}
"""What may differ or be set without changing what a delta is."""
MUST_AGREE = {"task_type", "fan_in_fan_out", "layer_replication", "megatron_config"}
"""What may be set, if it is the same everywhere."""


class LoraConfig(BaseModel):
    """The part of `adapter_config.json` that tells the deltas; the rest must not matter."""

    model_config = ConfigDict(frozen=True, extra="allow")

    peft_type: str
    base_model_name_or_path: str | None = None
    revision: str | None = None
    r: int = Field(8, ge=1)
    lora_alpha: float = Field(8, allow_inf_nan=False)
    use_rslora: bool = False
    rank_pattern: dict[str, int] | None = None
    alpha_pattern: dict[str, float] | None = None
    target_modules: list[str] | str | None = None
    exclude_modules: list[str] | str | None = None
    layers_to_transform: list[int] | int | None = None
    layers_pattern: list[str] | str | None = None
    modules_to_save: list[str] | None = None
    bias: str = "none"
    use_dora: bool = False
    init_lora_weights: bool | str | None = True

    def rank(self, module: str) -> int:
        """The rank of a module, named as in the base model."""
        return int(_by_pattern(self.rank_pattern or {}, module, self.r))

    def scale(self, module: str) -> float:
        """What B A is multiplied with, in float64."""
        alpha = float(_by_pattern(self.alpha_pattern or {}, module, self.lora_alpha))
        rank = self.rank(module)
        return alpha / math.sqrt(rank) if self.use_rslora else alpha / rank


@dataclass(frozen=True, slots=True)
class Pair:
    """One module's two factors: its delta is scale * B A; of an embedding, its transpose."""

    a: TensorEntry
    b: TensorEntry
    scale: float

    @property
    def rank(self) -> int:
        """The number of A's rows and B's columns."""
        return self.a.shape[0]


@dataclass(frozen=True, slots=True)
class Adapter:
    """An opened adapter."""

    checkpoint: Checkpoint
    config: LoraConfig
    pairs: Mapping[str, Pair]
    """By module, named as in the file: what stands before `.lora_A.weight`."""
    whole: Mapping[str, TensorEntry]
    """Weights that were trained as they are (`modules_to_save`), by the tensor's name."""


def read_adapter(checkpoint: Checkpoint) -> Adapter:
    """What an adapter's config and tensors say.

    Args:
        checkpoint: An adapter's folder.

    Raises:
        CheckpointError: The config is missing or malformed, or does not describe the tensors.
        MergeRefused: The adapter is of a kind whose deltas are not s * B A.
    """
    where = checkpoint.location
    try:
        config = LoraConfig.model_validate(checkpoint.config)
    except ValidationError as error:
        faults = "; ".join(
            ".".join(map(str, fault["loc"])) + ": " + fault["msg"] for fault in error.errors()
        )
        raise CheckpointError(f"{where}/{ADAPTER_CONFIG}: {faults}") from error
    _refuse_other_kinds(where, config)
    parts: dict[str, dict[str, TensorEntry]] = {}
    whole: dict[str, TensorEntry] = {}
    for name, entry in checkpoint.tensors.items():
        found = _PART.fullmatch(name)
        if found is not None:
            parts.setdefault(found["module"], {})[found["part"]] = entry
        elif ".lora_" in name or ".token_adapter." in name:
            raise MergeRefused(f"{where}: tensor {name} is no part of a delta s * B A")
        else:
            whole[name] = entry
    pairs = {module: _pair(where, config, module, found) for module, found in parts.items()}
    return Adapter(checkpoint, config, pairs, whole)


def base_name(name: str) -> str:
    """A module's or tensor's name in the base model."""
    found = _PART.fullmatch(name)
    return (found["module"] + ".weight" if found else name).removeprefix(PREFIX)


def _refuse_other_kinds(where: str, config: LoraConfig) -> None:
    kinds = []
    if config.peft_type != "LORA":
        kinds.append(f"peft_type {config.peft_type} (only LORA can be merged here)")
    if config.use_dora:
        kinds.append("use_dora (DoRA's magnitudes do not add up; merge it into its base first)")
    if config.bias != "none":
        kinds.append(f"bias {config.bias!r} (only 'none' can be merged here)")
    if config.init_lora_weights not in (*_HARMLESS_INITS, None):
        kinds.append(
            f"init_lora_weights {config.init_lora_weights!r}, which may change the base model: "
            "convert it to plain LoRA first (PEFT: path_initial_model_for_weight_conversion)"
        )
    kinds += [
        f"{key} (not known to leave deltas as s * B A)"
        for key, value in (config.model_extra or {}).items()
        if value and key not in _NO_MATTER | MUST_AGREE
    ]
    if kinds:
        raise MergeRefused(f"{where}/{ADAPTER_CONFIG}: " + "; ".join(kinds))


def _pair(where: str, config: LoraConfig, module: str, parts: Mapping[str, TensorEntry]) -> Pair:
    for part, other in (("A", "B"), ("B", "A")):
        if part not in parts:
            raise CheckpointError(f"{where}: {parts[other].name} has no counterpart lora_{part}")
    a, b = parts["A"], parts["B"]
    for entry in (a, b):
        if entry.dtype not in FLOATS:
            raise MergeRefused(f"{where}: tensor {entry.name} is {entry.dtype}, no float")
        if len(entry.shape) != 2:
            raise MergeRefused(
                f"{where}: tensor {entry.name} has the shape {list(entry.shape)}; "
                "only linear and embedding layers can be merged here"
            )
    name = module.removeprefix(PREFIX)
    said = config.rank(name)
    if not a.shape[0] == b.shape[1] == said:
        raise CheckpointError(
            f"{where}: {module} has rank {a.shape[0]} in lora_A, {b.shape[1]} in lora_B, "
            f"{said} in {ADAPTER_CONFIG}"
        )
    return Pair(a, b, config.scale(name))


def _by_pattern(patterns: Mapping[str, float], module: str, default: float) -> float:
    """PEFT's rule: a key is a regular expression for the end of a module's name."""
    for pattern, value in patterns.items():
        try:
            if re.fullmatch(rf"(.*\.)?({pattern})", module):
                return value
        except re.error as error:
            raise CheckpointError(f"{ADAPTER_CONFIG}: pattern {pattern!r}: {error}") from error
    return default
