"""The methods by name, and what each makes of a recipe."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cupel_trainer.errors import MergeRefused

if TYPE_CHECKING:  # torch is behind them; names and help texts need none of it
    from cupel_trainer.merge.checkpoint import Checkpoint
    from cupel_trainer.merge.methods.contract import Method
    from cupel_trainer.merge.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Option:
    """A number that a method takes as `--option NAME=NUMBER`; `default` None: it must be given."""

    meaning: str
    default: float | None
    least: float
    most: float
    above_least: bool = False
    """Whether `least` itself is too small."""
    whole: bool = False
    """Whether it is an integer."""

    @property
    def range(self) -> str:
        """In words: `0 < density <= 1` without the name."""
        signs = "above" if self.above_least else "from"
        return f"{'an integer ' if self.whole else ''}{signs} {self.least:.10g} to {self.most:.10g}"

    def allows(self, value: float) -> bool:
        """Whether a value is in range."""
        above = value > self.least if self.above_least else value >= self.least
        return above and value <= self.most and (not self.whole or value == int(value))


@dataclass(frozen=True, slots=True)
class Entry:
    """A method as users choose it."""

    make: Callable[[Recipe, Sequence[Checkpoint], Mapping[str, float]], Method]
    source: str
    summary: str
    inputs: str
    """What stands for the inputs; the first is x_0, which deltas are counted from."""
    alphas: str
    """What alphas are to it; empty: it takes none."""
    coefficients: str = ""
    """What coefficients are to it; empty: it takes none."""
    options: Mapping[str, Option] = field(default_factory=dict)
    two_ends: bool = False
    """Whether it takes just two inputs when it takes alphas."""
    between_ends: bool = False
    """Whether its alpha is a place on the line through the inputs."""
    adapters: bool = True
    """Whether it is a weighted sum, which low-rank deltas can follow."""


def make_method(recipe: Recipe, inputs: Sequence[Checkpoint]) -> Method:
    """The method that a recipe asks for.

    Args:
        recipe: What was asked for.
        inputs: The checkpoints: some methods count layers, or heed tied tensors.

    Raises:
        MergeRefused: There is none of this name, or the recipe does not suit it.
    """
    entry = find_entry(recipe.method)
    name = recipe.method
    if recipe.alphas and not entry.alphas:
        raise MergeRefused(f"{name} takes no alphas")
    if recipe.coefficients and not entry.coefficients:
        raise MergeRefused(f"{name} takes no coefficients")
    if entry.two_ends and recipe.alphas and len(recipe.inputs) != 2:
        said = f"{name} with alphas takes two checkpoints ({entry.inputs}), not "
        hint = "; give coefficients instead" if entry.coefficients else ""
        raise MergeRefused(f"{said}{len(recipe.inputs)}{hint}")
    if recipe.layers and name != "linear":
        raise MergeRefused(f"layers have alphas of their own with linear only, not with {name}")
    if not entry.adapters and inputs[0].adapter:
        raise MergeRefused(
            f"{name} needs whole weights, and these are adapters: merge each into its base model "
            "first (merge_and_unload), or choose one of: "
            + ", ".join(each for each in METHODS if METHODS[each].adapters)
        )
    return entry.make(recipe, inputs, read_options(recipe.method, recipe.options))


def find_entry(name: str) -> Entry:
    """A method by its name.

    Raises:
        MergeRefused: There is none.
    """
    if name not in METHODS:
        raise MergeRefused(f"no method {name!r}; there are: {', '.join(METHODS)}")
    return METHODS[name]


def read_options(name: str, given: Mapping[str, float]) -> dict[str, float]:
    """A method's options, defaults filled in.

    Args:
        name: The method.
        given: What the recipe says.

    Raises:
        MergeRefused: One is unknown, missing or out of range.
    """
    known = METHODS[name].options
    for option in given:
        if option not in known:
            has = f"it has: {', '.join(known)}" if known else "it has none"
            raise MergeRefused(f"{name} has no option {option!r}; {has}")
    values = {}
    for option, spec in known.items():
        value = given.get(option, spec.default)
        if value is None:
            raise MergeRefused(f"{name} needs --option {option}=..., {spec.range}: {spec.meaning}")
        if not spec.allows(value):
            raise MergeRefused(
                f"{name}: option {option} is {value:g}, but must be {spec.range}: {spec.meaning}"
            )
        values[option] = value
    return values


def _linear(recipe: Recipe, inputs: Sequence[Checkpoint], options: Mapping[str, float]) -> Method:
    from cupel_trainer.merge.methods.linear import LayerAlpha, Linear, Weighted

    if recipe.coefficients:
        return Weighted(recipe.coefficients)
    layers = [LayerAlpha(each.pattern, each.alpha, each.scale) for each in recipe.layers]
    method = Linear(recipe.alphas, layers)
    for index in range(len(recipe.alphas)):
        for name, first in _tied(inputs).items():
            if method.alpha(index, name) != method.alpha(index, first):
                raise MergeRefused(
                    f"{name} and {first} are tied, but the layers' patterns give them different "
                    "alphas"
                )
    return method


def _soup(recipe: Recipe, inputs: Sequence[Checkpoint], options: Mapping[str, float]) -> Method:
    from cupel_trainer.merge.methods.soup import Soup

    return Soup(len(inputs))


def _wise_ft(recipe: Recipe, inputs: Sequence[Checkpoint], options: Mapping[str, float]) -> Method:
    from cupel_trainer.merge.methods.wise_ft import WiseFt

    for alpha in recipe.alphas:
        if not 0.0 <= alpha <= 1.0:
            raise MergeRefused(
                f"wise-ft: alpha is {alpha:g}, but must be from 0 to 1; linear goes beyond"
            )
    return WiseFt(recipe.alphas)


def _expo(recipe: Recipe, inputs: Sequence[Checkpoint], options: Mapping[str, float]) -> Method:
    from cupel_trainer.merge.methods.expo import Expo

    for alpha in recipe.alphas:
        if alpha < 0.0:
            raise MergeRefused(
                f"expo: alpha is {alpha:g}, but must be at least 0; linear goes between the two"
            )
    return Expo(recipe.alphas)


def _slerp(recipe: Recipe, inputs: Sequence[Checkpoint], options: Mapping[str, float]) -> Method:
    from cupel_trainer.merge.methods.slerp import Slerp

    return Slerp(recipe.alphas)


def _task_arithmetic(
    recipe: Recipe, inputs: Sequence[Checkpoint], options: Mapping[str, float]
) -> Method:
    from cupel_trainer.merge.methods.task_arithmetic import TaskArithmetic

    return TaskArithmetic(_rows(recipe))


def _lines(recipe: Recipe, inputs: Sequence[Checkpoint], options: Mapping[str, float]) -> Method:
    from cupel_trainer.merge.lora import base_name
    from cupel_trainer.merge.methods.lines import Lines, count_layers

    depths = count_layers(base_name(name) for each in inputs for name in each.tensors)
    return Lines(recipe.alphas, len(inputs) - 1, options["first"], options["last"], depths)


def _ties(recipe: Recipe, inputs: Sequence[Checkpoint], options: Mapping[str, float]) -> Method:
    from cupel_trainer.merge.methods.ties import Ties

    return Ties(recipe.alphas, len(inputs) - 1, options["density"])


def _dare(recipe: Recipe, inputs: Sequence[Checkpoint], options: Mapping[str, float]) -> Method:
    from cupel_trainer.merge.methods.dare import Dare

    agreeing = recipe.method == "dare-ties"
    rows = [(alpha,) for alpha in recipe.alphas] if agreeing else _rows(recipe)
    density, seed = options["density"], int(options["seed"])
    return Dare(rows, density, seed, agreeing, len(inputs) - 1, _tied(inputs))


def _rows(recipe: Recipe) -> list[tuple[float, ...]]:
    """The coefficients of the task vectors, one row per output."""
    for row in recipe.coefficients:
        if row[0] != 1.0:
            raise MergeRefused(
                f"{recipe.method}: the base's coefficient is {row[0]:g}, but must be 1: "
                "say --coefficients 1,... or use linear"
            )
    if recipe.coefficients:
        return [row[1:] for row in recipe.coefficients]
    return [(alpha,) * (len(recipe.inputs) - 1) for alpha in recipe.alphas]


def _tied(inputs: Sequence[Checkpoint]) -> dict[str, str]:
    """Tensors that are tied to another one, which stands for both."""
    from cupel_trainer.merge.agreement import tied_tensors

    tied = tied_tensors(inputs[0])
    return dict.fromkeys(tied[1:], tied[0]) if tied else {}


_LAMBDA = "lambda, what the changes are multiplied with"
_BASE = "BASE MODEL..."
_OWN_LAMBDAS = "1 for BASE, then one lambda per MODEL"
_DROP = {
    "density": Option("the part of each model's changes that is kept", None, 0.0, 1.0, True),
    "seed": Option("another one drops others", 0.0, 0.0, 2.0**32 - 1, whole=True),
}

METHODS = {
    "linear": Entry(
        _linear,
        "arXiv 2605.28751",
        "low + alpha * (high - low), or sum of c_i * x_i",
        "LOW HIGH, or any number with coefficients",
        "the place between LOW (0) and HIGH (1), or beyond",
        coefficients="c_i, one per checkpoint; they need not add up to 1",
        two_ends=True,
        between_ends=True,
    ),
    "soup": Entry(
        _soup,
        "arXiv 2203.05482",
        "sum of x_i / n",
        "MODEL MODEL...",
        "",
    ),
    "wise-ft": Entry(
        _wise_ft,
        "arXiv 2109.01903",
        "(1 - alpha) * zero_shot + alpha * fine_tuned",
        "ZERO_SHOT FINE_TUNED",
        "the mixing coefficient, from 0 to 1",
        two_ends=True,
        between_ends=True,
    ),
    "expo": Entry(
        _expo,
        "arXiv 2404.16792",
        "aligned + alpha * (aligned - initial)",
        "INITIAL ALIGNED",
        "how far beyond ALIGNED, at least 0",
        two_ends=True,
    ),
    "slerp": Entry(
        _slerp,
        "Shoemake 1985",
        "along the great circle, per tensor; the line where sin(angle) < 1e-6",
        "LOW HIGH",
        "t, the part of the angle between LOW (0) and HIGH (1), or beyond",
        two_ends=True,
        adapters=False,
    ),
    "task-arithmetic": Entry(
        _task_arithmetic,
        "arXiv 2212.04089",
        "base + lambda * sum of (x_i - base)",
        _BASE,
        _LAMBDA,
        coefficients=_OWN_LAMBDAS,
    ),
    "lines": Entry(
        _lines,
        "arXiv 2410.17146",
        "base + lambda * s(layer) * sum of (x_i - base), s from first to last with depth",
        _BASE,
        _LAMBDA,
        options={
            "first": Option("the scale of the first layer, and outside the layers", None, -10, 10),
            "last": Option("the scale of the last layer", 1.0, -10, 10),
        },
    ),
    "ties": Entry(
        _ties,
        "arXiv 2306.01708",
        "base + lambda * mean of the largest (x_i - base) that agree in sign",
        _BASE,
        _LAMBDA,
        options={
            "density": Option(
                "the largest part of each tensor's changes that is kept", 0.2, 0.0, 1.0, True
            ),
        },
        adapters=False,
    ),
    "dare": Entry(
        _dare,
        "arXiv 2311.03099",
        "base + lambda * sum of d_i; d_i = (x_i - base) / density, or 0 at random",
        _BASE,
        _LAMBDA,
        coefficients=_OWN_LAMBDAS,
        options=_DROP,
        adapters=False,
    ),
    "dare-ties": Entry(
        _dare,
        "arXiv 2311.03099",
        "base + lambda * mean of those d_i that agree in sign",
        _BASE,
        _LAMBDA,
        options=_DROP,
        adapters=False,
    ),
}
