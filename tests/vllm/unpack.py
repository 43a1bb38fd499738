"""The Python files of a vLLM wheel, fit to be imported without its compiled parts.

python tests/vllm/unpack.py WHEEL FOLDER
"""

import sys
import zipfile
from pathlib import Path


def main(wheel, folder):
    with zipfile.ZipFile(wheel) as files:
        names = [name for name in files.namelist() if name.endswith(".py") or ".dist-info/" in name]
        files.extractall(folder, names)
    # vLLM takes its platform from the version of its distribution.
    (metadata,) = Path(folder).glob("vllm-*.dist-info/METADATA")
    lines = metadata.read_text().splitlines()
    metadata.write_text("\n".join(f"{line}+cpu" if line.startswith("Version: ") else line for line in lines) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
