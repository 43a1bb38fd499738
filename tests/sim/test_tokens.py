import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from tokenizers import Tokenizer as Package
from tokenizers import models, pre_tokenizers

from sim.errors import TraceError
from sim.tokens import ESTIMATED, tokenizer


@pytest.fixture
def file(tmp_path):
    """A tokenizer.json whose tokens are words."""
    package = Package(models.WordLevel({"a": 0, "b": 1, "?": 2}, unk_token="?"))
    package.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    path = tmp_path / "tokenizer.json"
    package.save(str(path))
    return path


def test_the_estimate_is_a_token_for_every_four_characters_begun():
    assert [ESTIMATED.count(text) for text in ("", "a", "abcd", "abcde")] == [0, 1, 1, 2]


def test_a_tokenizer_json_counts_and_its_name_tells_its_content_and_no_folder(file):
    counter = tokenizer(str(file))
    assert counter.count("a b\nnever seen") == 4
    assert counter.count("\ud800 a") == 2
    assert counter.name.startswith("tokenizer.json ")
    assert str(file.parent) not in counter.name
    file.write_text(file.read_text().replace('"?"', '"!"'))
    assert tokenizer(str(file)).name != counter.name


@pytest.mark.parametrize("content", [None, "", "{}", "no JSON"])
def test_a_file_that_is_no_tokenizer_is_named(tmp_path, content):
    if content is not None:
        (tmp_path / "t.json").write_text(content)
    with pytest.raises(TraceError, match=r"t\.json"):
        tokenizer(str(tmp_path / "t.json"))


@pytest.fixture
def server():
    """What a vLLM answers to /v1/models and /tokenize; ``answers`` may be changed."""
    answers = {"/v1/models": {"data": [{"id": "some-model"}]}}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.reply(answers.get(self.path))

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            assert body["add_special_tokens"] is False
            self.reply(answers.get(self.path, {"count": len(body["prompt"].split())}))

        def reply(self, data):
            text = json.dumps(data).encode()
            self.send_response(200 if data is not None else 404)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}", answers
        running.shutdown()


def test_a_server_counts_and_the_name_is_its_models(server):
    counter = tokenizer(server[0] + "/")
    assert counter.name == "vLLM /tokenize, some-model"
    assert counter.count("one two three") == 3


def test_a_server_that_does_not_answer_so_is_named(server):
    url, answers = server
    answers["/tokenize"] = {"tokens": [1]}
    with pytest.raises(TraceError, match="gives no count"):
        tokenizer(url).count("x")
    answers["/v1/models"] = {"data": []}
    with pytest.raises(TraceError, match="names no model"):
        tokenizer(url)
    answers["/v1/models"] = None
    with pytest.raises(TraceError, match="no vLLM answers /v1/models"):
        tokenizer(url)
    with pytest.raises(TraceError, match="no vLLM answers"):
        tokenizer("http://127.0.0.1:9")
