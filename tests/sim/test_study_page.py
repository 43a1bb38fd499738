"""A study's page: what it says and shows, that it needs nothing else, and how a browser takes it."""

import re
import shutil
import subprocess
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pytest
from commandline import jsonl, workspan
from hypothesis import given, settings
from made_results import made, row
from markupsafe import escape
from matplotlib.figure import Figure
from strategies import workflows

import sim.study.focus
from sim.breakdown import Breakdown, breakdown, waits
from sim.errors import StudyError
from sim.gantt import STYLES, Ran, breakdown_bars, gantt
from sim.latency import load_profile
from sim.load import Alone
from sim.policies import parse_policy
from sim.record import Record, SessionRecord
from sim.simulate import simulate
from sim.study import Study, open_results
from sim.study.answer import answer, question
from sim.study.focus import _chosen, example, focus, where_time_went
from sim.study.page import page, write_page
from sim.study.panels import policy_rows, rows_of
from sim.study.pictures import inline
from sim.workflow import Call, Edge, Segment, Tape, Tool, Workflow

NASTY = "<script>alert('x')</script>"
AGENT = '<b id="x">$'
#: Sections in the order in which they are read.
SECTIONS = ["speed-up", "bounds", "time", "measured", "example", "settings", "provenance", "definitions"]
#: What a table's column may be called that is no metric.
PLAIN = {"load", "policy", "framework", "workflows", "of", "rules", ""}
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
in_a_browser = pytest.mark.skipif(BROWSER is None, reason="no chromium or google-chrome on PATH")


def fan(number):
    """Plans, three at once of different length, and a join; names that a page must not take for its own."""
    lengths = (200, 100 + number, 150)
    common = {"prompt": [["P", 30]]}
    branches = [
        {"call": f"b{one}", "agent": f"{AGENT}{one}", **common, "answer": f"B{one}", "output_tokens": length}
        for one, length in enumerate(lengths)
    ]
    prompt = [["P", 30], *([f"B{one}", length] for one, length in enumerate(lengths))]
    nodes = [
        {"call": "plan", "agent": "&plan", "prompt": [["s", 50]], "answer": "P", "output_tokens": 30},
        *branches,
        {"tool": "t", "name": "<i>python", "duration_s": 0.5},
        {"call": "join", "agent": "join", "prompt": prompt, "answer": "J", "output_tokens": 20},
    ]
    pairs = [("plan", f"b{one}") for one in range(3)] + [(f"b{one}", "join") for one in range(3)]
    edges = [[*pair, "visible"] for pair in (*pairs, ("b1", "t"), ("t", "join"))]
    return {"id": f"w{number}", "framework": f"{NASTY}{number % 2}", "task": "t", "nodes": nodes, "edges": edges}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Fan-outs under two loads, of which the baseline makes chains."""
    folder = tmp_path_factory.mktemp("page")
    jsonl(folder / "traces.jsonl", *map(fan, range(12)))
    return Study(
        name=f"{NASTY} & co",
        traces={"sources": [str(folder / "traces.jsonl")]},
        policies=["sequential", "async", "srpt_oracle"],
        server={"profile": "rtx4090-llama-3.1-8b", "max_num_seqs": 16},
        grid={"product": {"load.session_rate": [0.02, 0.05]}},
        seeds=3,
        window={"warm_up": 0, "drain": 0},
    ).run(folder / "results", jobs=1)


@pytest.fixture(scope="module")
def text(results):
    return page(results)


class Seen(HTMLParser):
    """The tags of a page with their attributes, and the text in each kind of them."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts, self._open = [], {}, []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.texts.setdefault(tag, []).append("")
        self._open.append((tag, len(self.texts[tag]) - 1))

    def handle_endtag(self, tag):
        while self._open and self._open.pop()[0] != tag:
            pass

    def handle_data(self, data):
        for tag, place in self._open:
            self.texts[tag][place] += data

    def attributes(self, name):
        return [attributes[name] for _, attributes in self.tags if name in attributes]


