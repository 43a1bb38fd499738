"""Our scheduler against vLLM's own, step by step, on random workloads in virtual time.

Needs an environment in which vLLM can be imported; no GPU, model or server. Each workload draws an engine
(budget, slots, blocks, chunking, watermark, reservation, policy, synchronous or asynchronous) and requests with
shared prefixes, repeated conversations and earlier answers in later prompts. Both schedulers are driven as
``EngineCore.step`` or ``step_with_batch_queue`` would, and compared after every call: the ordered rows (request,
tokens, tokens computed before), preemptions, finishes and how often each was preempted, free blocks.

    python tests/vllm/differential.py --workloads 2000
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import os
import random
import sys
import tempfile
from collections import deque
from dataclasses import fields
from itertools import islice, zip_longest
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
os.environ |= {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "ERROR"}

import torch  # noqa: E402
import vllm  # noqa: E402
from vllm import SamplingParams  # noqa: E402
from vllm.config import CacheConfig, ModelConfig, SchedulerConfig, VllmConfig  # noqa: E402
from vllm.model_executor.models import registry  # noqa: E402
from vllm.utils.hashing import sha256  # noqa: E402
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash  # noqa: E402
from vllm.v1.core.sched.async_scheduler import AsyncScheduler  # noqa: E402
from vllm.v1.core.sched.scheduler import Scheduler as SyncScheduler  # noqa: E402
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec  # noqa: E402
from vllm.v1.outputs import ModelRunnerOutput  # noqa: E402
from vllm.v1.request import Request as VllmRequest  # noqa: E402
from vllm.v1.structured_output import StructuredOutputManager  # noqa: E402

import sim.scheduler  # noqa: E402
from sim.settings import EngineSettings  # noqa: E402
from sim.workflow import Segment  # noqa: E402

#: 0.19.0 has none yet.
HAS_WATERMARK = "watermark" in SchedulerConfig.__dataclass_fields__

#: Each rule of sim/scheduler.py or sim/kv.py broken once: the comparison must notice every one.
MUTATIONS = {
    "admits after a preemption": ("if self.waiting and not preempted:", "if self.waiting:"),
    "no slot limit": ("and len(self.running) < settings.max_num_seqs:", "and True:"),
    "no token budget": (
        "return min(num_new, threshold or num_new, budget)",
        "return min(num_new, threshold or num_new)",
    ),
    "no chunk limit": ("return min(num_new, threshold or num_new, budget)", "return min(num_new, budget)"),
    "no chunk limit at admission": ("num_new = min(num_new, threshold or num_new)\n", "pass\n"),
    "lone prefill is not exempt": ("threshold and self._settings.exempts_lone_prefill", "False"),
    "chunks although they are off": ("num_new > budget and not settings.enable_chunked_prefill", "False"),
    "victim is the oldest": ("else self.running[-1]", "else self.running[0]"),
    "victim by priority alone": ("max(self.running) if", "max(self.running, key=lambda r: r.priority) if"),
    "victim's tokens not given back": ("budget += given_back", "budget += 0"),
    "passes over one after a victim without a row": ("and not self._settings.skips_after_idle_victim", "and False"),
    "skips ahead of a head that does not fit": (
        "if self.running or not self.pins:\n                    break",
        "if self.running or not self.pins:\n"
        "                    self.waiting.add(self.waiting.pop())\n                    budget -= 1\n"
        "                    continue",
    ),
    "reserves the first chunk only": ("if self._settings.scheduler_reserve_full_isl else", "if False else"),
    "no watermark": ("(self._watermark if self.running else 0)", "0"),
    "watermark for everybody": ("(self._watermark if self.running else 0)", "self._watermark"),
    "free hits cost nothing": ("- found.num_blocks + found.num_free", "- found.num_blocks"),
    "last token is not computed again": ("(request.num_tokens - 1) // self._block_size", "request.num_tokens"),
    "nothing found after a preemption": (
        "(request.num_tokens - 1) // self",
        "(not request.num_preemptions) * 99 // self",
    ),
    "cached when done": (
        "self._register(request, min(request.num_computed_tokens + num_new, request.num_tokens))",
        "pass",
    ),
    "decoding costs no blocks": ("self._decoding.blocks_needed()", "0"),
    "known a step too soon with async": ("self._lag = lag", "self._lag = 0"),
    "blocks a step late": ("(1 - offset) % self._size][request] = None", "(2 - offset) % self._size][request] = None"),
    "answers not cached": (
        "self.prefixes.keys((*request.prompt, request.answer))",
        "self.prefixes.keys(request.prompt)",
    ),
    "one step too many with async": ("request.num_tokens + in_flight >= request.max_num_tokens", "False"),
    "preempted to the back of the queue": ("self.waiting.put_back(victim)", "self.waiting.add(victim)"),
    "priority ignored": ('settings.scheduling_policy == "priority"', "False"),
    "freed head first": ("for extent in reversed(holding.extents):", "for extent in holding.extents:"),
    "first block of an extent lost first": ("extent.stop -= lost", "extent.first += lost"),
    "unhashed last": ("        if self._unhashed_first:", "        if False:"),
    "hashed first": (
        "extent.queue_before(self._queue)\n        holding",
        "extent.queue_before(self._queue.after)\n        holding",
    ),
    "newest duplicate found": (
        "for extent in self._cached.get(path, ()):",
        "for extent in reversed(self._cached.get(path, ())):",
    ),
    "grows past a newer copy": ("copies[-1] is last", "last in copies"),
    "grows for all who share it": ("and len(last.holders) == 1 and", "and True and"),
    "content forgotten when freed": (
        "extent.queue_before(self._queue)\n        holding",
        "extent.queue_before(self._queue)\n                self._forget(extent)\n        holding",
    ),
}

#: Broken rule -> `sim.scheduler` with that; every process of the pool has them.
BROKEN = {}


def engine(rng):
    """Settings under which budget, slots and blocks bind about as often as not."""
    tight = rng.random() < 0.3
    block_size = rng.choice([4, 8, 16])
    chunked = rng.random() < 0.85
    budget = rng.choice([8, 16, 33, 64, 128, 512]) if chunked else 512
    settings = EngineSettings(
        vllm_version=".".join(vllm.__version__.split(".")[:3]),
        max_num_seqs=min(budget, rng.choice([1, 2, 3, 5, 8, 64])),
        max_num_batched_tokens=budget,
        max_model_len=512,
        num_gpu_blocks=1 + rng.choice([24, 24, 28, 32, 48, 80, 160, 1000]) * 16 // block_size,
        block_size=block_size,
        enable_prefix_caching=rng.random() < 0.85,
        enable_chunked_prefill=chunked,
        long_prefill_token_threshold=rng.choice([0, 0, 0, 5, 20]) if chunked else 0,
        scheduling_policy=rng.choice(["fcfs", "priority"]),
        async_scheduling=rng.random() < 0.5,
        watermark=rng.choice([0.0, 0.0, 0.0, 0.05, 0.2]),
        scheduler_reserve_full_isl=rng.random() < 0.5,
    )
    # Long prompts in small chunks, blocks running out, the least urgent not always the youngest.
    changes = {"max_num_seqs": 6, "max_num_batched_tokens": rng.choice([8, 24]), "scheduling_policy": "priority"}
    changes |= {
        "long_prefill_token_threshold": rng.choice([0, 0, 5]),
        "scheduler_reserve_full_isl": False,
        "num_gpu_blocks": 1 + 400 // block_size,
        "watermark": 0.0,
    }
    changes = changes if tight and chunked else {}
    return settings.model_copy(update=changes | ({} if HAS_WATERMARK else {"watermark": 0.0}))


def workload(rng):
    """(turn of arrival, priority, prompt, answer) of some 5 to 40 requests."""
    shared = [Segment(f"shared-{i}", rng.randint(1, 80)) for i in range(3)]
    requests, said, turn = [], [], 0
    for number in range(rng.randint(5, 40)):
        if said and rng.random() < 0.5:
            prompt, answer = rng.choice(said)
            if rng.random() < 0.8:
                prompt = (*prompt, answer, Segment(f"turn-{number}", rng.randint(1, 30)))
                answer = Segment(f"answer-{number}", rng.randint(1, 60))
        else:
            own = Segment(f"own-{number}", rng.choice([1, 10, 40, 120, 300]) + rng.randint(0, 20))
            prompt = (*rng.sample(shared, rng.randint(0, 3)), own)
            answer = Segment(f"answer-{number}", rng.choice([1, 20, 60, 150]) + rng.randint(0, 20))
        if sum(segment.num_tokens for segment in (*prompt, answer)) <= 380:
            said.append((prompt, answer))
            requests.append((turn, rng.choice([0, 0, 1, 2]), prompt, answer))
        turn += rng.choice([0, 0, 0, 1, 3, 20])
    return requests


class Ours:
    """Our scheduler behind the few calls that the comparison makes."""

    def __init__(self, settings, module):
        self.module, self.settings, self.scheduler = module, settings, module.Scheduler(settings)
        self.under_way = deque()

    def add(self, number, priority, prompt, answer):
        request = self.module.Request(prompt, answer, priority, float(number), number)
        assert not self.settings.refusal(request.max_num_tokens)
        self.scheduler.add(request)

    def schedule(self):
        batch = self.scheduler.schedule()
        self.under_way.append(batch)
        rows = [(request.number, *counts) for request, *counts in self.scheduler.all_rows(batch)]
        return rows, sorted(request.number for request in batch.preempted)

    def update(self):
        _, finished = self.scheduler.update(self.under_way.popleft())
        return [(request.number, request.num_preemptions) for request in finished]

    def free_blocks(self):
        return self.scheduler.pool.num_free_blocks


class Theirs:
    """vLLM's scheduler behind the same calls. A segment becomes token ids of its own."""

    def __init__(self, settings, model, ids):
        config = VllmConfig(
            model_config=model,
            cache_config=CacheConfig(
                block_size=settings.block_size,
                enable_prefix_caching=settings.enable_prefix_caching,
            ),
            scheduler_config=SchedulerConfig(
                max_num_seqs=settings.max_num_seqs,
                max_num_batched_tokens=settings.max_num_batched_tokens,
                max_model_len=settings.max_model_len,
                enable_chunked_prefill=settings.enable_chunked_prefill,
                long_prefill_token_threshold=settings.long_prefill_token_threshold,
                policy=settings.scheduling_policy,
                async_scheduling=settings.async_scheduling,
                **({"watermark": settings.watermark} if HAS_WATERMARK else {}),
                scheduler_reserve_full_isl=settings.scheduler_reserve_full_isl,
                is_encoder_decoder=False,
            ),
        )
        config.scheduler_config.async_scheduling = settings.async_scheduling
        config.cache_config.num_gpu_blocks = settings.num_gpu_blocks
        spec = FullAttentionSpec(block_size=settings.block_size, num_kv_heads=1, head_size=1, dtype=torch.float32)
        kind = AsyncScheduler if settings.async_scheduling else SyncScheduler
        self.scheduler = kind(
            config,
            KVCacheConfig(settings.num_gpu_blocks, [], [KVCacheGroupSpec(["layer"], spec)]),
            StructuredOutputManager(config),
            settings.block_size,
        )
        self.hasher = get_request_block_hasher(settings.block_size, sha256) if settings.enable_prefix_caching else None
        self.ids, self.answers, self.under_way = ids, {}, deque()

    def add(self, number, priority, prompt, answer):
        tokens = [token for segment in prompt for token in self.ids(segment)]
        params = SamplingParams(max_tokens=answer.num_tokens, ignore_eos=True)
        request = VllmRequest(
            f"{number:06}",
            tokens,
            params,
            None,
            arrival_time=float(number),
            priority=priority,
            block_hasher=self.hasher,
        )
        self.answers[request.request_id] = (request, self.ids(answer))
        self.scheduler.add_request(request)

    def schedule(self):
        output = self.scheduler.schedule()
        self.under_way.append(output)
        cached = output.scheduled_cached_reqs
        computed = dict(zip(cached.req_ids, cached.num_computed_tokens, strict=True))
        computed |= {new.req_id: new.num_computed_tokens for new in output.scheduled_new_reqs}
        output.sampled = [name for name in output.num_scheduled_tokens if not self.answers[name][0].is_prefill_chunk]
        rows = [(int(name), tokens, computed[name]) for name, tokens in output.num_scheduled_tokens.items()]
        return rows, sorted(map(int, output.preempted_req_ids or ()))

    def update(self):
        output = self.under_way.popleft()
        names = list(output.num_scheduled_tokens)
        tokens = []
        for name in names:
            request, answer = self.answers[name]
            tokens.append([answer[request.num_output_tokens]] if name in output.sampled else [])
        result = ModelRunnerOutput(
            req_ids=names,
            req_id_to_index={name: index for index, name in enumerate(names)},
            sampled_token_ids=tokens,
        )
        outputs = self.scheduler.update_from_output(output, result)
        names = [item.request_id for item in (outputs[0].outputs if outputs else []) if item.finish_reason]
        finished = [self.answers[name][0] for name in names]
        return [(int(one.request_id), one.num_preemptions) for one in finished]

    def free_blocks(self):
        return self.scheduler.kv_cache_manager.block_pool.get_num_free_blocks()


