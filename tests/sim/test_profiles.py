"""`workspan profiles`: what is said of a profile, in numbers and in words."""

import json

import pytest
from click.testing import CliRunner
from commandline import assert_one_line, workspan
from strategies import profile, roomy

from sim.cli import workspan as command
from sim.latency import Draws, Measured, load_profile, shipped
from sim.profile_report import MEANING, difference, facts, print_facts

SETTINGS = roomy(max_num_seqs=16, num_gpu_blocks=1001)


def run(*arguments):
    done = CliRunner().invoke(command, ["profiles", *arguments])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_every_shipped_profile_is_listed_with_what_kind_it_is():
    lines = run("ls").splitlines()[1:]
    assert [line.split()[0] for line in lines] == shipped()
    for line in lines:
        derived = load_profile(line.split()[0]).derived
        assert ("derived, not measured" in line) == bool(derived)
        assert ("unknown" in line) == bool(derived)
    assert [one["name"] for one in json.loads(run("ls", "--json"))] == shipped()


def test_every_coefficient_has_a_meaning():
    known = profile()
    assert list(MEANING) == [*type(known.step_time).model_fields, *type(known.overheads).model_fields]


def test_what_a_step_takes_is_the_sum_of_its_coefficients():
    steps = facts(profile(SETTINGS))["steps"]
    assert steps["prefill of 1,024 tokens"]["seconds"] == pytest.approx(
        0.01 + 1024e-4 + 1024e-7 + 1024 * 1025 / 2 * 1e-9
    )
    one = steps["decode of 1 request of 1,024 tokens"]
    assert one["seconds"] == pytest.approx(0.01 + 1e-4 + 1024e-7)
    assert one["tokens_per_s"] == pytest.approx(1 / one["seconds"])
    # 16,000 tokens of KV hold no 16 requests of 1,024; and there are 16 slots for the 17 rows of the mixed step.
    assert facts(profile(SETTINGS))["kv_tokens"] == 16_000
    assert [name for name, step in steps.items() if step is None] == [
        "decode of 16 requests of 1,024 tokens",
        "decode of 64 requests of 1,024 tokens",
        "prefill of 512 tokens beside decode of 16 requests of 1,024 tokens",
    ]


def test_intervals_come_from_the_draws():
    rows = [[0.01 * (1 + index / 100)] for index in range(41)]
    said = facts(profile().model_copy(update={"draws": Draws(names=["const_s"], rows=rows)}))
    assert said["coefficients"]["const_s"]["ci95"] == pytest.approx([0.0101, 0.0139])
    assert said["coefficients"]["prefill_token_s"]["ci95"] is None
    decode = said["steps"]["decode of 1 request of 1,024 tokens"]
    assert decode["ci95"] == pytest.approx([decode["seconds"] + 0.0001, decode["seconds"] + 0.0039])


def test_a_step_beyond_the_measured_range_has_a_star(capsys):
    small = profile().model_copy(update={"measured": Measured(request_tokens=99, batch_size=16, kv_tokens=99_000)})
    print_facts(small)
    marked = [line.partition("  ")[0] for line in capsys.readouterr().out.splitlines() if "ms*" in line]
    assert marked == [
        "decode of 64 requests of 1,024 tokens",
        "prefill of 512 tokens beside decode of 16 requests of 1,024 tokens",
    ]


def test_a_difference_has_ratios_and_only_the_settings_that_differ():
    faster = profile(SETTINGS).model_copy(
        update={"step_time": profile().step_time.model_copy(update={"const_s": 0.005})}
    )
    found = difference(profile(), faster)
    assert found["coefficients"]["const_s"] == [0.01, 0.005, 0.5]
    assert found["engine"] == {"max_num_seqs": [256, 16], "num_gpu_blocks": [100_000, 1001]}
    assert found["steps"]["decode of 64 requests of 1,024 tokens"][1:] == [None, None]
    assert found["steps"]["decode of 1 request of 1,024 tokens"][2] == pytest.approx(0.0052024 / 0.0102024)


def test_show_and_diff_print_the_numbers_of_their_json():
    name = "rtx4090-llama-3.1-8b"
    said, text = json.loads(run("show", name, "--json")), run("show", name)
    assert said["digest"] == load_profile(name).digest
    assert said["digest"] in text
    assert f"KV for {said['kv_tokens']:,} tokens" in text
    assert all(f"{key} {value}" in text for key, value in said["engine"].items())
    both = json.loads(run("diff", name, "h100-llama-3.1-8b", "--json"))
    assert f"{both['coefficients']['const_s'][2]:.2f}" in run("diff", name, "h100-llama-3.1-8b")
    assert [side["kind"] for side in both["profiles"]] == ["measured", "derived, not measured"]


def test_a_profile_that_there_is_not_is_one_line():
    assert_one_line(workspan("profiles", "show", "h10"), "no profile 'h10'; did you mean 'h100-llama-3.1-8b'?")
