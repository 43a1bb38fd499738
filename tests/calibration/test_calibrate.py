"""`workspan calibrate --from`: settings, what is printed and written, and mistakes."""

import gzip
import hashlib
import json

import pytest
from click.testing import CliRunner
from recorded_runs import simulated, varied
from strategies import profile, roomy

from calibration.commands.calibrate import command
from calibration.profile_file import check_new, request_row, write_profile
from calibration.recorded import RecordedRun
from calibration.settings import profile_for
from sim.errors import ProfileError, RunError
from sim.latency import StepTime, load_profile

TRUTH = StepTime(const_s=8e-3, prefill_token_s=6e-5, decode_seq_s=4e-4, kv_token_s=3e-7, attention_pair_s=1e-8)
ENGINE = profile(roomy(max_num_seqs=16), TRUTH)
TOLD = {"vllm_version": "0.32.0", "max_num_seqs": 16, "max_num_batched_tokens": 8192, "max_model_len": 100_000}
BLOCKS = {"num_gpu_blocks": 100_000, "block_size": 16}


@pytest.fixture
def recorded(tmp_path):
    """A folder in the form of LLMServingSim, with the record of a simulated run."""
    folder = tmp_path / "run"
    folder.mkdir()
    rows = (
        {
            "request_id": one.id,
            "input_toks": one.prompt[0].num_tokens,
            "output_toks": one.num_output_tokens,
            "queued_ts": 100 + one.sent_s,
            "arrival_time": 1e9 + one.sent_s,
            "first_token_ts": 100 + one.first_token_s,
            "last_token_ts": 100 + one.last_token_s,
        }
        for one in simulated(ENGINE, varied(40), noise=0.005).requests
    )
    (folder / "requests.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "meta.json").write_text(json.dumps({"vllm_version": "0.32.0", "kv_cache": BLOCKS}))
    return folder


def test_a_run_becomes_a_profile_with_its_samples_beside_it(recorded, tmp_path):
    output = tmp_path / "mine.yaml"
    settings = ("max_num_seqs=16", "max_num_batched_tokens=8192", "max_model_len=100000")
    arguments = ["--from", str(recorded), *(part for one in settings for part in ("--set", one)), "-o", str(output)]
    done = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    assert "prefill_token_s" in done.stdout
    assert "held out" in done.stdout
    assert "it would take" in done.stdout
    found = load_profile(str(output))
    assert found.name == "mine"
    assert f"wrote {output}" in done.stderr
    packed = (tmp_path / "mine.samples.jsonl.gz").read_bytes()
    assert found.samples == {"mine.samples.jsonl.gz": hashlib.sha256(packed).hexdigest()}
    assert len(gzip.decompress(packed).splitlines()) == 40
    with pytest.raises(RunError, match="exists already"):
        CliRunner().invoke(command, arguments, catch_exceptions=False)


def test_samples_are_lengths_and_instants_and_the_same_bytes_each_time(tmp_path):
    run = simulated(ENGINE, varied(3))
    for name in ("one", "other"):
        write_profile(ENGINE, map(request_row, run.requests), tmp_path / f"{name}.yaml")
    packed = (tmp_path / "one.samples.jsonl.gz").read_bytes()
    assert packed == (tmp_path / "other.samples.jsonl.gz").read_bytes()
    first = json.loads(gzip.decompress(packed).splitlines()[0])
    assert set(first) == {"prompt_tokens", "output_tokens", "sent_s", "first_token_s", "last_token_s"}


@pytest.mark.parametrize("missing", [*TOLD, *BLOCKS])
def test_a_setting_that_matters_and_nobody_tells_is_named(missing, tmp_path):
    told = {name: value for name, value in {**TOLD, **BLOCKS}.items() if name != missing}
    with pytest.raises(ProfileError, match=rf"run: does not tell {missing}; give --set {missing}=\.\."):
        profile_for(RecordedRun("test", (), told), tmp_path / "run", None, [], "mine")


def test_what_is_set_counts_more_than_the_record_and_the_record_more_than_the_base(tmp_path):
    run = RecordedRun("test", (), {"max_num_seqs": 7, "vllm_version": "0.26.0"}, {"hardware": "a card"})
    found, notes = profile_for(run, tmp_path, "rtx4090-llama-3.1-8b", ["max_num_seqs=9", "async_scheduling=false"], "x")
    base = load_profile("rtx4090-llama-3.1-8b")
    assert (found.engine.max_num_seqs, found.engine.vllm_version) == (9, "0.26.0")
    assert found.engine.num_gpu_blocks == base.engine.num_gpu_blocks
    assert not found.engine.async_scheduling
    assert notes == []
    assert (found.hardware, found.model) == ("a card", base.model)


def test_a_setting_that_is_only_assumed_is_told(tmp_path):
    _, notes = profile_for(RecordedRun("test", (), {**TOLD, **BLOCKS}), tmp_path, None, [], "mine")
    assert "nobody tells async_scheduling; taken to be False (--set changes it)" in notes


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("max_num_seq=3", "did you mean 'max_num_seqs'"),
        ("max_num_seqs", "give KEY=VALUE"),
        ("max_num_seqs=[", "the value cannot be read"),
        ("max_num_seqs=many", "max_num_seqs: input should be a valid integer"),
    ],
)
def test_a_wrong_setting_is_one_line(change, problem, tmp_path):
    with pytest.raises(ProfileError, match=problem) as caught:
        profile_for(RecordedRun("test", (), {**TOLD, **BLOCKS}), tmp_path, None, [change], "mine")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "problem"),
    [("mine.json", r"\.yaml file"), ("none/mine.yaml", "no folder"), ("old.yaml", "exists already")],
)
def test_a_place_that_cannot_be_written_is_told_before_anything_is_fitted(name, problem, tmp_path):
    (tmp_path / "old.yaml").touch()
    with pytest.raises(RunError, match=problem):
        check_new(tmp_path / name)
