"""Whether checkpoints may be averaged: the same tensors, the same model, the same tokens.

Averaging checkpoints of different models gives a model that answers nonsense without an error, so
every difference that could matter refuses the merge, all of them in one report.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from cupel_trainer.errors import MergeRefused
from cupel_trainer.merge.checkpoint import ADAPTER_CONFIG, Checkpoint, read_json

FLOATS = ("BF16", "F16", "F32", "F64")
"""Dtypes that are averaged."""
SHOWN = 12
"""Differences that are shown of each kind."""

# What a config may say differently without being another model.
_CONFIG_IGNORED = {
    *("_name_or_path", "transformers_version", "torch_dtype", "dtype", "use_cache"),
    *("base_model_name_or_path", "inference_mode", "revision", "peft_version"),
}
_TOKENIZER_CONFIG_IGNORED = {
    *("name_or_path", "tokenizer_file", "transformers_version", "processor_class"),
    *("padding_side", "truncation_side", "model_max_length"),
}
_TOKENIZER = "tokenizer.json"
_TOKENIZER_CONFIG = "tokenizer_config.json"
_TOKENIZER_FILES = (
    *(_TOKENIZER, _TOKENIZER_CONFIG, "tokenizer.model", "tokenizer.model.v3", "tekken.json"),
    *("spiece.model", "sentencepiece.bpe.model", "vocab.json", "vocab.txt", "merges.txt"),
    *("added_tokens.json", "special_tokens_map.json"),
)
# What these say stands in tokenizer.json, too.
_SLOW_FILES = ("vocab.json", "vocab.txt", "merges.txt", "added_tokens.json")
_WORTH_A_WARNING = ("generation_config.json", "chat_template.jinja", "chat_template.json")


def check_agreement(checkpoints: Sequence[Checkpoint]) -> tuple[str, ...]:
    """Checks every checkpoint against the first.

    Args:
        checkpoints: Two or more.

    Returns:
        Warnings: differences that do not forbid the merge, one line each.

    Raises:
        MergeRefused: They differ; the text lists how, with the tensors' names.
    """
    first = checkpoints[0]
    faults = _quantised(first)
    warnings: list[str] = []
    for other in checkpoints[1:]:
        faults += _quantised(other)
        faults += _tensor_faults(first, other)
        faults += _config_faults(first, other)
        faults += file_faults(first, other)
        warnings += file_warnings(first, other)
    if faults:
        raise MergeRefused("the checkpoints do not fit together:\n  " + "\n  ".join(faults))
    return tuple(dict.fromkeys(warnings))


def config_differences(
    first: Mapping[str, object], other: Mapping[str, object]
) -> dict[str, object]:
    """What a config says that makes it another model's.

    Args:
        first: A document of config.json.
        other: Another one.

    Returns:
        The other's values, by the settings that differ; None where it lacks one.
    """
    return {key: other.get(key) for key in differing(first, other, _CONFIG_IGNORED)}


def is_tied(checkpoint: Checkpoint) -> bool:
    """Whether the config says that output and input embeddings are one tensor."""
    text = checkpoint.config.get("text_config")
    nested = text.get("tie_word_embeddings") if isinstance(text, dict) else None
    return bool(checkpoint.config.get("tie_word_embeddings", nested))


def tied_tensors(checkpoint: Checkpoint) -> tuple[str, ...]:
    """Tensors that must be equal within the checkpoint, if it holds more than one of them."""
    if not is_tied(checkpoint):
        return ()
    ends = ("lm_head.weight", "embed_tokens.weight", "wte.weight", "embed_in.weight")
    found = tuple(name for name in checkpoint.tensors if name.endswith(ends))
    return found if len(found) > 1 else ()


def check_tied(checkpoint: Checkpoint, hashes: Mapping[str, str]) -> None:
    """Checks that tensors which the config ties are equal, as far as they have been read.

    Args:
        checkpoint: One of the inputs.
        hashes: The SHA-256 of the tensors that have been read, by name.

    Raises:
        MergeRefused: They differ.
    """
    tied = [name for name in tied_tensors(checkpoint) if name in hashes]
    if len({hashes[name] for name in tied}) > 1:
        raise MergeRefused(
            f"{checkpoint.location}: its config ties {' and '.join(tied)}, but their values differ"
        )


def _quantised(checkpoint: Checkpoint) -> list[str]:
    where = checkpoint.location
    faults = []
    if checkpoint.config.get("quantization_config"):
        faults.append(
            f"{where}: its config has a quantization_config; averaging packed weights means "
            "nothing: dequantise it first (model.dequantize(), then save_pretrained)"
        )
    small = [name for name, entry in checkpoint.tensors.items() if entry.dtype.startswith("F8")]
    if small:
        faults.append(
            f"{where}: {_some(small)} in 8-bit floats, whose scales stand elsewhere; "
            "dequantise it first"
        )
    return faults


def _tensor_faults(first: Checkpoint, other: Checkpoint) -> list[str]:
    faults = []
    for have, lack in ((first, other), (other, first)):
        missing = [name for name in have.tensors if name not in lack.tensors]
        if missing:
            faults.append(
                f"{lack.location} lacks {_some(missing)}, which {have.location} has"
                + _tied_hint(have, missing)
            )
    for name, entry in first.tensors.items():
        there = other.tensors.get(name)
        if there is None:
            continue
        if there.shape != entry.shape:
            faults.append(
                f"tensor {name}: shape {list(entry.shape)} in {first.location}, "
                f"{list(there.shape)} in {other.location}"
            )
        elif there.dtype != entry.dtype:
            faults.append(
                f"tensor {name}: {entry.dtype} in {first.location}, "
                f"{there.dtype} in {other.location}"
            )
    return _shortened(faults)


def _tied_hint(have: Checkpoint, missing: Sequence[str]) -> str:
    if is_tied(have) and any(name.endswith("lm_head.weight") for name in missing):
        return " (the embeddings are tied: load and save_pretrained both ends the same way)"
    return ""


def _config_faults(first: Checkpoint, other: Checkpoint) -> list[str]:
    if first.adapter != other.adapter:
        return [f"one of {first.location}, {other.location} is an adapter, the other is not"]
    name = ADAPTER_CONFIG if first.adapter else "config.json"
    mine, theirs = (_normalised(each.config) for each in (first, other))
    ignored = set(_CONFIG_IGNORED)
    if "layer_types" not in mine or "layer_types" not in theirs:
        ignored.add("layer_types")  # older libraries did not write it
    keys = differing(mine, theirs, ignored)
    return _shortened([_said(name, key, first, mine, other, theirs) for key in keys])


def _normalised(config: Mapping[str, object]) -> dict[str, object]:
    """A config without what says nothing, and with what versions of the library say differently."""
    document = {key: value for key, value in config.items() if value is not None}
    if not document.get("use_sliding_window", True):
        document.pop("sliding_window", None)
    rope = document.pop("rope_parameters", None) or document.pop("rope_scaling", None)
    if isinstance(rope, dict):
        rope = {key: value for key, value in rope.items() if value is not None}
        if "rope_theta" in rope:
            document["rope_theta"] = rope.pop("rope_theta")
        kind = rope.pop("rope_type", rope.pop("type", "default"))
        if rope or kind != "default":
            document["rope_parameters"] = {"rope_type": kind, **rope}
    return document


def file_faults(first: Checkpoint, other: Checkpoint) -> list[str]:
    """Differences between the files beside the weights that forbid a merge."""
    faults = []
    for name in _TOKENIZER_FILES:
        here, there = (name in each.side_files for each in (first, other))
        if name in _SLOW_FILES and _tokenizer_is_the_same(first, other):
            continue
        if here != there:
            has, lacks = (first, other) if here else (other, first)
            faults.append(f"{has.location} has {name}, {lacks.location} does not")
        elif here and name == _TOKENIZER_CONFIG:
            mine, theirs = (read_json(each.place, name, {name: 0}) for each in (first, other))
            faults += [
                _said(name, key, first, mine, other, theirs)
                for key in differing(mine, theirs, _TOKENIZER_CONFIG_IGNORED)
                if key != "chat_template"
            ]
        elif here and _content(first, name) != _content(other, name):
            faults.append(f"{name}: another one in {other.location} than in {first.location}")
    return _shortened(faults)


def _tokenizer_is_the_same(first: Checkpoint, other: Checkpoint) -> bool:
    mine, theirs = (_content(each, _TOKENIZER) for each in (first, other))
    return mine is not None and mine == theirs


def file_warnings(first: Checkpoint, other: Checkpoint) -> list[str]:
    """Differences between the files beside the weights that do not forbid a merge."""
    warnings = [
        f"{name} differs between {first.location} and {other.location}"
        for name in _WORTH_A_WARNING
        if _content(first, name) != _content(other, name)
    ]
    name = _TOKENIZER_CONFIG
    if name in first.side_files and name in other.side_files:
        templates = [
            read_json(each.place, name, {name: 0}).get("chat_template") for each in (first, other)
        ]
        if templates[0] != templates[1]:
            warnings.append(
                f"the chat template differs between {first.location} and {other.location}"
            )
    return warnings


def _content(checkpoint: Checkpoint, name: str) -> object:
    if name not in checkpoint.side_files:
        return None
    content = checkpoint.place.read_whole(name)
    if not name.endswith(".json"):
        return content
    try:
        document = json.loads(content)  # another order of keys is no difference
    except ValueError:
        return content
    if name == _TOKENIZER and isinstance(document, dict):
        for how in ("truncation", "padding"):  # of the last call, no part of the tokens
            document.pop(how, None)
    return document


def differing(
    first: Mapping[str, object], other: Mapping[str, object], ignored: set[str]
) -> list[str]:
    """The keys whose values differ, or that only one has, in order."""
    absent = object()
    return [
        key
        for key in sorted({*first, *other} - ignored)
        if first.get(key, absent) != other.get(key, absent)
    ]


def _said(
    file: str,
    key: str,
    first: Checkpoint,
    here: Mapping[str, object],
    other: Checkpoint,
    there: Mapping[str, object],
) -> str:
    values = [
        json.dumps(document[key])[:80] if key in document else "absent"
        for document in (here, there)
    ]
    return f"{file}: {key} is {values[0]} in {first.location}, {values[1]} in {other.location}"


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:3])
    return f"tensor {shown}" + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _shortened(faults: list[str]) -> list[str]:
    if len(faults) <= SHOWN:
        return faults
    return [*faults[:SHOWN], f"... and {len(faults) - SHOWN} more of the same kind"]
