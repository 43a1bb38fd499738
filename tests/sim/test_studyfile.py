"""The file of a study: how it is read and overridden, its template, and what editors are told of it."""

import json
import re

import pytest
import yaml
from json_schema import violations

from sim.errors import StudyError
from sim.study import Study
from sim.study.spec import Grid, Offered, Server
from sim.study.studyfile import load_study, study_schema, write_template

LEAST = "policies: [async]\n"
SCHEMA = study_schema()


def load(folder, text, *overrides):
    path = folder / "study.yaml"
    path.write_text(text)
    return load_study(path, overrides)


def problems(folder, text, *overrides):
    """What is said after the file's name."""
    with pytest.raises(StudyError) as error:
        load(folder, text, *overrides)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(f"{folder / 'study.yaml'}")
    return str(error.value).removeprefix(f"{folder / 'study.yaml'}").lstrip(":, ")


def test_overrides_count_instead_of_what_the_file_says(tmp_path):
    text = "policies: [async]\nseeds: many\nserver: {replicas: 2, max_num_seqs: 8}\nload: null\nload: 3\n"
    study = load(
        tmp_path,
        f"{text}grid: {{points: [{{}}, {{tool_time: none}}]}}",
        "seeds=2",
        "seeds=3",
        "policies=[async, plas:levels=4]",
        "policies[0]=sequential",
        "server.max_num_seqs=64",
        "load={session_rate: 2}",
        "load.burstiness=5e-1",
        "grid.product.load.session_rate=[1e-1, 2]",
        "grid.points[1].server.num_gpu_blocks=500",
        "tool_time=lognormal:mean=3,sigma=1",
    )
    assert study == Study(
        policies=["sequential", "plas:levels=4"],
        seeds=3,
        server=Server(replicas=2, max_num_seqs=64),
        load=Offered(session_rate=2, burstiness=0.5),
        tool_time="lognormal:mean=3,sigma=1",
        grid=Grid(
            product={"load.session_rate": [0.1, 2]}, points=[{}, {"tool_time": "none", "server.num_gpu_blocks": 500}]
        ),
    )


def test_an_override_leaves_what_the_file_says_elsewhere_by_the_same_anchor(tmp_path):
    text = f"{LEAST}grid: {{points: [{{server: &s {{replicas: 2}}}}, {{server: *s}}]}}"
    study = load(tmp_path, text, "grid.points[0].server={replicas: 3}", "grid.points[1].tool_time=none")
    assert study.grid.points == [{"server": Server(replicas=3)}, {"server": Server(replicas=2), "tool_time": "none"}]


OVERRIDDEN = {
    "server.max_num_seq=64": "server.max_num_seq: unknown key; did you mean 'max_num_seqs'?",
    "sed=2": "sed: unknown key; did you mean 'seeds'?",
    "seeds=x": "seeds: input should be a valid integer",
    "seeds=": "seeds: input should be a valid integer",
    "policies[0]=plass": "policies.0: no policy 'plass'; did you mean 'plas'? (or module:attribute of your own)",
    "grid.zip.load.sesion_rate=[1]": "grid.zip.load.sesion_rate: unknown key; did you mean 'load.session_rate'?",
    "grid.zip={load.session_rate: [1], tool_time: [none, soon]}": "grid.zip.tool_time.1: soon: give recorded, none,",
    "window.drain=2": "window.drain: input should be less than or equal to 0.9",
    "load={seeds: 1, seeds: 2}": "key 'seeds' occurs twice; remove one",
}


@pytest.mark.parametrize("override", OVERRIDDEN)
def test_an_error_about_an_override_names_it(tmp_path, override):
    assert problems(tmp_path, LEAST, override).startswith(f"--set {override}: {OVERRIDDEN[override]}")


