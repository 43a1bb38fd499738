"""Recorded runs as workflows. One file per format, found by its content.

A format is a module with ``looks_like(document) -> bool`` and
``load(document, options) -> Iterator[Workflow | Skipped]``. It yields `Skipped` for a record it cannot use
and raises TraceError where nothing of the document can be read. If its documents tell of runs that other documents
record, it also has ``about(document) -> Iterator[About]``, which is asked of all documents before any is loaded.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import pkgutil
import zlib
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cache, cached_property
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from sim.errors import TraceError, WorkflowError
from sim.tokens import ESTIMATED, Tokenizer
from sim.workflow import Workflow

#: Why a text that should be JSON is skipped.
BROKEN_JSON = "broken JSON, or JSON cut off; copy it again, or leave it out"

_NAME_LENGTH = 100


@dataclass(frozen=True)
class Document:
    """One original trace file as text. ``where`` names it for people: file, and path inside it."""

    where: str
    text: str

    @cached_property
    def data(self) -> Any:
        """The text as JSON, or None where it is not JSON."""
        try:
            return json.loads(self.text)
        except (ValueError, RecursionError):
            return None

    @cached_property
    def lines(self) -> list[str]:
        """The text's lines, parted at line feeds only: a recorded text may contain any other line break."""
        return self.text.split("\n")

    @property
    def name(self) -> str:
        """The last two parts of the path, without ending: stable, and no path of a machine in it."""
        path = self._path
        parts = (*path.parts[:-1], path.stem)
        return "/".join(part for part in parts[-2:] if part not in ("/", ".", ".."))

    @property
    def is_broken_json(self) -> bool:
        """No JSON, and no lines of it, although it begins like one or is called one."""
        if self.data is not None or _is_json(self.text.partition("\n")[0]):
            return False
        return self.text.lstrip().startswith("{") or self._path.name.removesuffix(".gz").endswith((".json", ".jsonl"))

    @property
    def _path(self) -> Path:
        return Path(self.where.rpartition(": ")[2])


@dataclass(frozen=True, slots=True)
class About:
    """What a document tells of a run that another one records: the task's text, failure labels."""

    framework: str
    run: str
    problem: str = ""
    labels: Mapping[str, bool] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """``hidden_calls`` adds LLM calls that the run made but its log does not show.

    ``about``: what other documents tell, by framework and name of the run. ``only``: patterns of the ids of the
    workflows to keep, as a shell's for names; without any, all are kept. ``all_skipped``: whoever reports shall name
    every document that was skipped.
    """

    tokenizer: Tokenizer = ESTIMATED
    hidden_calls: bool = False
    only: tuple[str, ...] = ()
    all_skipped: bool = False
    about: Mapping[tuple[str, str], About] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Skipped:
    """A record that gave no workflow, and why."""

    where: str
    reason: str


@dataclass(slots=True)
class LoadReport:
    """What was read and what was not: documents = those that gave workflows + those skipped + ``about``.

    ``about`` counts the documents that only tell of runs in others, ``not_kept`` workflows that were not asked for.
    """

    documents: int = 0
    about: int = 0
    not_kept: int = 0
    workflows: Counter[str] = field(default_factory=Counter)
    skipped: list[Skipped] = field(default_factory=list)

    def line(self) -> str:
        """One line for people."""
        read = ", ".join(f"{count} {name}" for name, count in sorted(self.workflows.items())) or "none"
        about = f", {self.about} that only describe others" if self.about else ""
        not_kept = f", {self.not_kept} other workflows" if self.not_kept else ""
        skipped = f"{len(self.skipped)} skipped"
        return f"{self.documents} documents: {self.workflows.total()} workflows ({read}){not_kept}{about}, {skipped}"


def formats() -> dict[str, ModuleType]:
    """Format name -> module, in alphabetical order."""
    return {info.name: import_module(f"{__name__}.{info.name}") for info in pkgutil.iter_modules(__path__)}


def read(paths: Iterable[str | Path], options: LoadOptions = LoadOptions()) -> tuple[list[Workflow], LoadReport]:
    """All workflows of the files and folders, in order, and the report of what was left out.

    Raises TraceError where a path does not exist or no workflow comes out of any of them.
    """
    places = list(paths)
    for path in places:
        if not os.path.exists(path):  # unlike Path.exists it takes any name
            raise TraceError(f"{path or 'an empty name'}: no such file or folder; check its name")
    workflows: dict[str, Workflow] = {}
    report = LoadReport()
    documents = deque(document for path in map(Path, places) for document in _documents(path, report))
    options = replace(options, about={**options.about, **_about(documents)})
    seen: dict[str, str] = {}
    while documents:  # none is kept once it is read
        document = documents.popleft()
        report.documents += 1
        first = seen.setdefault(segment_id(document.text), document.where)
        if first != document.where:
            report.skipped.append(Skipped(f"{document.where} (as {first})", "the same, byte for byte"))
            continue
        before = len(report.skipped), len(workflows), report.not_kept
        for item in load_document(document, options):
            if isinstance(item, Workflow) and item.id in workflows:
                item = Skipped(document.where, f"workflow {item.id} was already read")
            if isinstance(item, Skipped):
                report.skipped.append(item)
            elif options.only and not any(fnmatchcase(item.id, pattern) for pattern in options.only):
                report.not_kept += 1
            else:
                workflows[item.id] = item
                report.workflows[item.framework] += 1
        report.about += before == (len(report.skipped), len(workflows), report.not_kept)
    if not workflows and report.not_kept:
        raise TraceError(f"--only {' '.join(options.only)}: none of {report.not_kept} workflows has such an id")
    if not workflows:
        raise TraceError(_nothing(report, places))
    return list(workflows.values()), report


