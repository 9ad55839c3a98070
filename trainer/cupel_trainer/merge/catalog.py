"""The methods by name, and what each makes of a recipe."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cupel_trainer.errors import MergeRefused
from cupel_trainer.merge.methods.contract import Method
from cupel_trainer.merge.methods.linear import LayerAlpha, Linear, Weighted
from cupel_trainer.merge.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Entry:
    """A method as users choose it."""

    make: Callable[[Recipe], Method]
    source: str
    summary: str


def make_method(recipe: Recipe) -> Method:
    """The method that a recipe asks for.

    Raises:
        MergeRefused: There is none of this name, or the recipe does not suit it.
    """
    if recipe.method not in METHODS:
        raise MergeRefused(f"no method {recipe.method!r}; there are: {', '.join(METHODS)}")
    return METHODS[recipe.method].make(recipe)


def _linear(recipe: Recipe) -> Method:
    if recipe.coefficients:
        return Weighted(recipe.coefficients)
    if len(recipe.inputs) != 2:
        raise MergeRefused(
            f"a sweep of alphas lies between two checkpoints, not {len(recipe.inputs)}; "
            "give coefficients instead"
        )
    layers = [LayerAlpha(each.pattern, each.alpha, each.scale) for each in recipe.layers]
    return Linear(recipe.alphas, layers)


METHODS = {
    "linear": Entry(_linear, "arXiv 2605.28751", "low + alpha * (high - low), or sum of c_i * x_i"),
}
