"""Recorded runs that are damaged or in another unit: one line that names the file, whatever the damage."""

import json
import shutil
from pathlib import Path

import pytest

from calibration.recorded import formats, read_run
from sim.errors import TraceError

EXAMPLES = Path(__file__).parent / "examples"
PATHS = {
    "aiperf": "aiperf",
    "guidellm": "guidellm.json",
    "llmservingsim": "llmservingsim",
    "replay": "replay",
    "tracev2": "tracev2",
    "vllm_bench": "vllm_bench.json",
}
WORKLOADS = {name: EXAMPLES / f"{name}.workload.jsonl" for name in ("llmservingsim", "replay")}
#: Values that somebody's file may have in any place.
JUNK = (None, True, -1, 0, 1e308, float("nan"), float("inf"), 10**400, "text", "", [], {}, [None], {"value": "x"})


def test_every_format_is_damaged_here():
    assert list(PATHS) == list(formats())


def copy(name, tmp_path):
    """The example in a place where it can be damaged, and its files."""
    source, target = EXAMPLES / PATHS[name], tmp_path / PATHS[name]
    shutil.rmtree(target, ignore_errors=True)
    if source.is_dir():
        shutil.copytree(source, target)
        return target, sorted(target.iterdir())
    shutil.copy(source, target)
    return target, [target]


def readable(name, path):
    """Whether it can be read; where not, the message must be one line that names the file."""
    try:
        return bool(read_run(path, WORKLOADS.get(name)).requests)
    except TraceError as error:
        message = str(error)
    assert "\n" not in message
    assert message.startswith((str(path.parent), str(WORKLOADS.get(name))))
    return False


@pytest.mark.parametrize("name", PATHS)
def test_a_file_that_was_cut_off_anywhere_gives_one_line(name, tmp_path):
    path, files = copy(name, tmp_path)
    refusals = 0
    for file in files:
        whole = file.read_bytes()
        for part in range(40):
            file.write_bytes(whole[: len(whole) * part // 40])
            refusals += not readable(name, path)
        file.write_bytes(whole)
    assert readable(name, path)
    assert refusals >= 20


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("junk", [b"\xff\xfe\x00", b"\x1f\x8b\x08broken", b"", b"{}\n", b"[1, 2]\n", b"null\n"])
def test_a_file_of_something_else_gives_one_line(name, junk, tmp_path):
    path, files = copy(name, tmp_path)
    for file in files:
        whole = file.read_bytes()
        file.write_bytes(junk)
        optional = file.name == "meta.json" and junk == b"{}\n"
        assert readable(name, path) == optional
        file.write_bytes(whole)


@pytest.mark.parametrize("name", [name for name in PATHS if name != "tracev2"])
def test_any_value_of_any_record_can_be_damaged(name, tmp_path):
    path, files = copy(name, tmp_path)
    read = 0
    for file in files:
        lines = file.suffix == ".jsonl"
        whole = file.read_text()
        records = [json.loads(line) for line in whole.splitlines()] if lines else [json.loads(whole)]
        for places in list(leaves(records)):
            for junk in JUNK:
                with changed(records, places, junk):
                    file.write_text("\n".join(json.dumps(record) for record in records))
                    read += readable(name, path)
        file.write_text(whole)
    assert read


def leaves(item, places=()):
    """The places of all values, of the first two of each list."""
    if places:
        yield places
    pairs = item.items() if isinstance(item, dict) else enumerate(item[:2]) if isinstance(item, list) else ()
    for key, value in pairs:
        yield from leaves(value, (*places, key))


class changed:
    """A context in which the value in that place is another."""

    def __init__(self, item, places, value):
        for key in places[:-1]:
            item = item[key]
        self._item, self._key, self._value, self._before = item, places[-1], value, item[places[-1]]

    def __enter__(self):
        self._item[self._key] = self._value

    def __exit__(self, *problem):
        self._item[self._key] = self._before


def scaled(item, names, factor):
    """Every number under one of these names times the factor."""
    if isinstance(item, dict):
        return {
            key: times(value, factor) if key in names else scaled(value, names, factor) for key, value in item.items()
        }
    return [scaled(one, names, factor) for one in item] if isinstance(item, list) else item


def times(value, factor):
    if isinstance(value, list):
        return [times(one, factor) for one in value]
    if isinstance(value, dict):
        return {key: times(one, factor) for key, one in value.items()}
    return value * factor if type(value) in (int, float) else value


UNITS = {
    "guidellm": ("request_start", "first_token_iteration", "last_token_iteration"),
    "llmservingsim": ("queued_ts", "first_token_ts", "last_token_ts"),
    "replay": ("sent_s", "first_token_s", "finished_s"),
    "vllm_bench": ("start_times", "ttfts", "itls"),
}


@pytest.mark.parametrize("factor", [1e3, 1e6, 1e9])
@pytest.mark.parametrize("name", UNITS)
def test_a_run_in_a_smaller_unit_than_seconds_is_told_so(name, factor, tmp_path):
    path, files = copy(name, tmp_path)
    for file in files:
        lines = file.suffix == ".jsonl"
        records = (
            [json.loads(line) for line in file.read_text().splitlines()] if lines else [json.loads(file.read_text())]
        )
        file.write_text("\n".join(json.dumps(scaled(record, UNITS[name], factor)) for record in records))
    with pytest.raises(TraceError, match=r"(request|line) .* probably milliseconds.*this format has seconds") as raised:
        read_run(path, WORKLOADS.get(name))
    assert str(path) in str(raised.value)


def test_milliseconds_in_a_format_of_microseconds_are_told_so(tmp_path):
    path, (data, _) = copy("tracev2", tmp_path)
    head, *rows = data.read_text().splitlines()
    names = head.split(",")
    instants = [names.index(name) for name in ("send_time_us", "first_chunk_time_us", "last_chunk_time_us")]
    cells = [row.split(",") for row in rows]
    for row in cells:
        for place in instants:
            row[place] = str(int(row[place]) // 1000)
    data.write_text("\n".join([head, *map(",".join, cells)]))
    with pytest.raises(TraceError, match=r"request .* probably milliseconds or seconds, this format has microseconds"):
        read_run(path)


@pytest.mark.parametrize("what", ["a folder", "nothing", "another file", "an empty file"])
def test_what_is_no_recorded_run_is_named(what, tmp_path):
    path = tmp_path / "run"
    if what == "a folder":
        path.mkdir()
    elif what != "nothing":
        path.write_text("" if what == "an empty file" else "hello")
    problem = {"nothing": "no such file", "an empty file": "is empty"}.get(what, "no recorded run that workspan reads")
    with pytest.raises(TraceError, match=f"^{path}: .*{problem}"):
        read_run(path)
