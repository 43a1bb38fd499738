"""The pages of the documentation: their commands, blocks of code, links and headings."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "CONTRIBUTING.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")))
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"^ {4}()(workspan .*\n)", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """``language`` is empty for a shell's lines; ``line``: the page's, of its first; ``before``: the text above it."""

    language: str
    text: str
    line: int
    before: str


def text(page):
    return (ROOT / page).read_text()


def blocks(page):
    """All blocks of code, and commands that are set off by four blanks, in the order of the page."""
    whole = text(page)
    found = sorted([*_FENCE.finditer(whole), *_INDENTED.finditer(whole)], key=lambda one: one.start())
    return [Block(one[1], one[2], whole.count("\n", 0, one.start(2)) + 1, whole[: one.start()]) for one in found]


def commands(block):
    """Pairs of line and command, ``workspan`` and its arguments, of a shell's block; a command may have many lines."""
    whole, found = "", []
    for number, line in enumerate(block.text.replace("\\\n", "\\ \n").splitlines(), block.line):
        whole += line.removesuffix("\\ ") if line.endswith("\\ ") else line + "\n"
        if line.endswith("\\ ") or not _is_whole(whole):
            continue
        if whole.startswith("workspan "):
            found.append((number, whole.strip()))
        whole = ""
    return found


def words(command):
    """The arguments of a command, as a shell reads them, without its comment."""
    return shlex.split(command, comments=True)[1:]


def spans(page):
    """All `code` within the text of a page."""
    return re.findall(r"`([^`]+)`", _prose(page).replace("\n", " "))


def links(page):
    """Pairs of path, relative to the page, and heading; either may be empty."""
    found = re.findall(r"\]\(([^)\s]+)\)", _prose(page))
    return [one.partition("#")[::2] for one in found if not re.match(r"\w+:", one)]


def anchors(page):
    """What links may name after a #: the headings, as GitHub writes them."""
    headings = re.findall(r"^#+ (.+)$", _prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _prose(page):
    return _FENCE.sub("", text(page))


def _is_whole(command):
    try:
        words(command)
    except ValueError:  # a quotation is open
        return False
    return True
