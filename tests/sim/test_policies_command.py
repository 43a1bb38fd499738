"""What `workspan policies` says of the rules, and what `workspan run` says of what they could gain, and stop."""

import json
import re
import sys
from subprocess import CompletedProcess
from typing import get_args

import pytest
from commandline import WORKFLOW, assert_one_line, jsonl
from strategies import profile, request, roomy

from sim import cli
from sim.ceilings import capacity_rate, no_queue_s, saturation
from sim.compare import compare, line_up
from sim.fleet import Fleet, Pool
from sim.load import Alone, ConcurrentSessions, SessionRate
from sim.policies import ABOUT, policies
from sim.report import print_comparison
from sim.rules import Informed, RunsOn


@pytest.fixture
def run(monkeypatch, capsys):
    """The command line in this process."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["workspan", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return CompletedProcess(arguments, end.value.code or 0, *capsys.readouterr())

    return run


def test_ls_has_every_rule_once_under_its_kind_with_all_its_names_and_who_can_run_it(run):
    done = run("policies", "ls")
    assert done.returncode == 0
    heads = {f"[{kind}: {about}]": kind for kind, about in ABOUT.items()}
    kind, found = None, []
    for line in done.stdout.splitlines():
        kind = heads.get(line.strip(), kind)
        columns = re.split(" {2,}", line.strip())
        if len(columns) == 3 and columns[1] in get_args(RunsOn):
            found.append((kind, columns[0].replace(" (default)", ""), columns[1]))
    rules = {entry.rule.name: entry.rule for entry in policies().values()}
    named = {
        name: f"{name}_oracle _noisy _mean" if issubclass(rule, Informed) else " = ".join((name, *rule.aliases))
        for name, rule in rules.items()
    }
    assert sorted(found) == sorted((rule.kind, named[name], rule.runs_on) for name, rule in rules.items())
    assert [line.partition(" (default)")[0] for line in done.stdout.splitlines() if " (default) " in line] == [
        "async",
        "fcfs",
        "round_robin",
        "lru",
    ]


@pytest.mark.parametrize("name", sorted(policies()))
def test_show_says_what_a_rule_is_and_its_parameters(run, name):
    done = run("policies", "show", name)
    assert done.returncode == 0
    entry = policies()[name]
    assert done.stdout.startswith(f"{name}: {entry.rule.kind}, {entry.rule.runs_on}")
    assert "Information:" in done.stdout
    assert "Source:" in done.stdout
    table = done.stdout.partition("\nparameter")[2].splitlines()[1:]
    assert [line.split()[0] for line in table] == list(entry.parameters)


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("fcfs", "fcfs: order, client side\n"),
        ("srpt_mean", "srpt_mean: order, public API, needs --scheduling-policy priority\n"),
        ("program_gate", "program_gate: gate, client side, needs --enable-prefix-caching\n"),
        ("ttl_pin", "ttl_pin: retention, simulation only\n"),
    ],
)
def test_show_says_how_vllm_must_be_started(run, name, head):
    assert run("policies", "show", name).stdout.startswith(head)


@pytest.mark.parametrize(
    ("name", "mend"),
    [("plass", "did you mean 'plas'?"), ("srpt", "did you mean 'srpt_"), ("", "known: async, atlas")],
)
def test_a_rule_that_there_is_not_is_one_line_with_the_nearest(run, name, mend):
    assert_one_line(run("policies", "show", name), f"PolicyError: no policy {name!r}; {mend}")


@pytest.fixture
def traces(tmp_path):
    """Four workflows, of which every second one fails; one agent gives one answer twice."""
    nodes = WORKFLOW["nodes"]
    again = {"call": "d", "agent": "x", "prompt": [["s", 50], ["A", 20]], "answer": "A", "output_tokens": 20}
    flow = {**WORKFLOW, "nodes": [*nodes, again, {**again, "call": "e", "answer": "E"}]}
    flow["edges"] = [*WORKFLOW["edges"], ["a", "d", "control"], ["d", "e", "control"]]
    return jsonl(tmp_path / "t.jsonl", *({**flow, "id": f"w{n}", "success": bool(n % 2)} for n in range(4)))


def test_under_load_a_run_says_what_binds(run, traces):
    arguments = "run", traces, "--policy", "async", "--policy", "plas", "--session-rate", 1000
    result = json.loads(run(*arguments, "--json").stdout)
    ceilings = result["ceilings"]
    assert ceilings["offered_rate"] == 1000
    assert ceilings["binds"].startswith("beyond capacity: 1e+03 sessions/s are offered")
    (line,) = [line for line in run(*arguments).stdout.splitlines() if line.startswith("What binds: ")]
    sustained, most = (f"{ceilings[name]:.3g}" for name in ("saturation_rate", "capacity_rate"))
    rates = f"async sustains about {sustained} sessions/s, no policy that sends every call more than {most}."
    assert line == f"What binds: {ceilings['binds']}. {rates}"
    alone = run("run", traces, "--policy", "async", "--json")
    assert "ceilings" not in json.loads(alone.stdout)
    assert "What binds" not in run("run", traces, "--policy", "async").stdout


CROWD = [request(f"r{n}", 50, 5 + n) for n in range(4)]


def compared(engine, load, crowd=CROWD, policies=("async", "plas")):
    return compare(crowd, *line_up(policies, None), engine, load, 0)


def test_ceilings_are_those_of_all_replicas_and_of_the_baseline():
    engine = profile(roomy(max_num_seqs=1))
    fleet = Fleet((Pool("all", engine, 3),))
    found = compared(fleet, SessionRate(2.0))
    least = no_queue_s(CROWD, engine)
    waited = sum(session.latency_s for session in found.runs["async"].sessions)
    assert found.ceilings.no_queue == pytest.approx(waited / sum(least.values()))
    assert found.ceilings.offered_rate == 2
    assert found.ceilings.saturation_rate == saturation(CROWD, fleet, 0)
    assert found.ceilings.capacity_rate == 3 * capacity_rate(CROWD, engine)
    assert found.to_json()["ceilings"] == found.ceilings.to_json()
    assert compared(engine, ConcurrentSessions(2)).ceilings.offered_rate is None


def test_there_are_no_ceilings_for_who_is_alone_or_for_several_pools():
    pools = Fleet((Pool("a", profile()), Pool("b", profile())))
    for found in (compared(profile(), Alone()), compared(pools, SessionRate(2.0))):
        assert found.ceilings is None
        assert "ceilings" not in found.to_json()


def test_a_run_says_what_was_stopped_and_what_was_not_sent(run, traces):
    arguments = "run", traces, "--policy", "async", "--policy", "early_abort:times=2", "--concurrent-sessions", 2
    policies = json.loads(run(*arguments, "--json").stdout)["policies"]
    assert "aborts" not in policies["async"]
    stopped = policies["early_abort:times=2"]
    assert stopped["sessions"] == {"aborted": 4}
    aborts = stopped["aborts"]
    counts = ("sessions", "aborted", "would_have_failed", "would_have_succeeded", "outcome_unknown")
    assert [aborts[name] for name in counts] == [4, 4, 2, 2, 0]
    assert (aborts["precision"], aborts["recall"]) == (0.5, 1)
    # Of each workflow a, b, c and d are sent; e is not.
    assert (aborts["not_sent"]["prompt_tokens"], aborts["not_sent"]["output_tokens"]) == (4 * 70, 4 * 20)
    text = run(*arguments).stdout
    assert "early_abort:times=2: Aborted: 4 of 4 sessions; 2 would have failed, 2 would have succeeded; 0 " in text
    assert "early_abort:times=2: Never sent: 280 prompt tokens and 80 output tokens" in text
    assert "early_abort:times=2 against async: compared over 0 of 4 workflows, which finished under both." in text


def test_a_policy_that_stops_nobody_says_nothing_and_one_that_demotes_neither(capsys):
    found = compared(profile(), ConcurrentSessions(2), policies=("async", "early_abort", "demote"))
    assert found.to_json()["policies"]["early_abort"]["aborts"]["aborted"] == 0
    assert "aborts" not in found.to_json()["policies"]["demote"]
    print_comparison(found)
    text = capsys.readouterr().out
    assert "Aborted" not in text
    assert "Never sent" not in text
