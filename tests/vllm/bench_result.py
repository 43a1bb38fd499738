"""The result that ``vllm bench serve`` makes of calls that took as long as it is told; no server, no model.

Needs an environment in which vLLM can be imported. On stdin JSON: ``calls``, each with the fields of vLLM's
``RequestFuncOutput``, and ``goodput`` in milliseconds. The last line on stdout is the result, as JSON.
"""

import asyncio
import json
import sys

from vllm.benchmarks import serve
from vllm.benchmarks.datasets import SampleRequest
from vllm.benchmarks.lib.endpoint_request_func import RequestFuncOutput
from vllm.benchmarks.serve import TaskType, benchmark

NOWHERE = "http://127.0.0.1:9"


def main():
    """Hands out the calls in the order in which vLLM asks for them."""
    given = json.load(sys.stdin)
    answers = iter([RequestFuncOutput(**call) for call in given["calls"]])

    async def answer(**_):
        return next(answers)

    serve.ASYNC_REQUEST_FUNCS["told"] = answer
    result = asyncio.run(
        benchmark(
            task_type=TaskType.GENERATION,
            endpoint_type="told",
            api_url=NOWHERE,
            base_url=NOWHERE,
            model_id="",
            model_name="",
            tokenizer="never asked, as every call says its tokens",
            input_requests=[SampleRequest("", call["prompt_len"]) for call in given["calls"]],
            logprobs=None,
            request_rate=float("inf"),
            burstiness=1.0,
            disable_tqdm=True,
            num_warmups=0,
            profile=False,
            selected_percentile_metrics=["ttft", "tpot", "itl", "e2el"],
            selected_percentiles=[50, 90, 95, 99],
            ignore_eos=False,
            goodput_config_dict=given["goodput"],
            max_concurrency=None,
            lora_modules=None,
            extra_headers=None,
            extra_body=None,
            ready_check_timeout_sec=0,
        )
    )
    print(json.dumps({key: value for key, value in result.items() if not isinstance(value, list)}, default=float))


main()
