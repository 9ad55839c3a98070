"""Averages checkpoints between and beyond their ends (arXiv 2605.28751), in one pass.

from cupel_trainer.merge import merge

merge("runs/low", "runs/high", alphas=[-0.5, 0, 0.5, 1, 1.5], out="merged")
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cupel_trainer.merge.recipe import Recipe
    from cupel_trainer.merge.sweep import Merged

__all__ = ["merge", "merge_recipe"]


def merge(
    low: str,
    high: str,
    *,
    alphas: Sequence[float],
    out: Path | str,
    dtype: str | None = None,
    memory_bytes: int = 1_400_000_000,
) -> Merged:
    """Makes theta(alpha) = low + alpha * (high - low) for every alpha, reading each end once.

    Args:
        low: The checkpoint at alpha 0: a folder or URL.
        high: The checkpoint at alpha 1.
        alphas: Any finite numbers; beyond [0, 1] extrapolates.
        out: Folder in which each output gets one of its own, `alpha_0.5`.
        dtype: `bfloat16`, `float16` or `float32`; by default as the ends.
        memory_bytes: What the whole process may use, with what it holds already.

    Returns:
        The folders and the report.

    Raises:
        TrainerError: See `cupel_trainer.errors`; nothing that looks complete is left.
    """
    from cupel_trainer.merge.recipe import make_recipe

    fields: dict[str, object] = {
        "inputs": (low, high),
        "alphas": tuple(alphas),
        "out": out,
        "dtype": dtype,
        "memory_bytes": memory_bytes,
    }
    return merge_recipe(make_recipe(fields))


def merge_recipe(recipe: Recipe) -> Merged:
    """Makes what a recipe asks for; see `cupel_trainer.merge.recipe`.

    Raises:
        TrainerError: See `cupel_trainer.errors`; nothing that looks complete is left.
    """
    from cupel_trainer.merge.sweep import prepare, run

    return run(prepare(recipe))
