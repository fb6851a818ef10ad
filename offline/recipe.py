"""A recipe: the configs of all stages, read from TOML.

The effective recipe (defaults filled in) is written beside every output. Unknown keys and wrong types are
refused with the file and the dotted path of the key.
"""

from __future__ import annotations

import difflib
import string
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError

from offline.config import (
    Config,
    DataConfig,
    DistillConfig,
    EncodeConfig,
    EvaluateConfig,
    ExportConfig,
    IndexConfig,
    PackConfig,
    PublishConfig,
    RefineConfig,
    SearchConfig,
    TextConfig,
    TrainConfig,
)
from offline.config_milvus import MilvusConfig
from offline.errors import RecipeError
from offline.ray_config import RayConfig
from offline.scaling_config import ScalingConfig
from offline.sharded_config import ShardedConfig
from snapshot.text import field_names


class Recipe(Config):
    """Everything that ``python -m offline run`` needs beside the data."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    data: DataConfig = DataConfig()
    text: TextConfig = TextConfig()
    train: TrainConfig = TrainConfig()
    distill: DistillConfig = DistillConfig()
    refine: RefineConfig = RefineConfig()
    search: SearchConfig = SearchConfig()
    export: ExportConfig = ExportConfig()
    encode: EncodeConfig = EncodeConfig()
    ray: RayConfig = RayConfig()
    index: IndexConfig = IndexConfig()
    milvus: MilvusConfig = MilvusConfig()
    sharded: ShardedConfig = ShardedConfig()
    pack: PackConfig = PackConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    publish: PublishConfig = PublishConfig()
    scaling: ScalingConfig = ScalingConfig()


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe and apply ``overrides`` such as ``train.epochs=2`` (values in TOML's notation, or bare text).

    Raises:
        RecipeError: the file cannot be read, is not TOML, or does not fit; names the key.
    """
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read ({error.strerror}); recipes that come along are in offline/recipes") from error
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: not UTF-8 (byte {error.start}); save the file as UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{path}: not TOML: {error}") from error
    for override in overrides:
        _apply(raw, override)
    try:
        recipe = Recipe.model_validate(raw)
    except ValidationError as error:
        raise RecipeError("\n".join(_explain(path, detail) for detail in error.errors())) from error
    _check(path, recipe)
    return recipe


def _apply(raw: dict[str, Any], override: str) -> None:
    key, separator, value = override.partition("=")
    if not separator or not key.strip():
        raise RecipeError(f"--set {override!r}: write it as section.key=value, for example --set train.epochs=2")
    *sections, last = key.strip().split(".")
    target = raw
    for section in sections:
        target = target.setdefault(section, {})
        if not isinstance(target, dict):
            raise RecipeError(f"--set {override!r}: {section} is a value, not a section")
    target[last] = _value(value.strip())


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _explain(path: Path, detail: Any) -> str:
    place = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        return f"{path}: {place}: unknown key{_suggestion(detail['loc'])}"
    return f"{path}: {place}: {detail['msg']} (got {detail['input']!r})"


def _suggestion(loc: Sequence[str | int]) -> str:
    model: type[BaseModel] = Recipe
    for part in loc[:-1]:
        field = model.model_fields.get(str(part))
        if field is None or not isinstance(field.annotation, type) or not issubclass(field.annotation, BaseModel):
            return ""
        model = field.annotation
    close = difflib.get_close_matches(str(loc[-1]), model.model_fields, n=1)
    return f"; did you mean {close[0]}?" if close else f"; known keys: {', '.join(model.model_fields)}"


def _check(path: Path, recipe: Recipe) -> None:
    check_distill(recipe.distill, f"{path}: distill")
    _check_texts(path, recipe)
    _check_towers(path, recipe)


def check_distill(distill: DistillConfig, where: str) -> None:
    """Refuse settings of ``distill`` that contradict each other; ``where`` they are written.

    Raises:
        RecipeError: no student, or nothing to learn, comes of them.
    """
    if (distill.layers is None) == (distill.backbone is None) or (distill.student == "backbone") != (
        distill.backbone is not None
    ):
        raise RecipeError(
            f"{where}: give either layers (of the teacher) or backbone (another model), not both; "
            "--set 'distill={backbone=\"...\"}' takes the place of the section"
        )
    if distill.mse_weight == 0 and distill.cosine_weight == 0:
        raise RecipeError(f"{where}: mse_weight and cosine_weight are both 0; nothing would be learnt")
    if distill.student == "narrow" and distill.width is None and distill.ffn is None:
        raise RecipeError(f"{where}: a narrow student needs width or ffn; without, it is not narrow")
    if distill.student != "narrow" and (distill.width is not None or distill.ffn is not None):
        raise RecipeError(f'{where}: width and ffn are those of a narrow student; say student = "narrow"')
    if distill.shares and not sum(distill.shares.values()) > 0:
        raise RecipeError(f"{where}.shares: all are 0; nothing would be learnt")


def _check_towers(path: Path, recipe: Recipe) -> None:
    """Templates are filled in by ``snapshot.text.render``."""
    query, document = recipe.text.query.template, recipe.text.document.template
    for place, template, known in (("text.query", query, ("text",)), ("text.document", document, ("title", "text"))):
        names = field_names(template)
        if not names or not names <= set(known):
            fields = " or ".join(f"{{{name}}}" for name in known)
            raise RecipeError(f"{path}: {place}.template: {template!r} must hold {fields}, and no other field")


def _check_texts(path: Path, recipe: Recipe) -> None:
    """Templates are filled in by ``str.format``."""
    generator = recipe.data.generator
    rows = [("data.templates", template, {"title", "keywords"}, "title") for template in recipe.data.templates]
    if generator is not None:
        rows.append(("data.generator.prompt", generator.prompt, {"title", "text"}, "text"))
    for place, template, known, needed in rows:
        try:
            names = {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}
            if names <= known:
                template.format(**dict.fromkeys(known, "text"))  # a conversion or a format may be none of a text's
        except (ValueError, KeyError, OverflowError) as error:
            raise RecipeError(f"{path}: {place}: {template!r} is no template ({error}); double a brace that is meant") from error
        if needed not in names or not names <= known:
            raise RecipeError(f"{path}: {place}: {template!r} must hold {{{needed}}} and may hold {sorted(known)}, nothing else")