def load_document(document: Document, options: LoadOptions) -> Iterator[Workflow | Skipped]:
    """The workflows of one document; whatever goes wrong becomes a `Skipped`."""
    loader = _loader(document)
    if loader is None:
        yield Skipped(document.where, _unknown(document))
        return
    try:
        yield from loader.load(document, options)
    except (TraceError, WorkflowError) as error:
        yield Skipped(document.where, str(error))


def _about(documents: Iterable[Document]) -> dict[tuple[str, str], About]:
    """What the documents tell of runs in others. What cannot be read is reported when the document is loaded."""
    found: dict[tuple[str, str], About] = {}
    for document in documents:
        module = _loader(document)
        if module is None or not hasattr(module, "about"):
            continue
        with suppress(TraceError):
            for item in module.about(document):
                key = item.framework, item.run
                known = found.get(key, item)
                both = sorted({*known.labels, *item.labels})
                labels = {name: known.labels.get(name, False) or item.labels.get(name, False) for name in both}
                found[key] = replace(item, problem=known.problem or item.problem, labels=labels)
    return found


def text_of(path: Path) -> str:
    """The text of a file, plain or gzip. Raises TraceError, without the path."""
    try:
        data = path.read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise TraceError("not text in UTF-8; convert it, or name another file") from error
    except (OSError, EOFError, zlib.error) as error:
        problem = getattr(error, "strerror", None) or f"damaged gzip file ({error})"
        raise TraceError(f"{problem}; name another file, or copy it again") from error


def segment_id(text: str) -> str:
    """A name for a text from which the text cannot be read: equal texts have equal names, in every process.

    Whoever guesses a text can see that the guess was right.
    """
    # JSON may escape half a surrogate pair, which is no UTF-8.
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]


def identifier(value: Any, what: str) -> str:
    """The value, if it is a short name: whatever else a damaged file has there might be a text, and stays out."""
    if isinstance(value, str) and 0 < len(value) <= _NAME_LENGTH and value.isprintable():
        return value
    raise TraceError(f"{what} has no usable name; give it one of at most {_NAME_LENGTH} printable characters")


@cache
def _modules() -> Sequence[ModuleType]:
    return tuple(formats().values())


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _loader(document: Document) -> ModuleType | None:
    return next((module for module in _modules() if module.looks_like(document)), None)


def _unknown(document: Document) -> str:
    if not document.text.strip():
        return "the file is empty; copy it again, or leave it out"
    if document.is_broken_json:
        return BROKEN_JSON
    return f"no format that workspan reads ({', '.join(formats())}); convert it, or leave it out"


def _nothing(report: LoadReport, paths: Iterable[str | Path]) -> str:
    if not report.skipped:
        return f"{', '.join(map(str, paths))}: no trace file there; name a .json, .jsonl or .jsonl.gz file"
    first = report.skipped[0]
    more = f" (and {len(report.skipped) - 1} more)" if len(report.skipped) > 1 else ""
    return f"{first.where}: {first.reason}{more}; no workflow could be read"


def _documents(path: Path, report: LoadReport) -> Iterator[Document]:
    """A folder gives its files but hidden ones, a file itself, a collection of originals each of them."""
    if path.is_dir():
        for file in sorted(path.rglob("*")):
            if any(part.startswith(".") for part in file.relative_to(path).parts):
                continue  # as `ls` does
            if file.is_file():
                yield from _documents(file, report)
            elif file.is_symlink():
                report.documents += 1
                report.skipped.append(Skipped(str(file), "a link to a folder or to nothing; name what it leads to"))
        return
    try:
        text = text_of(path)
    except TraceError as error:
        report.documents += 1
        report.skipped.append(Skipped(str(path), str(error)))
        return
    yield from _originals(path, text, report) if _is_collection(text) else [Document(str(path), text)]


def _is_collection(text: str) -> bool:
    """One original file per line: ``{"framework", "path", "bytes", "sha256", "text"}``."""
    first = text.partition("\n")[0]
    return first.startswith("{") and '"sha256"' in first and '"text"' in first


def _originals(path: Path, text: str, report: LoadReport) -> Iterator[Document]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            name, original = row["path"], row["text"]
            if not (isinstance(name, str) and Path(name).name and isinstance(original, str)):
                raise ValueError
        except (ValueError, KeyError, TypeError, RecursionError):
            report.documents += 1
            reason = 'no original file; give it a "path" with a file\'s name and a "text", or leave it out'
            report.skipped.append(Skipped(f"{path}, line {number}", reason))
        else:
            yield Document(f"{path}: {name}", original)
