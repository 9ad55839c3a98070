"""What is to be merged: one description behind command line, TOML files and Python calls."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from cupel_trainer.errors import MergeRefused
from cupel_trainer.merge.catalog import METHODS

Finite = Annotated[float, Field(allow_inf_nan=False)]


class Dtype(StrEnum):
    """What floating-point tensors become."""

    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"
    FLOAT32 = "float32"

    @property
    def code(self) -> str:
        """Its name in safetensors files."""
        return {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}[self.value]


class Layer(BaseModel):
    """Another alpha for some tensors."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pattern: str = Field(min_length=1, description="Shell pattern on the whole tensor name.")
    alpha: Finite | None = Field(None, description="Replaces the sweep's alpha.")
    scale: Finite = Field(1.0, description="Multiplies the sweep's alpha, if alpha is not given.")


class Recipe(BaseModel):
    """A merge: which checkpoints, how, and where to."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    inputs: tuple[str, ...] = Field(
        min_length=2, description="Folders or URLs; of a sweep, the low end and the high end."
    )
    out: Path = Field(description="Folder in which each output gets one of its own.")
    method: str = Field("linear", description="See `cupel merge methods`.")
    alphas: tuple[Finite, ...] = Field(
        (),
        description="Of a sweep: 0 is the low end, 1 the high one; any other is allowed. "
        "Other methods: see `cupel merge methods`.",
    )
    coefficients: tuple[tuple[Finite, ...], ...] = Field(
        (), description="One row per output, one number per input, instead of alphas."
    )
    layers: tuple[Layer, ...] = Field((), description="Tensors with an alpha of their own.")
    options: dict[str, Finite] = Field({}, description="Further numbers of some methods.")
    dtype: Dtype | None = Field(None, description="Of the outputs; by default as the inputs.")
    memory_bytes: int = Field(
        1_400_000_000, ge=64_000_000, description="What the whole process may use."
    )

    @field_validator("alphas")
    @classmethod
    def _alphas_differ(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        value = tuple(alpha + 0.0 for alpha in value)  # there is no -0
        names = [alpha_name(alpha) for alpha in value]
        if len(set(names)) != len(names):
            raise ValueError("two alphas are the same")
        return value

    @model_validator(mode="after")
    def _has_outputs(self) -> Self:
        method = METHODS.get(self.method)  # an unknown one is refused with its name later
        takes = method is not None and bool(method.alphas or method.coefficients)
        if bool(self.alphas) == bool(self.coefficients) and (takes or self.alphas):
            said = f"; to {self.method}, alphas are {method.alphas}" if method else ""
            raise ValueError(f"give either alphas or coefficients{said}")
        for row in self.coefficients:
            if len(row) != len(self.inputs):
                raise ValueError(f"{len(self.inputs)} inputs, but a row of {len(row)} coefficients")
        if self.coefficients and self.layers:
            raise ValueError("layers go with alphas, not with coefficients")
        if any(math.isinf(scale) for scale in self.options.values()):
            raise ValueError("options must be finite")
        return self

    def of_output(self, index: int) -> dict[str, object]:
        """The recipe of one output alone, as JSON: without where it goes and what it may use."""
        alone = {
            "alphas": self.alphas[index : index + 1],
            "coefficients": self.coefficients[index : index + 1],
        }
        only = self.model_copy(update=alone)
        return only.model_dump(mode="json", exclude={"out", "memory_bytes"})


def alpha_name(alpha: float) -> str:
    """The folder of an alpha: `alpha_-0.5`."""
    return f"alpha_{alpha + 0.0:g}"  # + 0.0: there is no alpha_-0


def read_recipe(file: Path) -> Recipe:
    """Reads a recipe from TOML; relative paths in it are relative to its folder.

    Raises:
        MergeRefused: It cannot be read, or is not valid; the text says which field.
    """
    try:
        document = tomllib.loads(file.read_text("utf-8"))
    except OSError as error:
        raise MergeRefused(f"{file}: {error.strerror}") from error
    except ValueError as error:
        raise MergeRefused(f"{file}: not valid TOML: {error}") from error
    recipe = make_recipe(document, where=str(file))
    inputs = tuple(
        each if "://" in each else str(file.parent / Path(each).expanduser())
        for each in recipe.inputs
    )
    return recipe.model_copy(
        update={"inputs": inputs, "out": file.parent / recipe.out.expanduser()}
    )


def make_recipe(fields: Mapping[str, object], where: str = "merge") -> Recipe:
    """A recipe from its fields.

    Raises:
        MergeRefused: They are not valid; the text says which and why.
    """
    try:
        return Recipe.model_validate(fields)
    except ValidationError as error:
        said = [
            ".".join(map(str, fault["loc"])) + ": " + fault["msg"].removeprefix("Value error, ")
            if fault["loc"]
            else fault["msg"].removeprefix("Value error, ")
            for fault in error.errors()
        ]
        raise MergeRefused(f"{where}: " + "; ".join(said)) from error
