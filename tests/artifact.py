"""What README and docs claim, found again where a CPU is enough: ``make artifact``.

docs/artifact.md lists the claims; ``python tests/artifact.py C3 C7`` checks some only.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import claims


@dataclass(frozen=True)
class Claim:
    """``check`` is one of tests/claims.py; ``long``: it runs only if it is named."""

    check: Callable[[Path], tuple[bool, str]]
    long: bool = False


CLAIMS = {
    "C1": Claim(claims.bounds),
    "C2": Claim(claims.answer),
    "C3": Claim(claims.no_gain_above_the_bound),
    "C4": Claim(claims.macro_steps),
    "C5": Claim(claims.any_number_of_workers),
    "C6": Claim(claims.killed),
    "C7": Claim(claims.coverage),
    "C8": Claim(claims.random_requests),
    "C9": Claim(claims.held_out),
    "C10": Claim(claims.same_decisions),
    "C11": Claim(claims.speed),
    "C12": Claim(claims.corpus),
    "C13": Claim(claims.status, long=True),
}


def main(names: list[str]) -> int:
    """Check the claims of these names, else all that are not long; 1 if one does not hold."""
    if unknown := sorted(set(names) - set(CLAIMS)):
        sys.exit(f"no claim {', '.join(unknown)} that this can check; there are {', '.join(CLAIMS)}")
    wrong = 0
    with tempfile.TemporaryDirectory(prefix="artifact-") as root:
        for name in names or [name for name, claim in CLAIMS.items() if not claim.long]:
            folder = Path(root) / name
            folder.mkdir()
            began = time.monotonic()
            word, found = judged(CLAIMS[name], folder)
            wrong += word == "FAIL"
            print(f"{word:4} {name:>3}  {found}  ({time.monotonic() - began:.0f} s)", flush=True)
    return int(wrong > 0)


def judged(claim: Claim, folder: Path) -> tuple[str, str]:
    try:
        good, found = claim.check(folder)
    except claims.Missing as error:
        return "SKIP", str(error)
    except subprocess.CalledProcessError as error:
        return "FAIL", f"{' '.join(error.cmd[2:])}: exit code {error.returncode}: {error.stderr.strip()[-300:]}"
    return ("PASS" if good else "FAIL"), found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
