"""Whether LoRA adapters may be averaged, and the config of what comes out."""

from __future__ import annotations

import json
from collections.abc import Sequence

from cupel_trainer.errors import MergeRefused
from cupel_trainer.merge.agreement import differing, file_faults, file_warnings
from cupel_trainer.merge.checkpoint import ADAPTER_CONFIG, Checkpoint
from cupel_trainer.merge.lora import MUST_AGREE, PREFIX, Adapter, read_adapter

_TARGETS = ("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern")


def open_adapters(checkpoints: Sequence[Checkpoint]) -> tuple[Adapter, ...]:
    """What the inputs of a merge say of their deltas.

    Raises:
        CheckpointError: A config does not describe its tensors.
        MergeRefused: One is no adapter, or of a kind that cannot be merged here.
    """
    for checkpoint in checkpoints:
        if not checkpoint.adapter:
            adapter = next(each for each in checkpoints if each.adapter)
            raise MergeRefused(
                f"{adapter.location} is an adapter, {checkpoint.location} is a whole model; "
                "merge the adapter into its base first (merge_and_unload), or take two adapters"
            )
    return tuple(read_adapter(checkpoint) for checkpoint in checkpoints)


def check_adapters(adapters: Sequence[Adapter]) -> tuple[str, ...]:
    """Checks every adapter against the first.

    Args:
        adapters: Two or more.

    Returns:
        Warnings: differences that do not forbid the merge, one line each.

    Raises:
        MergeRefused: They differ; the text lists how, with the modules' names.
    """
    first = adapters[0]
    faults: list[str] = []
    warnings: list[str] = []
    for other in adapters[1:]:
        faults += _config_faults(first, other)
        faults += _whole_faults(first, other)
        faults += file_faults(first.checkpoint, other.checkpoint)
        warnings += file_warnings(first.checkpoint, other.checkpoint)
    for module in modules_of(adapters):
        faults += _module_faults(adapters, module)
    if faults:
        shown = faults[:12] + ([f"... and {len(faults) - 12} more"] if len(faults) > 12 else [])
        raise MergeRefused("the adapters do not fit together:\n  " + "\n  ".join(shown))
    warnings += _partial(adapters)
    if not first.config.base_model_name_or_path:
        warnings.append("the adapters do not name their base model: see to it that it is the same")
    return tuple(dict.fromkeys(warnings))


def modules_of(adapters: Sequence[Adapter]) -> list[str]:
    """All modules that any of them changes, named as in the files, in order."""
    return sorted({module for each in adapters for module in each.pairs})


def merged_config(adapters: Sequence[Adapter]) -> bytes:
    """The `adapter_config.json` of a weighted sum: ranks add up, every scale is 1.

    `r` is the largest rank, as engines that set aside room by it need; modules of another rank
    stand in `rank_pattern`, and in `alpha_pattern` with the same number.

    Args:
        adapters: What is summed up; they agree.
    """
    ranks = {
        module.removeprefix(PREFIX): sum(
            each.pairs[module].rank for each in adapters if module in each.pairs
        )
        for module in modules_of(adapters)
    }
    largest = max(ranks.values())
    # The longer names first: a key counts for all names that end with it.
    other = {
        module: rank
        for module, rank in sorted(ranks.items(), key=lambda item: (-len(item[0]), item[0]))
        if rank != largest
    }
    document = dict(adapters[0].checkpoint.config)
    document |= {
        "r": largest,
        "lora_alpha": largest,
        "rank_pattern": other,
        "alpha_pattern": other,
        "use_rslora": False,
        "init_lora_weights": True,
        "inference_mode": True,
    }
    document |= _targets(adapters, sorted(ranks))
    saved = {name for each in adapters for name in each.config.modules_to_save or ()}
    document["modules_to_save"] = sorted(saved) or None
    for key in ("eva_config", "loftq_config"):  # what began the training began this no more
        if key in document:
            document[key] = None if key == "eva_config" else {}
    return json.dumps(document, indent=2, sort_keys=True).encode() + b"\n"


def _targets(adapters: Sequence[Adapter], modules: Sequence[str]) -> dict[str, object]:
    """What says which modules are changed: as it is, as a union, or by their full names."""
    said = [{key: each.checkpoint.config.get(key) for key in _TARGETS} for each in adapters]
    if all(each == said[0] for each in said):
        return said[0]
    rest = [{**each, "target_modules": None} for each in said]
    lists = [each.config.target_modules for each in adapters]
    names: set[str] = set()
    for each in lists:
        if not isinstance(each, list) or any(other != rest[0] for other in rest):
            return {**dict.fromkeys(_TARGETS), "target_modules": list(modules)}
        names.update(each)
    return {**said[0], "target_modules": sorted(names)}


def _config_faults(first: Adapter, other: Adapter) -> list[str]:
    here, there = first.checkpoint.location, other.checkpoint.location
    faults = []
    mine, theirs = first.checkpoint.config, other.checkpoint.config
    known = {"base_model_name_or_path", "revision", *MUST_AGREE}
    ignored = {*mine, *theirs} - known
    for key in differing(mine, theirs, ignored):
        values = [document.get(key) for document in (mine, theirs)]
        if any(values):  # absent and null say the same
            said = [json.dumps(value)[:80] for value in values]
            faults.append(f"{ADAPTER_CONFIG}: {key} is {said[0]} in {here}, {said[1]} in {there}")
    return faults


def _whole_faults(first: Adapter, other: Adapter) -> list[str]:
    faults = []
    for name in sorted({*first.whole, *other.whole}):
        entries = [each.whole.get(name) for each in (first, other)]
        if None in entries:
            lacks = (first, other)[entries.index(None)].checkpoint.location
            faults.append(
                f"{lacks} lacks {name}, which another one trained as a whole weight; "
                "what it was before is not in an adapter"
            )
        elif len({(entry.dtype, entry.shape) for entry in entries if entry}) > 1:
            faults.append(f"tensor {name}: another dtype or shape in {other.checkpoint.location}")
    return faults


def _module_faults(adapters: Sequence[Adapter], module: str) -> list[str]:
    pairs = [each.pairs[module] for each in adapters if module in each.pairs]
    kinds = {
        (
            *(pair.a.name, pair.a.dtype, pair.b.dtype),
            *(pair.a.shape[1], pair.b.shape[0]),
        )
        for pair in pairs
    }
    if len(kinds) == 1:
        return []
    said = "; ".join(f"{name} {a}/{b} {wide} to {out}" for name, a, b, wide, out in sorted(kinds))
    return [f"{module} differs: {said}"]


def _partial(adapters: Sequence[Adapter]) -> list[str]:
    """A warning for each adapter that leaves modules alone which another one changes."""
    every = modules_of(adapters)
    warnings = []
    for each in adapters:
        missing = [module.removeprefix(PREFIX) for module in every if module not in each.pairs]
        if missing:
            more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
            warnings.append(
                f"{each.checkpoint.location} does not adapt {', '.join(missing[:3])}{more}, "
                "which another one does: counted as no change there"
            )
    return warnings