def test_the_page_begins_with_question_answer_and_picture_and_has_every_section(results, text):
    told, rows = results.manifest, policy_rows(rows_of(results.comparisons))
    assert answer(rows, told).startswith("async is ")
    parts = [question(told), answer(rows, told), "<svg", *(f'<section id="{name}"' for name in SECTIONS)]
    parts[2:4] = parts[3:1:-1]
    places = [text.index(str(escape(part)) if "<" not in part else part, 3000) for part in parts]
    assert places == sorted(places)
    assert len(Seen(text).texts["h1"]) == 1


def test_nothing_is_loaded_and_nothing_runs(text):
    seen = Seen(text)
    assert "script" not in {tag for tag, _ in seen.tags}
    assert not [name for _, attributes in seen.tags for name in attributes if name.startswith("on")]
    places = [*seen.attributes("href"), *seen.attributes("src"), *seen.attributes("xlink:href")]
    places += re.findall(r"url\(([^)]*)\)", text)
    assert {place for place in places if not place.startswith("#")} == {"data:,"}


def test_names_of_the_user_are_text(text):
    seen = Seen(text)
    assert NASTY in seen.texts["h1"][0]
    assert f"{NASTY}0" in " ".join(seen.texts["th"])
    labels = " ".join(seen.texts["text"])
    assert all(name in labels for name in ('<b id="x">$0', "&plan", "tool: <i>python"))


def test_every_metric_has_a_definition_and_every_link_a_target(text):
    seen = Seen(text)
    ids = seen.attributes("id")
    assert len(set(ids)) == len(ids)
    assert {place[1:] for place in seen.attributes("href") if place.startswith("#")} <= set(ids)
    assert {place for name in seen.attributes("aria-labelledby") for place in name.split()} <= set(ids)
    assert sorted(seen.texts["dfn"]) == sorted({*seen.texts["dfn"]})
    heads = re.findall(r'<th scope="col"[^>]*>(.*?)</th>', text)
    assert {re.sub("<.*?>", "", head) for head in heads if "#def-" not in head} <= PLAIN
    assert {"speed-up", "ceiling", "queue", "prefill", "decode", "held out"} <= set(seen.texts["dfn"])


def test_figures_say_their_numbers(results, text):
    seen = Seen(text)
    pictures = [attributes for tag, attributes in seen.tags if tag == "svg"]
    assert len(pictures) == len(seen.texts["desc"]) == 4
    assert {attributes["role"] for attributes in pictures} == {"img"}
    for line in policy_rows(rows_of(results.comparisons)):
        assert f"{line['policy']} {line['speedup']:.2f}x" in seen.texts["desc"][0]
    assert all(re.search(r"\d\.\d", told) for told in seen.texts["desc"])


def test_the_same_results_give_the_same_page_wherever_they_are(results, text, tmp_path):
    shutil.copytree(results.folder, tmp_path / "elsewhere")
    assert page(open_results(tmp_path / "elsewhere")) == text


def test_a_page_of_very_many_points_is_small_and_says_what_it_leaves_out():
    rows = [row(point, 1 + point / 100, name) for point in range(3000) for name in ("plas", "fair")]
    rows[-1] = row(2999, 31, "fair", 1.4, "faster")
    text = page(made(*rows, policies=("async", "plas", "fair")))
    assert len(text.encode()) < 1_000_000
    assert "of 3,000 points are drawn" in text
    assert "5,960 more rows say less" in text
    assert "fair 1.40x" in text


def test_panels_that_are_too_many_leave_that_of_the_answer():
    rows = [row(2 * n + which, rate, max_num_seqs=n + 1) for n in range(20) for which, rate in enumerate((1, 2))]
    rows[9] = row(9, 2, speedup=1.5, verdict="faster", max_num_seqs=5)
    text = page(made(*rows))
    assert "2 of 40 points are drawn" in text
    assert "plas 1.50x" in Seen(text).texts["desc"][0]


def test_an_unfinished_study_has_a_page():
    text = page(made())
    assert "Nothing can be said yet" in text
    assert "<svg" not in text


def test_what_is_looked_at_closely_is_what_the_answer_is_about():
    steady, beyond = row(0, 1, speedup=1.2, verdict="faster"), row(1, 2, speedup=3, verdict="faster", saturated=True)
    oracle = row(0, 1, "srpt_oracle", 4.0, "faster")
    told = made(policies=("async", "plas", "srpt_oracle")).manifest
    assert focus([steady, beyond, oracle], told) is steady
    assert focus([row(0, 1), row(1, 2, speedup=1.1), oracle], told)["point"] == 1
    assert focus([], told) is None


