"""Recipes as TOML: reading, changing single fields, explaining all of them."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from cupel_trainer.errors import RecipeError
from cupel_trainer.evaluate.problem_set import is_at_service
from cupel_trainer.train.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Explained:
    """One field of the recipe.

    Args:
        name: Its place, such as `sampling.group_size`.
        default: As TOML would say it; `required` where there is none.
        reason: What it does and why it is so.
    """

    name: str
    default: str
    reason: str


def read_recipe(file: Path, changes: Sequence[str] = ()) -> Recipe:
    """Reads a recipe; relative paths in it are relative to its folder.

    Args:
        file: A TOML file.
        changes: Of single fields, each as `sampling.temperature=0.7`; values as in TOML, or words.

    Raises:
        RecipeError: It cannot be read or is not valid; the text names the field and the remedy.
    """
    try:
        document = tomllib.loads(file.read_text("utf-8"))
    except OSError as error:
        raise RecipeError(f"{file}: {error.strerror}") from error
    except ValueError as error:
        raise RecipeError(f"{file}: not valid TOML: {error}") from error
    for change in changes:
        _apply(document, change)
    return _resolved(make_recipe(document, where=str(file)), file.parent)


def make_recipe(fields: Mapping[str, object], where: str = "recipe") -> Recipe:
    """A recipe from its fields.

    Raises:
        RecipeError: They are not valid; the text names each field and what is wrong with it.
    """
    try:
        return Recipe.model_validate(fields)
    except ValidationError as error:
        faults = [_said(list(map(str, fault["loc"])), fault["msg"]) for fault in error.errors()]
        raise RecipeError(
            f"{where}: " + "; ".join(faults) + " (`cupel train --explain` lists all fields)"
        ) from error


def explain(section: type[BaseModel] = Recipe, prefix: str = "") -> Iterator[Explained]:
    """All fields of the recipe, in its order."""
    for name, field in section.model_fields.items():
        place = f"{prefix}{name}"
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel) and name != "coverage":
            yield from explain(inner, f"{place}.")
        else:
            yield Explained(place, _default(field), field.description or "")


def _said(place: list[str], message: str) -> str:
    message = message.removeprefix("Value error, ")
    return f"{'.'.join(place)}: {message}" if place else message


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.default
    if isinstance(value, BaseModel):
        inner = value.model_dump(mode="json", exclude_defaults=True)
        return "{" + ", ".join(f"{name} = {_toml(each)}" for name, each in inner.items()) + "}"
    return _toml(value)


def _toml(value: object) -> str:
    match value:
        case None:
            return "unset"
        case bool():
            return str(value).lower()
        case str() | Path():
            return f'"{value}"'
        case tuple() | list():
            return "[" + ", ".join(map(_toml, value)) + "]"
        case _:
            return str(value)


def _apply(document: dict[str, object], change: str) -> None:
    place, equals, text = change.partition("=")
    names = [name.strip() for name in place.split(".")]
    if not equals or not all(names):
        raise RecipeError(f"--set {change}: write it as sampling.temperature=0.7")
    table = document
    for depth, name in enumerate(names[:-1], start=1):
        inner = table.setdefault(name, {})
        if not isinstance(inner, dict):
            raise RecipeError(f"--set {change}: {'.'.join(names[:depth])} is not a table")
        table = inner
    table[names[-1]] = _value(text.strip())


def _value(text: str) -> object:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except ValueError:
        return text  # a word, such as a path or a URL


def _resolved(recipe: Recipe, folder: Path) -> Recipe:
    """With paths that do not depend on where the command is run."""

    def place(name: str) -> str:
        inside = folder / Path(name).expanduser()
        return str(inside) if inside.exists() else name  # else a name on a hub

    problems = recipe.problems
    source = problems.set if is_at_service(problems.set) else str(folder / problems.set)
    template = problems.template and folder / problems.template.expanduser()
    return recipe.model_copy(
        update={
            "model": recipe.model.model_copy(
                update={
                    "path": place(recipe.model.path),
                    "tokenizer": recipe.model.tokenizer and place(recipe.model.tokenizer),
                }
            ),
            "problems": problems.model_copy(update={"set": source, "template": template}),
        }
    )
