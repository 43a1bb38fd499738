"""Plays a vLLM: answers what setup_vllm.sh asks, or says STUB_LOG and dies."""

import os
import sys
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

ANSWERS = {
    "/health": "",
    "/version": '{"version":"0.0.1"}',
    "/v1/models": '{"data":[{"id":"tiny-llama","max_model_len":8192,"permission":[{"id":"p"}]}]}',
    "/server_info?config_format=json": '{"vllm_config":{"eplb":{"policy":"default"},"scheduler_config":'
    '{"max_num_seqs":77,"policy":"priority","async_scheduling":false},"x":{}}}',
    "/metrics": 'vllm:other{x="1"} 1\nvllm:cache_config_info{effective_block_size="1",block_size="128",'
    'enable_prefix_caching="True",num_gpu_blocks="2048"} 1.0\n',
}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        key = os.environ.get("VLLM_API_KEY")
        allowed = not key or not self.path.startswith("/v1") or self.headers["Authorization"] == f"Bearer {key}"
        self.send_response(200 if allowed and self.path in ANSWERS else 401)
        self.end_headers()
        self.wfile.write(ANSWERS.get(self.path, "").encode())

    def log_message(self, *_):
        pass


print("a line of the log", flush=True)
if text := os.environ.get("STUB_LOG"):
    sys.exit(text)
time.sleep(float(os.environ.get("STUB_SLOW_S", "0")))
HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Handler).serve_forever()