UNPLACED = {
    "seeds": "give KEY=VALUE, such as seeds=3",
    "=3": "give KEY=VALUE, such as seeds=3",
    "seeds=[1": "expected ',' or ']', but got '<stream end>'",
    "policies[1]=plas": "there is no item 1; they count from 0",
    "policies.first=plas": "'first' would be in what is no mapping; set all of it",
    "load={? [a] : 1}": "a key that is no name; write a name",
    "load=*anchor": "found undefined alias 'anchor'",
}


@pytest.mark.parametrize("override", UNPLACED)
def test_an_override_that_can_be_put_nowhere_is_named(tmp_path, override):
    assert problems(tmp_path, LEAST, "seeds=3", override) == f"--set {override}: {UNPLACED[override]}"


def test_problems_of_file_and_overrides_are_told_together(tmp_path):
    text = f"{LEAST}sed: 3\nload: {{}}\nload: {{}}"
    assert problems(tmp_path, text, "seeds=x").split("; ")[::2] == [
        "line 2: sed: unknown key",
        "line 4: key 'load' occurs twice",
        "--set seeds=x: seeds: input should be a valid integer",
    ]


def test_the_schema_finds_what_an_editor_should_mark():
    wrong = {
        "seeds": 0,
        "polices": ["async"],
        "traces": {"view": "seen", "hidden_calls": 1},
        "grid": {"product": {"load.session_rate": 3, "server.max_num_seq": [1]}, "points": [{"server.replicas": 5000}]},
        "stop": {"ci_width": "narrow"},
    }
    assert {text.partition(": ")[0] for text in violations(wrong, SCHEMA)} == {
        "$.policies",
        "$.polices",
        "$.seeds",
        "$.traces.view",
        "$.traces.hidden_calls",
        "$.grid.product.load.session_rate",
        "$.grid.product.server.max_num_seq",
        "$.grid.points[0].server.replicas",
        "$.stop",
    }


def test_the_schema_describes_every_key_and_defaults_only_what_says_something():
    sections = [SCHEMA, *SCHEMA["$defs"].values()]
    named = [(key, field) for one in sections if one.get("title") != "Slo" for key, field in one["properties"].items()]
    assert [key for key, field in named if not {"description", "$ref"} & set(field)] == []
    defaults = {key: field["default"] for key, field in named if "default" in field}
    assert [key for key, value in defaults.items() if value is None or isinstance(value, dict)] == []
    profiles = SCHEMA["$defs"]["Server"]["properties"]["profile"]["anyOf"][0]["enum"]
    assert "h100-llama-3.1-8b" in profiles


def test_the_template_can_be_run_as_it_is_and_is_as_the_schema_says(tmp_path):
    file, schema = write_template(tmp_path / "new" / "folder")
    assert (file.name, json.loads(schema.read_text())) == ("study.yaml", SCHEMA)
    assert file.read_text().startswith(f"# yaml-language-server: $schema={schema.name}\n")
    study = load_study(file)
    assert (len(study.policies), len(study.points())) == (3, 3)
    assert violations(yaml.safe_load(file.read_text()), SCHEMA) == []


def test_what_the_template_leaves_out_as_comment_can_be_put_in(tmp_path):
    (file, _) = write_template(tmp_path)
    text = re.sub(r"^( *)# (?=[a-z._]+: [\[{])", r"\1", file.read_text(), flags=re.MULTILINE)
    file.write_text(text)
    study = load_study(file)
    assert study.slo
    assert study.stop
    assert len(study.points()) == 6


def test_the_template_never_takes_the_place_of_a_file(tmp_path):
    (file, schema) = write_template(tmp_path / "mine.yml")
    assert (file.name, schema.name) == ("mine.yml", "study.schema.json")
    file.write_text("mine")
    for target in (tmp_path / "mine.yml", tmp_path):
        with pytest.raises(StudyError, match=r"is there already; name another folder, or move it away"):
            write_template(target)
    assert file.read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.yml", "study.schema.json"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StudyError, match=r"file/study.yaml: cannot be written \(.*\); name another folder"):
        write_template(tmp_path / "file")
