"""The command line in a process of its own, and a small file of workflows for it."""

import json
import os
import subprocess
import sys

WORKFLOW = {
    "id": "w",
    "framework": "Test",
    "task": "t",
    "nodes": [
        {"call": "a", "agent": "x", "prompt": [["s", 50]], "answer": "A", "output_tokens": 20},
        {"call": "b", "agent": "x", "prompt": [["s", 50], ["A", 20]], "answer": "B", "output_tokens": 20},
        {"call": "c", "agent": "y", "prompt": [["s", 50], ["A", 20]], "answer": "C", "output_tokens": 20},
    ],
    "edges": [["a", "b", "visible"], ["a", "c", "visible"]],
}
HEADER = {"format": "workspan-workflows", "version": 1, "origin": "test"}


def workspan(*arguments, **environment):
    command = [sys.executable, "-m", "sim", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, check=False)


def jsonl(path, *workflows, header=HEADER):
    path.write_text("".join(json.dumps(row) + "\n" for row in (header, *workflows)))
    return path


def assert_one_line(done, problem):
    assert done.returncode == 2
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert problem in lines[0]