def test_parts_add_up_to_latencies_of_the_comparison(results):
    for line in policy_rows(rows_of(results.comparisons)):
        where = where_time_went(results, line)
        assert where.sessions == line["sessions"]
        assert sum(where.parts["sequential"]) == pytest.approx(line["baseline_session_latency_s"])
        assert sum(where.parts[line["policy"]]) == pytest.approx(line["session_latency_s"])
    assert where.parts["sequential"].held_s > 1 > where.parts["async"].held_s


def test_the_example_runs_as_it_did_in_the_study(results):
    found = example(results, focus(policy_rows(rows_of(results.comparisons)), results.manifest))
    assert list(found.runs) == ["sequential", "async"]
    for name, ran in found.runs.items():
        told = results.query(
            f"SELECT latency_s FROM sessions JOIN cells USING (cell) WHERE policy = '{name}' AND seed = 0"
            f" AND arrivals_seed = 0 AND session_rate = 0.02 AND session = {ran.session.session}"
        )["latency_s"]
        assert [ran.session.latency_s] == pytest.approx(told.tolist())
    assert "median gain" in found.reason


def test_a_study_of_another_engine_has_no_example(results, monkeypatch):
    monkeypatch.setattr(sim.study.focus, "engine_digest", lambda: "another")
    assert "workspan has changed since the study ran" in page(results)


def pairs(*gains, calls=5):
    number = len(gains)
    columns = {"session": np.arange(number), "num_calls": np.full(number, calls), "base": np.full(number, 10.0)}
    return {**columns, "other": 10.0 / np.array(gains)}


def test_the_example_is_the_median_and_where_nothing_is_gained_the_largest_difference():
    assert _chosen(pairs(1.0, 3.0, 2.0), noise=False).number == 2
    assert _chosen(pairs(1.0, 0.4, 2.0), noise=True).number == 1
    assert "no workflow is typical" in _chosen(pairs(1.0, 0.4, 2.0), noise=True).reason
    assert _chosen(pairs(1.0, 3.0, 2.0, calls=1), noise=False).number == 2
    with pytest.raises(StudyError, match="no difference of 1 %"):
        _chosen(pairs(1.0, 1.001), noise=True)
    with pytest.raises(StudyError, match="no session"):
        _chosen(pairs(), noise=False)


def ran(workflow, policy="async"):
    result = simulate([workflow], parse_policy(policy), load_profile("rtx4090-llama-3.1-8b"), Alone(), 0)
    return Ran(workflow, {record.call_id: record for record in result.records}, result.sessions[0])


@settings(max_examples=30, deadline=None)
@given(workflows())
def test_the_critical_path_leads_without_a_gap_from_arrival_to_end(workflow):
    one = ran(workflow, "sequential")
    path = one.path()
    assert (path[0].ready_s, path[-1].until_s) == (one.session.arrived_s, one.session.finished_s)
    assert all(before.until_s == after.ready_s for before, after in pairwise(path))
    assert all(before.node in workflow.parents[after.node] for before, after in pairwise(path))
    line = gantt(Figure().subplots(), one).lines[0]
    assert line.get_xdata()[-1] == pytest.approx(one.session.latency_s)


def test_a_gantt_by_hand():
    """A call, then beside each other a tool of 3 s and a call that waits 1 s, then one that is sent a second late."""
    prompt = (Segment("s", 1),)
    nodes = (Call("a", "x", prompt, "A"), Tool("t", "tool"), Call("b", "x", prompt, "B"), Call("c", "y", prompt, "C"))
    edges = tuple(Edge(*pair, "visible") for pair in ("at", "ab", "tc", "bc"))
    workflow = Workflow("w", "f", "", nodes, edges, Tape({"a": 2, "b": 2, "c": 2}, {"t": 3.0}))
    times = {"a": (10, 11, 13, 17), "b": (17, 18, 18.5, 19), "c": (21, 21.5, 22, 25)}
    records = {name: Record(0, "w", name, "", 1, 0, 2, *some, 0, "finished") for name, some in times.items()}
    one = Ran(workflow, records, SessionRecord(0, "w", "f", 10, 25, 0, 3, "finished"))
    axes = gantt(Figure().subplots(), one)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["x", "tool: tool", "y"]
    bars = {(bar.get_x(), bar.get_width(), bar.get_hatch()) for bar in axes.patches if bar.get_width()}
    queue, tool, held = (STYLES[name].hatch for name in ("queue_s", "tool_s", "held_s"))
    assert {(0, 1, queue), (7, 1, queue), (7, 3, tool), (10, 1, held), (11, 0.5, queue)} <= bars
    assert {(1, 2, ""), (3, 4, ""), (12, 3, "")} <= {(x, width, hatch or "") for x, width, hatch in bars}
    assert list(axes.lines[0].get_xdata()) == [0, 7, 7, 10, 10, 15]
    assert next(waits(workflow, records, one.session)).node == "c"
    assert one.parts == breakdown(workflow, records.values(), one.session)


