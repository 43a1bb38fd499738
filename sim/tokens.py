"""How many tokens a text has."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from sim.errors import TraceError
from sim.workflow import Workflow

_TIMEOUT_S = 60


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """A token counter and the name that files made with it carry."""

    name: str
    count: Callable[[str], int]


#: Four characters a token, the usual rule of thumb for English; files made with it say so.
ESTIMATED = Tokenizer("estimated (characters / 4)", lambda text: -(-len(text) // 4))


def estimated(workflows: Iterable[Workflow]) -> int:
    """How many of the workflows have estimated token counts."""
    return sum(workflow.tokenizer == ESTIMATED.name for workflow in workflows)


def tokenizer(where: str) -> Tokenizer:
    """The one of a ``tokenizer.json``, or of the vLLM server at an ``http://`` address. Raises TraceError."""
    return _of_server(where.rstrip("/")) if where.startswith(("http://", "https://")) else _of_file(Path(where))


def _of_file(path: Path) -> Tokenizer:
    try:
        from tokenizers import Tokenizer as Package
    except ImportError as error:
        raise TraceError("--tokenizer FILE needs the package tokenizers: pip install 'workspan[tokenizers]'") from error
    try:
        data = path.read_bytes()
        encode = Package.from_buffer(data).encode
    except OSError as error:
        raise TraceError(f"--tokenizer {path}: cannot be read ({error.strerror})") from error
    except Exception as error:  # the package raises Exception itself
        raise TraceError(f"--tokenizer {path}: no tokenizer.json of Hugging Face's tokenizers ({error})") from error
    name = f"{path.name} {hashlib.sha256(data).hexdigest()[:12]}"
    return Tokenizer(name, lambda text: len(encode(_utf8(text), add_special_tokens=False)))


def _of_server(url: str) -> Tokenizer:
    import requests

    session = requests.Session()

    def ask(method: str, path: str, **body: object) -> dict[str, object]:
        try:
            answer = session.request(method, url + path, json=body or None, timeout=_TIMEOUT_S)
            answer.raise_for_status()
            data: dict[str, object] = answer.json()
        except (requests.RequestException, ValueError) as error:
            problem = type(error).__name__ if not getattr(error, "response", None) else str(error)
            raise TraceError(f"--tokenizer {url}: no vLLM answers {path} there ({problem}); start it") from error
        return data

    def count(text: str) -> int:
        number = ask("POST", "/tokenize", prompt=_utf8(text), add_special_tokens=False).get("count")
        if not isinstance(number, int):
            raise TraceError(f"--tokenizer {url}: its /tokenize gives no count; is it a vLLM?")
        return number

    models = ask("GET", "/v1/models").get("data")
    try:
        model = models[0]["id"]  # type: ignore[index]
    except (TypeError, LookupError) as error:
        raise TraceError(f"--tokenizer {url}: its /v1/models names no model; is it a vLLM?") from error
    return Tokenizer(f"vLLM /tokenize, {model}", count)


def _utf8(text: str) -> str:
    """The text without half surrogate pairs, which no tokenizer takes."""
    return text.encode("utf-8", "replace").decode()


def tiktoken(encoding: str) -> Tokenizer:
    """OpenAI's byte-pair encoding of that name. Needs the package tiktoken."""
    import tiktoken as package

    encode = package.get_encoding(encoding).encode_ordinary
    return Tokenizer(f"tiktoken {encoding}", lambda text: len(encode(_utf8(text))))
