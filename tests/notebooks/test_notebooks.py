"""Every notebook runs from any folder and is committed without what a run leaves in it.

``python tests/notebooks/test_notebooks.py`` strips them all.
"""

import asyncio
import json
import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

REPOSITORY = Path(__file__).parents[2]
NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))
NAMES = (
    "01_first_prediction",
    "02_what_if_study",
    "03_calibrate",
    "04_predicted_vs_measured",
    "05_add_your_own_policy",
)
#: Seconds that a reader waits at most.
MOST_S = 60
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def stripped(path):
    """The text of the notebook as it is committed: sources only, with ids that tell file and place."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    kept = [_stripped(cell, f"{path.name[:2]}-{place:02}") for place, cell in enumerate(cells, start=1)]
    notebook = {"cells": kept, "metadata": METADATA, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def _stripped(cell, name):
    ran = {"execution_count": None, "outputs": []} if cell["cell_type"] == "code" else {}
    source = "".join(cell["source"]).splitlines(keepends=True)
    made = {"cell_type": cell["cell_type"], "id": name, "metadata": {}, "source": source, **ran}
    return dict(sorted(made.items()))


def test_there_are_these_notebooks_and_no_others():
    assert tuple(path.stem for path in NOTEBOOKS) == NAMES


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_committed_stripped(path):
    assert path.read_text(encoding="utf-8") == stripped(path), f"run python {Path(__file__).relative_to(REPOSITORY)}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_in_any_folder_and_leaves_nothing_there(path, tmp_path, monkeypatch):
    notebook = executed(path, tmp_path, monkeypatch)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    said = [output["text"] for output in outputs if output.get("name") == "stderr"]
    assert not said  # no warning, either
    figures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert 1 <= len(figures) <= 2
    assert list((tmp_path / "here").iterdir()) == []


def test_the_rule_that_is_added_is_that_of_the_documentation():
    text = (REPOSITORY / "docs/policies.md").read_text(encoding="utf-8")
    documented = text.partition("```python\n# hurry.py\n")[2].partition("```")[0]
    cells = json.loads(NOTEBOOKS[-1].read_text(encoding="utf-8"))["cells"]
    (written,) = [cell["source"][1:] for cell in cells if cell["source"][0].startswith("%%writefile")]
    assert documented.strip() == "".join(written).strip()


def executed(path, tmp_path, monkeypatch):
    """The notebook after a run by this very interpreter, with nothing of the user's own Jupyter or IPython."""
    for name in ("nbformat", "nbclient", "ipykernel"):
        pytest.importorskip(name, reason=f"{name} is not installed: the group dev has it")
    import nbformat
    from jupyter_client.kernelspec import KernelSpecManager
    from jupyter_client.manager import AsyncKernelManager
    from nbclient import NotebookClient

    class Kernel(AsyncKernelManager):
        def __init__(self, **given):
            # Without folders there is only ipykernel's own. The paths of its sockets must be short.
            own = {"kernel_spec_manager": KernelSpecManager(kernel_dirs=[]), "transport": "ipc"}
            super().__init__(**own, connection_file=f"{sockets}/k.json", **given)
            assert self.kernel_spec.argv[0] == sys.executable

    here = tmp_path / "here"
    here.mkdir()
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "TMPDIR"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")]))
    notebook = nbformat.read(path, as_version=4)
    with TemporaryDirectory() as sockets:
        client = NotebookClient(notebook, kernel_manager_class=Kernel, resources={"metadata": {"path": str(here)}})
        return asyncio.run(asyncio.wait_for(client.async_execute(), MOST_S))


if __name__ == "__main__":
    for one in NOTEBOOKS:
        one.write_text(stripped(one), encoding="utf-8")
