"""metrics.jsonl and JSON documents: what is written reads back bit for bit and survives kills and damage."""

import json
import math
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from diffax.report import open_writer, read_columns, read_json, read_rows, to_json, write_bytes, write_json


def bits(value):
    return np.float64(value).tobytes()


def rows(path, *steps, **values):
    with open_writer(path, steps[0] - 1) as writer:
        for step in steps:
            writer.write(step, values or {"loss": step / 3})


def test_floats_round_trip_bit_for_bit(tmp_path):
    generator = np.random.default_rng(0)
    patterns = [generator.integers(0, 2**64, 500, np.uint64).view(np.float64)]
    patterns += [generator.integers(0, 2**32, 500, np.uint32).view(np.float32)]
    special = [0.0, -0.0, math.inf, -math.inf, 5e-324, np.float32(1e-45), np.float64(np.pi), 2.0**-1074]
    values = [value for values in patterns for value in values if not np.isnan(value)] + special
    values += [jnp.float32(0.1), jnp.bfloat16(0.1), jnp.asarray(1e-40, jnp.float32)]
    path = tmp_path / "metrics.jsonl"
    with open_writer(path) as writer:
        for step, value in enumerate(values):
            writer.write(step, {"value": value})
    found = read_rows(path)
    assert [bits(row["value"]) for row in found] == [bits(value) for value in values]
    assert all(type(row["value"]) is float for row in found)
    for line in path.read_text().splitlines():
        json.loads(line, parse_constant=pytest.fail)  # valid JSON: no bare NaN or Infinity


def test_rows_keep_their_types(tmp_path):
    path = tmp_path / "metrics.jsonl"
    values = {"nan": float("nan"), "count": np.int32(3), "flag": np.bool_(True), "name": "x", "none": None}
    with open_writer(path) as writer:
        writer.write(np.int64(7), values | {"nested": {"inf": [-np.inf]}})
    (row,) = read_rows(path)
    assert math.isnan(row.pop("nan"))
    assert row == {"step": 7, "count": 3, "flag": True, "name": "x", "none": None, "nested": {"inf": [-math.inf]}}
    assert [type(row[name]) for name in ("step", "count", "flag")] == [int, int, bool]


@pytest.mark.parametrize(
    "step, values, word",
    [
        (1.5, {}, "step=1.5"),
        (1, {"step": 1}, "step"),
        (1, {"loss": np.zeros(3)}, r"loss has shape \(3,\)"),
        (1, {"loss": 1j}, "complex"),
    ],
)
def test_rows_refuse(tmp_path, step, values, word):
    with open_writer(tmp_path / "metrics.jsonl") as writer:
        with pytest.raises(ValueError, match=word):
            writer.write(step, values)
        writer.write(2, {"loss": 1.0})
    assert read_rows(tmp_path / "metrics.jsonl") == [{"step": 2, "loss": 1.0}]  # a refused row leaves no trace


def test_resume_drops_later_rows_and_a_torn_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    rows(path, *range(1, 11))
    whole = path.read_bytes()
    for cut in (1, 2, 9, 20):  # without its end of line the last row is whole still; with more gone it is torn
        path.write_bytes(whole[:-cut])
        assert [row["step"] for row in read_rows(path)] == list(range(1, 11 if cut == 1 else 10))
        rows(path, 10)
        assert path.read_bytes() == whole
    path.write_bytes(whole + b"\0" * 100)
    rows(path, 7, 8, 9, 10)
    assert path.read_bytes() == whole
    assert os.listdir(tmp_path) == ["metrics.jsonl"]


def test_damage_before_the_last_line_is_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": tw\n{"step": 3}\n')
    for read in (read_rows, read_columns, open_writer):
        with pytest.raises(ValueError, match="line 2"):
            read(path)
    path.write_text('{"step": 1}\n{"loss": 2}\n{"step": 3}\n')
    with pytest.raises(ValueError, match="integer 'step'"):
        read_rows(path)
    with pytest.raises(FileNotFoundError):
        read_rows(tmp_path / "none")


