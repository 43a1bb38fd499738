import json
import subprocess
import sys

import pytest
from pydantic import ValidationError
from strategies import roomy


def test_the_default_graph_sizes_are_those_a_real_engine_resolved(groundtruth):
    recorded = json.loads((groundtruth / "rtx4090_llama-3.1-8b/meta.json").read_text())["resolved_config"]
    sizes = recorded["compilation_config"]["cudagraph_capture_sizes"]
    settings = roomy(max_num_seqs=256, max_num_batched_tokens=2048, cudagraph_capture_sizes="default")
    assert settings.graph_sizes == tuple(sizes)


def test_the_default_graph_sizes_end_at_twice_the_slots_or_the_budget():
    def sizes(**changes):
        return roomy(cudagraph_capture_sizes="default", **changes).graph_sizes

    assert sizes(max_num_seqs=5) == (1, 2, 4, 5, 8)
    assert sizes(max_num_seqs=5, vllm_version="0.26.0") == (1, 2, 4, 8)
    assert sizes(max_num_seqs=5, max_num_batched_tokens=7) == (1, 2, 4, 5, 7)
    assert sizes(max_num_seqs=1024)[-3:] == (480, 496, 512)


def test_graph_sizes_of_ones_own_are_sorted_and_cut_at_the_budget():
    assert roomy(max_num_batched_tokens=300, cudagraph_capture_sizes=[512, 8, 8, 2]).graph_sizes == (2, 8)
    assert roomy().graph_sizes == ()


@pytest.mark.parametrize("sizes", [[0], ["8"], [1.5], "all", 8])
def test_graph_sizes_are_whole_numbers_from_1_or_default(sizes):
    with pytest.raises(ValidationError):
        roomy(cudagraph_capture_sizes=sizes)


def test_what_simulates_imports_neither_scipy_nor_matplotlib():
    heavy = "{'scipy', 'matplotlib', 'rich'}"
    code = f"import sys, sim.simulate, sim.data, sim.traces; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
