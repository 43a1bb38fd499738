"""YAML files read strictly: PyYAML lets a key occur twice and reads ``1e-3`` as text; here it does not."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError
from typing_extensions import is_typeddict

from sim.errors import WorkspanError, nearest

Model = TypeVar("Model", bound=BaseModel)
Place = Sequence[str | int]

_MAP, _STR, _NULL = (f"tag:yaml.org,2002:{kind}" for kind in ("map", "str", "null"))
_FLOAT = re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$|^[-+]?\.inf$|^\.nan$")


class _Loader(yaml.SafeLoader):
    """Collects keys that occur twice in ``problems``: where, and a text. ``name`` is what errors call the text read."""

    def __init__(self, text: str, name: str = "") -> None:
        super().__init__(text)
        self.name = name
        self.problems: list[tuple[yaml.Mark, str]] = []

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem="a key that is no name; write a name", problem_mark=key.start_mark)
            if key.value in seen:
                self.problems.append((key.start_mark, f"key {key.value!r} occurs twice; remove one"))
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


def load(path: Path, model: type[Model], error: type[WorkspanError], overrides: Sequence[str] = ()) -> Model:
    """The file's content as a ``model``. Raises ``error`` with file, lines and mends, all problems at once.

    ``overrides``: values that count instead of the file's, each as ``a.b=c``, of which errors say ``--set a.b=c``.
    """
    try:
        loader = _Loader(path.read_text(encoding="utf-8-sig"))
        root = loader.get_single_node()
        for text in overrides if root else ():
            root = _overridden(root, model, text)
        data = loader.construct_document(root) if root else None
    except (OSError, UnicodeDecodeError) as problem:
        reason = getattr(problem, "strerror", None) or "not text in UTF-8"
        raise error(f"{path}: cannot be read ({reason}); name another file") from problem
    except RecursionError as problem:
        raise error(f"{path}: nested too deeply; take brackets away") from problem
    except yaml.YAMLError as problem:
        mark = getattr(problem, "problem_mark", None)
        where = f", {_called(mark)}" if mark else ""
        raise error(f"{path}{where}: {getattr(problem, 'problem', None) or 'not valid YAML'}") from problem
    if root is None or not isinstance(data, dict):
        raise error(f"{path}: not a mapping; give it the keys {', '.join(model.model_fields)}")
    problems = loader.problems
    try:
        found = model.model_validate(data)
    except ValidationError as invalid:
        problems += [
            (_find(root, e["loc"]).start_mark, _explain(model, e["loc"], e["type"], e["msg"])) for e in invalid.errors()
        ]
    if problems:
        told = sorted(problems, key=lambda problem: (problem[0].name, problem[0].line, problem[1]))
        raise error(f"{path}: {'; '.join(f'{_called(mark)}: {text}' for mark, text in told)}")
    return found


def _called(mark: yaml.Mark) -> str:
    """Where that is, in words."""
    return mark.name or f"line {mark.line + 1}"


def _explain(model: type[BaseModel], place: Place, kind: str, message: str) -> str:
    """``engine.max_num_seq: unknown key; did you mean 'max_num_seqs'?``."""
    return f"{'.'.join(map(str, place))}: {_problem(model, place, kind, message)}".removeprefix(": ")


def _problem(model: type[BaseModel], place: Place, kind: str, message: str) -> str:
    if kind == "extra_forbidden":
        return f"unknown key{nearest(str(place[-1]), _fields(model, place[:-1]))}"
    if kind == "missing":
        return "missing; add it"
    if kind == "model_type":
        return f"not a mapping; give it keys of {', '.join(_fields(model, place))}, or {{}}"
    if kind == "too_short":
        return "empty; give it one or more"
    if kind == "dict_type":
        return "not a mapping; give it keys and values, or {}"
    # A message of ours may quote names, whose case counts.
    return message.removeprefix("Value error, ") if kind == "value_error" else message.lower()


def _fields(model: Any, place: Place) -> list[str]:
    """The keys that are known at this place."""
    for key in place:
        # The key of a mapping of models is a name of the user's.
        if str(key) in (kinds := _kinds(model)):
            model = _inner(kinds[str(key)]) or model
    return list(_kinds(model))


def _kinds(model: Any) -> dict[str, Any]:
    """Key -> type of its value."""
    if is_typeddict(model):
        return dict(model.__annotations__)
    return {name: field.annotation for name, field in model.model_fields.items()}


def _inner(annotation: Any) -> Any:
    """The model of a value, of a value that may be None, of a list's items or of a mapping's values."""
    if is_typeddict(annotation) or (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
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


def _overridden(root: yaml.Node | None, model: type[BaseModel], text: str) -> yaml.Node:
    """The file's content with another value for a key, from ``key=value``. Raises YAMLError that names the text."""
    key, is_given, value = text.partition("=")
    loader = _Loader(value, f"--set {text}")
    mark = loader.get_mark()
    place = _place(model, key.strip())
    if not is_given or not place:
        raise yaml.MarkedYAMLError(problem="give KEY=VALUE, such as seeds=3", problem_mark=mark)
    return _replaced(root, place, loader.get_single_node() or yaml.ScalarNode(_NULL, "", mark, mark), mark)


def _place(model: type[BaseModel], key: str) -> list[str | int]:
    """The parts of ``server.replicas`` or ``policies[0]``; where known keys have dots, all up to an index is one."""
    place: list[str | int] = []
    rest = [name for name in re.split(r"[.\[\]]+", key) if name]
    while rest:
        dotted = any("." in known for known in _fields(model, place))
        names = list(takewhile(lambda name: not name.isdecimal(), rest))[: None if dotted else 1]
        place.append(".".join(names) if names else int(rest[0]))
        rest = rest[len(names) or 1 :]
    return place


def _replaced(node: yaml.Node | None, place: Place, value: yaml.Node, mark: yaml.Mark) -> yaml.Node:
    """A copy with the value at that place; a copy as, by an anchor, the node may be in several places."""
    if not place:
        return value
    key, rest = place[0], place[1:]
    if isinstance(key, int):
        if not isinstance(node, yaml.SequenceNode) or key >= len(node.value):
            raise yaml.MarkedYAMLError(problem=f"there is no item {key}; they count from 0", problem_mark=mark)
        item = _replaced(node.value[key], rest, value, mark)
        return yaml.SequenceNode(node.tag, [*node.value[:key], item, *node.value[key + 1 :]], node.start_mark)
    if node is None or node.tag == _NULL:
        node = yaml.MappingNode(_MAP, [], mark)
    if not isinstance(node, yaml.MappingNode):
        raise yaml.MarkedYAMLError(problem=f"{key!r} would be in what is no mapping; set all of it", problem_mark=mark)
    old = next((pair for pair in node.value if pair[0].value == key), None)
    name = old[0] if old and rest else yaml.ScalarNode(_STR, key, mark)
    new = name, _replaced(old and old[1], rest, value, mark)
    # What is in a key that occurs twice is left so that this is told; all of it is replaced together.
    kept = [pair for pair in node.value if pair is not old and (rest or pair[0].value != key)]
    return yaml.MappingNode(node.tag, [*kept, new], node.start_mark)