def drive(side, settings, requests):
    """What happens, one tuple after the other, as vLLM's engine loop would make it happen."""
    to_come, left, turn = deque(enumerate(requests)), len(requests), 0
    while left:
        while to_come and (to_come[0][1][0] <= turn or (left == len(to_come) and not side.under_way)):
            number, (_, priority, prompt, answer) = to_come.popleft()
            side.add(number, priority, prompt, answer)
        turn += 1
        rows, preempted = side.schedule()
        yield "schedule", rows, preempted, side.free_blocks()
        # With a queue two batches deep the next one is scheduled before the first result is awaited.
        if settings.async_scheduling and len(side.under_way) < 2:
            continue
        finished = side.update()
        left -= len(finished)
        yield "update", finished, side.free_blocks()


def compare(seed, model, rules=()):
    """(steps, preemptions, first difference or None, which of the rules show when broken) of one workload."""
    rng = random.Random(seed)
    settings, requests = engine(rng), workload(rng)
    table = {}

    def ids(segment):
        return table.setdefault(segment, range(start := sum(map(len, table.values())), start + segment.num_tokens))

    # vLLM's takes the most time, and does the same whatever ours does.
    theirs = [*islice(events(Theirs(settings, model, ids), settings, requests), 200_000)]

    def difference(module):
        ours = events(Ours(settings, module), settings, requests)
        for number, (one, other) in enumerate(zip_longest(ours, theirs)):
            if one != other:
                return f"seed {seed}, event {number}: ours {one}, vLLM's {other}"
        return None

    preempted = [event[2] for event in theirs if event[0] == "schedule"]
    shown = [rule for rule in rules if difference(BROKEN[rule])]
    return len(preempted), sum(map(len, preempted)), difference(sim.scheduler), shown


