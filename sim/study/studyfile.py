"""The study's file: how it is read, and one to begin with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from sim import yamlfile
from sim.errors import StudyError
from sim.study.spec import Study

TEMPLATE = Path(__file__).with_name("template.yaml")
#: The name by which the template's first line names the schema to editors.
SCHEMA_NAME = "study.schema.json"


def load_study(path: Path, overrides: Sequence[str] = ()) -> Study:
    """The study of a file, with ``a.b=c`` instead of what it says at ``a.b``. Raises StudyError, all problems at once.

    Paths in it are relative to the file's folder.
    """
    study = yamlfile.load(path, Study, StudyError, overrides)
    everywhere = set.intersection(*(set(varied) for varied, _ in study.points()))
    for text in overrides:
        key = text.partition("=")[0]
        if hidden := sorted(everywhere & {key, key.partition(".")[0]}):
            raise StudyError(
                f"{path}: --set {text}: has no effect, as the grid varies {hidden[0]}; set the grid's values, as in"
                " --set grid.product.load.session_rate=[1,2]"
            )
    return study


class _ForEditors(GenerateJsonSchema):
    """Without what says nothing: titles that repeat the key, and that None is what is not given."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        """Never."""
        return False

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        """The schema, with a default that says something."""
        made = super().default_schema(schema)
        return {key: value for key, value in made.items() if (key, value) != ("default", None)}


def study_schema() -> dict[str, Any]:
    """The JSON Schema of a study's file, by which editors check and complete it."""
    schema = Study.model_json_schema(schema_generator=_ForEditors)
    return {"$schema": GenerateJsonSchema.schema_dialect, **schema}


def write_template(target: Path) -> list[Path]:
    """Write a study to begin with, ``target`` or study.yaml in that folder, and its schema beside it.

    Gives what was written. Raises StudyError where one of them is there already, or cannot be written.
    """
    file = target if target.suffix in (".yaml", ".yml") else target / "study.yaml"
    texts = {
        file: TEMPLATE.read_text(encoding="utf-8"),
        file.with_name(SCHEMA_NAME): json.dumps(study_schema(), indent=2) + "\n",
    }
    for path in texts:
        if path.exists():
            raise StudyError(f"{path}: is there already; name another folder, or move it away")
    for path, text in texts.items():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise StudyError(f"{path}: cannot be written ({error.strerror}); name another folder") from error
    return list(texts)