def test_a_kill_loses_at_most_the_row_being_written(tmp_path):
    script = """
        import sys
        from diffax.report.writer import open_writer
        writer = open_writer(sys.argv[1])
        for step in range(1, 10**9):
            writer.write(step, {"loss": 1 / step})
            if step in (200, 2000):
                print(step, flush=True)
    """
    path = tmp_path / "metrics.jsonl"
    command = [sys.executable, "-c", textwrap.dedent(script), path]
    root = str(Path(__file__).parent.parent)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": root})
    seen = [int(process.stdout.readline()) for _ in range(2)][-1]
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    found = read_rows(path)
    assert len(found) >= seen
    assert found == [{"step": step, "loss": 1 / step} for step in range(1, len(found) + 1)]
    rows(path, 101)
    assert [row["step"] for row in read_rows(path)] == list(range(1, 102))


def test_columns_are_the_rows(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with open_writer(path) as writer:
        writer.write(1, {"loss": 0.5, "name": "a"})
        writer.write(2, {"loss": float("nan"), "extra": 4})
    columns = read_columns(path)
    assert set(columns) == {"loss", "extra"}
    np.testing.assert_array_equal(columns["loss"], ([1, 2], [0.5, np.nan]))
    np.testing.assert_array_equal(columns["extra"], ([2], [4]))


def test_json_round_trips(tmp_path):
    value = {"b": [1, 2.5, None], "a": {"sigma_hi": math.inf, "name": "ü <b>"}}
    write_json(tmp_path / "sub" / "config.json", value)
    assert read_json(tmp_path / "sub" / "config.json") == value
    assert list(json.loads(to_json(value))) == ["b", "a"]
    (tmp_path / "torn.json").write_text('{"a": ')
    with pytest.raises(ValueError, match=r"torn\.json"):
        read_json(tmp_path / "torn.json")


def test_every_text_reads_back_as_itself_beside_floats_that_are_not_finite(tmp_path):
    texts = ["nan", "inf", "-inf", "\\nan", "\\\\-inf", "NaN", "+inf", "a nan", "nan\n", "\\", "\\x", "", "\ud800"]
    value = {"texts": texts, "floats": [-math.inf, math.inf, 0.1]}
    write_json(tmp_path / "texts.json", value)
    assert read_json(tmp_path / "texts.json") == value
    path = tmp_path / "metrics.jsonl"
    with open_writer(path) as writer:
        for text in texts:
            writer.write(1, {"text": text})
    assert [row["text"] for row in read_rows(path)] == texts
    assert not read_columns(path)  # none is a number
    (tmp_path / "older.json").write_text('["nan", "inf", "-inf", "\\\\"]')
    nan, *others = read_json(tmp_path / "older.json")
    assert math.isnan(nan) and others == [math.inf, -math.inf, "\\"]


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    file = tmp_path / "report.html"
    write_bytes(file, b"old")
    for name in ("replace", "fsync"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, lambda *_: (_ for _ in ()).throw(OSError("disk full")))
            with pytest.raises(OSError, match="disk full"):
                write_bytes(file, b"new")
        assert file.read_bytes() == b"old" and os.listdir(tmp_path) == ["report.html"]
    write_bytes(file, b"new")
    assert file.read_bytes() == b"new"


def test_tensorboard_events_only_when_asked_for(tmp_path, monkeypatch):
    rows(tmp_path / "a" / "metrics.jsonl", 1)
    assert os.listdir(tmp_path / "a") == ["metrics.jsonl"]
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ValueError, match=r'pip install "tensorboardX>=2\.6"'):
        open_writer(tmp_path / "b" / "metrics.jsonl", tensorboard=True)
    assert not (tmp_path / "b").exists()


def test_tensorboard_events_hold_the_scalars(tmp_path):
    pytest.importorskip("tensorboardX")
    from tensorboardX.event_file_writer import EventFileWriter  # noqa: F401  (present with the extra)
    from tensorboardX.proto.event_pb2 import Event

    with open_writer(tmp_path / "metrics.jsonl", 3, tensorboard=True) as writer:
        writer.write(4, {"loss": np.float32(0.25), "name": "x"})
    (file,) = (tmp_path / "tensorboard").iterdir()
    data, events = file.read_bytes(), []
    while data:  # a TFRecord: length (8 bytes), checksum (4), the event, checksum (4)
        size = int.from_bytes(data[:8], "little")
        events.append(Event.FromString(data[12 : 12 + size]))
        data = data[16 + size :]
    scalars = [(event.step, value.tag, value.simple_value) for event in events for value in event.summary.value]
    assert scalars == [(4, "loss", 0.25)]
    assert [event.step for event in events if event.HasField("session_log")] == [
        4
    ]  # earlier events from 4 on are hidden
