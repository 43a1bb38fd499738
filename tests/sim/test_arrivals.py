"""Arrivals read from files: every public form by a few rows, what is refused, and what is taken of them."""

import gzip
import json
import pickle
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import profile, request

from sim.arrivals import ArrivalFile, read_arrivals
from sim.errors import RunError, TraceError
from sim.policies import parse_policy
from sim.simulate import simulate

AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
BURST = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
BURST_SESSIONS = "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type\n"

FILES = {
    "azure_2023": (
        AZURE + "2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50.9951690,396,109\n"
        "2023-11-16 18:16:46.6805900,1,1\n",
        [0, 4.314579, 60],
    ),
    "azure_2024": (
        AZURE + "2024-05-10 00:00:00.009930+00:00,2162,5\n2024-05-10 00:00:01+00:00,2399,6\n"
        "2024-05-10 02:00:02.009930+02:00,76,15\n",
        [0, 0.99007, 2],
    ),
    "azure_images": (
        "TIMESTAMP,NumImages,ContextTokens,GeneratedTokens\n2024-10-15 00:00:00,1,9,9\n2024-10-15 00:00:03,0,9,9\n",
        [0, 3],
    ),
    "burst": (BURST + "5,ChatGPT,472,18,490,Conversation log\n45,GPT-4,1087,0,1087,API log\n", [0, 40]),
    "burst_sessions": (
        BURST_SESSIONS + "5.5,1,0.2,ChatGPT,4,1,5,Conversation log\n6.25,,0.2,GPT-4,4,1,5,API log\n",
        [0, 0.75],
    ),
    "mooncake": (
        '{"timestamp": 27482, "input_length": 6955, "output_length": 52, "hash_ids": [46, 47]}\n'
        '{"timestamp": 30535, "input_length": 6472, "output_length": 26, "hash_ids": [46]}\n',
        [0, 3.053],
    ),
}


