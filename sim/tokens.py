"""How many tokens a text has."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from sim.workflow import Workflow


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


def tiktoken(encoding: str) -> Tokenizer:
    """OpenAI's byte-pair encoding of that name. Needs the package tiktoken."""
    import tiktoken as package

    encode = package.get_encoding(encoding).encode_ordinary
    return Tokenizer(f"tiktoken {encoding}", lambda text: len(encode(text)))
