"""YAML files read strictly: PyYAML lets a key occur twice and reads ``1e-3`` as text; here it does not."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from sim.errors import WorkspanError, nearest

Model = TypeVar("Model", bound=BaseModel)
Place = Sequence[str | int]

_FLOAT = re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$|^[-+]?\.inf$|^\.nan$")


class _Loader(yaml.SafeLoader):
    """Collects keys that occur twice in ``problems``: (line, text)."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.problems: list[tuple[int, str]] = []

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem="a key that is no name; write a name", problem_mark=key.start_mark)
            if key.value in seen:
                self.problems.append((_line(key), f"key {key.value!r} occurs twice; remove one"))
            seen.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            value = super().construct_object(node, deep)
            if isinstance(value, str):
                value.encode()  # half a surrogate pair is no text
            return value
        except (ValueError, LookupError, AttributeError) as error:  # what PyYAML raises for the date 2025-13-45
            problem = f"{node.value!r} cannot be read; put a text in quotes"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark) from error


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))


def load(path: Path, model: type[Model], error: type[WorkspanError]) -> Model:
    """The file's content as a ``model``. Raises ``error`` with file, lines and mends, all problems at once."""
    try:
        loader = _Loader(path.read_text(encoding="utf-8-sig"))
        root = loader.get_single_node()
        data = loader.construct_document(root) if root else None
    except (OSError, UnicodeDecodeError) as problem:
        reason = getattr(problem, "strerror", None) or "not text in UTF-8"
        raise error(f"{path}: cannot be read ({reason}); name another file") from problem
    except RecursionError as problem:
        raise error(f"{path}: nested too deeply; take brackets away") from problem
    except yaml.YAMLError as problem:
        mark = getattr(problem, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise error(f"{path}{line}: {getattr(problem, 'problem', None) or 'not valid YAML'}") from problem
    if root is None or not isinstance(data, dict):
        raise error(f"{path}: not a mapping; give it the keys {', '.join(model.model_fields)}")
    problems = loader.problems
    try:
        found = model.model_validate(data)
    except ValidationError as invalid:
        problems += [
            (_line(_find(root, e["loc"])), _explain(model, e["loc"], e["type"], e["msg"])) for e in invalid.errors()
        ]
    if problems:
        raise error(f"{path}: {'; '.join(f'line {line}: {text}' for line, text in sorted(problems))}")
    return found


def _explain(model: type[BaseModel], place: Place, kind: str, message: str) -> str:
    """``engine.max_num_seq: unknown key; did you mean 'max_num_seqs'?``."""
    where = ".".join(map(str, place))
    if kind == "extra_forbidden":
        return f"{where}: unknown key{nearest(str(place[-1]), _fields(model, place[:-1]))}"
    if kind == "missing":
        return f"{where}: missing; add it"
    if kind == "model_type":
        return f"{where}: not a mapping; give it keys of {', '.join(_fields(model, place))}, or {{}}"
    return f"{where}: {message.lower()}"


def _fields(model: type[BaseModel], place: Place) -> list[str]:
    """The keys that are known at this place."""
    for key in place:
        # The key of a mapping of models is a name of the user's.
        if str(key) in model.model_fields:
            model = _inner(model.model_fields[str(key)].annotation) or model
    return list(model.model_fields)


def _inner(annotation: Any) -> type[BaseModel] | None:
    """The model of a value, of a value that may be None, or of a mapping's values."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_inner, get_args(annotation))), None)


def _find(node: yaml.Node, place: Place) -> yaml.Node:
    """The key at this place, or what is nearest to it where it is missing."""
    found = node
    for part in place:
        if isinstance(node, yaml.MappingNode):
            pairs = {key.value: (key, value) for key, value in node.value}
            found, node = pairs.get(part, (found, node))
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int):
            found = node = node.value[part]
    return found


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1