@pytest.fixture
def file(tmp_path):
    """Writes a file and returns its path."""

    def write(text, name="arrivals.csv"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


@pytest.mark.parametrize("name", FILES)
def test_every_form_is_known_by_its_content(file, name):
    text, instants = FILES[name]
    assert read_arrivals(file(text)).tolist() == instants
    assert read_arrivals(str(file(gzip.compress(text.encode())))).tolist() == instants
    assert read_arrivals(file("\ufeff" + text.replace("\n", "\r\n") + "\r\n")).tolist() == instants


@pytest.mark.parametrize("name", FILES)
def test_rows_in_another_order_give_the_same(file, name):
    text, instants = FILES[name]
    header, *rows = ["", *text.splitlines()] if name == "mooncake" else text.splitlines()
    assert read_arrivals(file("\n".join([header, *reversed(rows)]).lstrip())).tolist() == instants


AZURE_ROW, BURST_ROW, MOON_ROW = "2023-11-16 18:15:46.6805900,374,44\n", "5,m,4,1,5,API log\n", '{"timestamp": 1}\n'


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (AZURE + AZURE_ROW + "yesterday,3,4\n", "line 3: no arrival among 2 rows; give each 3 columns with TIMESTAMP"),
        (AZURE + AZURE_ROW + "2023-11-16 18:15:4", "line 3: no arrival among 2 rows"),
        (AZURE + "\n" + AZURE_ROW + "2023-11-16 18:15:47,3,4,5\n", "line 4: no arrival among 2 rows"),
        (AZURE + 'x,3,"4\n' + AZURE_ROW + AZURE_ROW, "line 2: no arrival among 1 rows"),
        (AZURE + '2023-11-16 18:15:46,3,"4\n' + AZURE_ROW, "line 2: no arrival among 1 rows"),
        (AZURE + AZURE_ROW + '2023-11-16 18:15:46,3,"4\n' + AZURE_ROW * 5000, "line 3: field larger than field limit"),
        (
            BURST + "nan,m,4,1,5,l\ninf,m,4,1,5,l\n,m,4,1,5,l\n" + BURST_ROW,
            "line 2: no arrival (and 2 rows more) among 4",
        ),
        (MOON_ROW + '{"input_length": 3}\n', 'line 2: no arrival among 2 rows; give each a JSON object with a "times'),
        (MOON_ROW + "\n" + '{"timestamp": true}\n', "line 3: no arrival among 2 rows"),
        (
            MOON_ROW + '{"timestamp": "5"}\n[7]\n"timestamp"\n{"timestamp": 1e999}\n{"time',
            "line 2: no arrival (and 4 rows",
        ),
        (AZURE, "a header and no arrival; give another file"),
        ("", "its first line has neither TIMESTAMP,ContextTokens,GeneratedTokens nor Timestamp,Request tokens,"),
        ("Timestamp,User\n5,me\n", "its first line has neither"),
        (b"\xff\xfe\x00", "not text in UTF-8; convert it"),
        (b"\x1f\x8b damaged", "damaged gzip file"),
        (gzip.compress((AZURE + AZURE_ROW).encode())[:-9], "damaged gzip file"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_place_and_the_mend(file, text, problem):
    path = file(text)
    with pytest.raises(TraceError) as caught:
        read_arrivals(path)
    assert str(caught.value).startswith(f"{path}")
    assert problem in str(caught.value)


def test_a_file_that_is_not_there_is_an_error_of_one_line(tmp_path):
    for path in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(TraceError, match="; name another file, or copy it again"):
            read_arrivals(path)


recorded = st.lists(st.integers(0, 50), min_size=1, max_size=40).map(sorted)


@given(recorded, st.data(), st.integers(0, 99))
def test_what_is_taken_stands_in_a_row_in_the_file(at_s, data, seed):
    sessions = data.draw(st.integers(1, len(at_s)))
    instants = ArrivalFile("f", at_s).instants(sessions, seed)
    rows = [at_s[first : first + sessions] for first in range(len(at_s) - sessions + 1)]
    assert instants in [[one - row[0] for one in row] for row in rows]
    assert ArrivalFile("f", at_s).instants(sessions, seed) == instants


@given(recorded, st.data(), st.integers(0, 99), st.floats(0.01, 100))
def test_at_a_rate_the_same_arrivals_are_stretched_to_it(at_s, data, seed, rate):
    sessions = data.draw(st.integers(1, len(at_s)))
    plain = ArrivalFile("f", at_s).instants(sessions, seed)
    load = ArrivalFile("f", at_s, rate)
    if sessions > 1 and plain[-1] == 0:
        with pytest.raises(RunError, match=f"{sessions} in a row are at one instant"):
            load.instants(sessions, seed)
        return
    instants = load.instants(sessions, seed)
    scale = instants[-1] / plain[-1] if plain[-1] else 1.0
    assert instants == pytest.approx([one * scale for one in plain])
    assert instants == sorted(instants)
    if sessions > 1:
        assert load.offered_rate([None] * sessions, seed) == pytest.approx(rate)


def test_seeds_begin_at_different_places_and_a_file_of_just_as_many_at_its_first():
    load = ArrivalFile("f", [one * one for one in range(1000)])
    assert len({tuple(load.instants(3, seed)) for seed in range(20)}) > 15
    assert load.instants(1000, 3) == [one * one for one in range(1000)]
    with pytest.raises(RunError, match="arrivals of f: only 1000 for 1001 workflows; give a longer file, or fewer"):
        load.instants(1001, 3)


def test_arrivals_are_known_by_their_digest_whatever_the_file(file):
    text = FILES["burst"][0]
    plain, zipped = ArrivalFile.read(file(text, "a.csv")), ArrivalFile.read(file(gzip.compress(text.encode()), "a.gz"))
    assert str(plain) == f"arrivals of a.csv ({plain.digest})"
    assert (plain.digest, len(plain.digest)) == (zipped.digest, 12)
    assert ArrivalFile("a.csv", [0, 40]) == plain != ArrivalFile("a.csv", [0, 41])
    faster = replace(plain, per_s=2.0)
    assert str(faster) == f"2 sessions/s, arrivals of a.csv ({plain.digest})"
    assert faster.instants(2, 0) == [0.0, 0.5]
    assert len({plain, faster, zipped, pickle.loads(pickle.dumps(plain))}) == 3
    assert pickle.loads(pickle.dumps(faster)).instants(2, 0) == [0.0, 0.5]


@pytest.mark.parametrize("at_s", [[], [1, 0], [0, float("nan")], [0, float("inf")], [[0, 1]]], ids=json.dumps)
def test_instants_that_are_none_are_refused(at_s):
    with pytest.raises(RunError, match="arrivals of f: give one instant or more, in seconds, ascending"):
        ArrivalFile("f", at_s)


def test_a_rate_that_cannot_be_simulated_is_refused():
    with pytest.raises(RunError, match=r"arrivals of f at a rate of 0: give 0\.0001 to"):
        ArrivalFile("f", [0, 1], 0.0)


def test_simulated_sessions_arrive_as_in_the_file_under_every_policy():
    flows = [request(f"w{number}", 40, 5) for number in range(6)]
    load = ArrivalFile("f", [0, 0, 0.25, 4, 4, 9, 11], 2.0)
    for policy in ("sequential", "srpt_oracle"):
        run = simulate(flows, parse_policy(policy), profile(), load, seed=1)
        assert sorted(one.arrived_s for one in run.sessions) == pytest.approx(load.instants(6, 1))