def events(side, settings, requests):
    """What happens on one side; a broken rule may also show as an error of ours."""
    try:
        yield from drive(side, settings, requests)
    except (AssertionError, IndexError, KeyError, ValueError) as error:
        yield "error", repr(error)


def mutant(old, new):
    """`sim.scheduler` with one rule broken."""
    found = 0
    modules = {}
    for name in ("kv", "request", "decoding", "scheduler"):
        source = (ROOT / "sim" / f"{name}.py").read_text()
        found += source.count(old)
        spec = importlib.util.spec_from_loader(f"mutant_{name}", loader=None)
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        source = source.replace(old, new)
        for other in ("kv", "request", "decoding"):
            source = source.replace(f"from sim.{other} import", f"from mutant_{other} import")
        exec(compile(source, f"{name} with {new!r}", "exec"), module.__dict__)
        modules[name] = module
    assert found == 1, f"{old!r} occurs {found} times"
    return modules["scheduler"]


def tiny_model():
    """vLLM's configuration of a model that is never built."""
    folder = tempfile.mkdtemp()
    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1}
    kind = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 100}
    # vLLM would look into the class of the model, which needs the compiled parts of its version.
    known = {field.name: field.name == "is_text_generation_model" for field in fields(registry._ModelInfo)}
    info = registry._ModelInfo(**known | {"architecture": "LlamaForCausalLM"})
    registry._LazyRegisteredModel.inspect_model_cls = lambda self: info
    Path(folder, "config.json").write_text(json.dumps(kind | sizes | {"max_position_embeddings": 512}))
    return ModelConfig(folder, tokenizer=folder, skip_tokenizer_init=True, dtype="float32", max_model_len=512)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workloads", type=int, default=2000)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--mutants", type=int, default=0, help="break every rule in so many of the workloads")
    parser.add_argument("--report", type=Path, help="write the report there, not to standard output")
    options = parser.parse_args()
    init_none_hash(sha256)
    model = tiny_model()
    BROKEN.update((name, mutant(*MUTATIONS[name])) for name in MUTATIONS if options.mutants)
    counts, unnoticed = [], list(BROKEN)
    with multiprocessing.get_context("fork").Pool() as pool:
        while len(counts) < options.workloads:
            # More and more at a time: most rules show soon, and need not be broken any longer.
            seeds = range(len(counts), min(2 * len(counts) + 10, options.workloads))
            work = [(options.first_seed + n, model, unnoticed if n < options.mutants else ()) for n in seeds]
            counts += pool.starmap(compare, work, chunksize=5)
            unnoticed = [rule for rule in unnoticed if not any(rule in shown for *_, shown in counts)]
    differences = [difference for _, _, difference, _ in counts if difference]
    report = {
        "vllm": vllm.__version__.partition("+")[0],
        "workloads": len(counts),
        "steps": sum(steps for steps, *_ in counts),
        "preemptions": sum(preemptions for _, preemptions, *_ in counts),
        "differences": len(differences),
        "first_differences": differences[:3],
        "broken_rules": len(BROKEN),
        "unnoticed": unnoticed,
    }
    text = json.dumps(report, indent=2)
    if options.report:
        options.report.write_text(text)
    else:
        print(text)
    sys.exit(bool(differences or unnoticed))


if __name__ == "__main__":
    main()