def test_bars_are_as_long_as_their_parts_and_named():
    axes = breakdown_bars(Figure().subplots(), {"a": Breakdown(0, 2, 1, 4, 0), "$b$": Breakdown(1, 0, 1, 4, 3)})
    assert sum(bar.get_width() for bar in axes.patches) == 7 + 9
    said = {text.get_text() for text in axes.texts}
    assert {"a", r"\$b\$", "7.00 s", "9.00 s", "2.00"} <= said


def test_parts_of_the_time_are_apart_without_colour():
    from matplotlib.colors import to_rgb

    grey = {name: float(np.dot(to_rgb(style.colour), (0.299, 0.587, 0.114))) for name, style in STYLES.items()}
    assert all(
        abs(grey[one] - grey[other]) > 0.15 or STYLES[one].hatch != STYLES[other].hatch
        for one in STYLES
        for other in STYLES
        if one != other
    )


def test_ids_of_a_figure_are_its_own_and_its_texts_are_not_touched():
    body = '<g id="a"><use xlink:href="#a" clip-path="url(#a)"/>id="a"</g>'
    drawn = f'<?xml version="1.0"?><svg viewBox="0 0 9 9">{body}</svg>'
    text = inline(drawn, "one", "<t>", "d")
    assert '<g id="one-a"><use xlink:href="#one-a" clip-path="url(#one-a)"/>id="a"</g>' in text
    assert "&lt;t&gt;" in text


def browse(path, *options):
    """What the browser prints, and what it complains of."""
    profile = path.parent / "browser"
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    command += ["--disable-dev-shm-usage", "--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr", "--v=0"]
    command += [f"--user-data-dir={profile}", *options, path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@in_a_browser
def test_a_browser_renders_it_and_complains_of_nothing(results, text, tmp_path):
    file = tmp_path / "report.html"
    file.write_text(text)
    dom, complaints = browse(file, "--dump-dom")
    assert complaints == []
    seen = Seen(dom)
    assert answer(policy_rows(rows_of(results.comparisons)), results.manifest) in " ".join(seen.texts["p"])
    assert len(seen.texts["desc"]) == len(seen.texts["svg"]) == 4
    assert "script" not in seen.texts


@in_a_browser
def test_a_page_that_loaded_something_would_be_noticed(text, tmp_path):
    file = tmp_path / "report.html"
    file.write_text(text.replace("<main>", '<main><img src="http://example.com/x.png">'))
    assert browse(file, "--dump-dom")[1]


@in_a_browser
def test_it_fits_on_a_phone(text, tmp_path):
    measure = "<script>document.title = document.body.scrollWidth</script></body>"
    file = tmp_path / "report.html"
    narrow = re.sub("<meta http-equiv.*?>", "<style>html { width: 360px }</style>", text)
    file.write_text(narrow.replace("</body>", measure))
    assert _title(browse(file, "--dump-dom")[0]) <= 360
    file.write_text(narrow.replace("<main>", '<main><div style="width: 600px">x</div>').replace("</body>", measure))
    assert _title(browse(file, "--dump-dom")[0]) >= 600


def _title(dom):
    return int(Seen(dom).texts["title"][0])


def test_the_command_writes_the_page(results, text, tmp_path):
    done = workspan("study", "report", results.folder, "-o", tmp_path / "mine.html")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "mine.html").read_text() == text
    with pytest.raises(StudyError, match=r"mine\.html: cannot be written"):
        write_page(results, tmp_path / "no" / "mine.html")
