import pytest

from sim.errors import ProfileError
from sim.latency import load_profile, shipped

GOOD = """
name: mine
hardware: none
model: none
source: none
method: none
accuracy: {}
measured: {request_tokens: 1000}
engine: {vllm_version: 0.32.0, max_num_seqs: 8, max_num_batched_tokens: 64, max_model_len: 512, num_gpu_blocks: 100}
step_time: {const_s: 1e-2, prefill_token_s: 1e-4, decode_seq_s: 0, kv_token_s: 1.5e-7, attention_pair_s: 0}
"""


def load(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return load_profile(str(path))


def test_a_profile_of_ones_own_is_read_from_its_file(tmp_path):
    profile = load(tmp_path, GOOD)
    assert profile.step_time.const_s == 0.01
    assert profile.engine.block_size == 16


@pytest.mark.parametrize("name", shipped())
def test_a_shipped_profile_can_be_loaded_and_bears_its_files_name(name):
    assert load_profile(name).name == name


def test_the_digest_changes_with_every_number(tmp_path):
    one, other = load(tmp_path, GOOD), load(tmp_path, GOOD.replace("1.5e-7", "1.6e-7"))
    assert one.digest == load(tmp_path, GOOD).digest != other.digest


def test_a_changed_copy_keeps_nothing_of_what_followed_from_the_old_values(tmp_path):
    profile = load(tmp_path, GOOD.replace("512,", "512, cudagraph_capture_sizes: default,"))
    before = profile.digest, profile.engine.graph_sizes, profile.engine.exempts_lone_prefill
    engine = profile.engine.model_copy(update={"max_num_seqs": 3, "vllm_version": "0.26.0"})
    changed = profile.model_copy(update={"engine": engine})
    assert (changed.digest != before[0], engine.graph_sizes, engine.exempts_lone_prefill) == (True, (1, 2, 4), False)
    assert before[1:] == ((1, 2, 4, 8, 16), True)


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("const_s: 1e-2", "const_s: 0", "step_time.const_s"),
        ("const_s: 1e-2", "const_s: -1e-2", "step_time.const_s"),
        ("const_s: 1e-2", "const_s: 1e-18", "step_time.const_s"),
        ("const_s: 1e-2", "const_s: 1e308", "step_time.const_s"),
        ("attention_pair_s: 0", "attention_pair_s: 1e300", "step_time.attention_pair_s"),
        ("attention_pair_s: 0}", "attention_pair_s: 0}\noverheads: {output_s: -1}", "overheads.output_s"),
        ("512,", "512, cudagraph_capture_sizes: [8, x],", "engine.cudagraph_capture_sizes: give default"),
        ("prefill_token_s: 1e-4", "prefill_token_s: .inf", "step_time.prefill_token_s"),
        ("prefill_token_s: 1e-4", "prefill_token_s: fast", "step_time.prefill_token_s"),
        ("decode_seq_s: 0, ", "", "step_time.decode_seq_s"),
        ("decode_seq_s", "decode_s", "step_time.decode_s"),
        ("max_num_seqs: 8", "max_num_seqs: 0", "engine.max_num_seqs"),
        ("max_num_seqs: 8", "max_num_seqs: 8.5", "engine.max_num_seqs"),
        ("max_num_seqs: 8", "max_num_seqs: 65", "at least max_num_seqs"),
        ("max_num_batched_tokens: 64", "max_num_batched_tokens: 0", "engine.max_num_batched_tokens"),
        ("max_model_len: 512", "max_model_len: 512, enable_chunked_prefill: false", "without chunked prefill"),
        ("0.32.0", "newest", "engine.vllm_version"),
        ("accuracy: {}", "accuracy: {}\nname: twice", "line 8: key 'name' occurs twice"),
        ("accuracy: {}", "accuracy: {", "line"),
        ("accuracy: {}", "accuracy: {[a]: 1}", "line 7: a key that is no name"),
        ("name: mine", "1: 2", "name"),
        (GOOD, "", "not a mapping"),
        (GOOD, "- a list", "not a mapping"),
        (GOOD, "\x00", "not valid YAML"),
        ("name: mine", "name: 2025-13-45", "line 2: '2025-13-45' cannot be read; put a text in quotes"),
        ("name: mine", "name: !!bool perhaps", "line 2: 'perhaps' cannot be read"),
        ("name: mine", 'name: "\\ud800"', "line 2: '\\ud800' cannot be read"),
        ("name: mine", f"name: {'[' * 3000}", "nested too deeply"),
        ("accuracy", "acuracy", "line 7: acuracy: unknown key; did you mean 'accuracy'?"),
        (
            "{const_s: 1e-2",
            "\n  {const_s: 1e-2, konst_s: 1",
            "line 11: step_time.konst_s: unknown key; did you mean 'const_s'",
        ),
    ],
)
def test_a_bad_profile_is_one_line_that_names_file_and_place(tmp_path, old, new, problem):
    with pytest.raises(ProfileError) as error:
        load(tmp_path, GOOD.replace(old, new))
    assert problem in str(error.value)
    assert "mine.yaml" in str(error.value)
    assert "\n" not in str(error.value)


def test_all_problems_of_a_profile_are_named_at_once_with_their_lines(tmp_path):
    text = GOOD.replace("model: none\n", "model: none\nmodel: other\n").replace("decode_seq_s: 0", "decode_s: 0")
    with pytest.raises(ProfileError) as error:
        load(tmp_path, text.replace("max_num_seqs: 8", "max_num_seqs: 0"))
    assert str(error.value).partition("mine.yaml: ")[2] == (
        "line 5: key 'model' occurs twice; remove one; "
        "line 10: engine.max_num_seqs: input should be greater than or equal to 1; "
        "line 11: step_time.decode_s: unknown key; did you mean 'decode_seq_s'?; "
        "line 11: step_time.decode_seq_s: missing; add it"
    )


def test_a_byte_order_mark_is_no_part_of_the_file(tmp_path):
    assert load(tmp_path, "\ufeff" + GOOD).name == "mine"


def test_a_file_that_is_missing_is_named_with_what_to_do():
    with pytest.raises(ProfileError, match=r"none\.yaml: cannot be read \(No such file.*\); name another file"):
        load_profile("none.yaml")
