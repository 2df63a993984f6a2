"""Names of every kind survive each way a video goes through the program."""

import csv
import io
import json
import os
import tarfile

import pytest
from odd_names import NAMES, odd_folder
from prepared_sets import in_this_process, prepare

from vmae_jax import cli
from vmae_jax.commands.named_videos import named_videos
from vmae_jax.data import sources
from vmae_jax.data.prepare.inputs import Origin, open_inputs
from vmae_jax.data.prepare.validate import validate
from vmae_jax.eval import records, report
from vmae_jax.features.shards import Shards, read_shards
from vmae_jax.io.quarantine import Quarantine
from vmae_jax.io.writers import JsonlWriter, TensorBoardWriter, read_rows
from vmae_jax.names import from_text


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return odd_folder(tmp_path_factory.mktemp("odd") / os.fsdecode(b"f\xfclder"))


def keys_of(source):
    keys = [source.key(index) for index in range(len(source))]
    assert len(set(keys)) == len(NAMES)
    assert all(key.isprintable() and key.encode() for key in keys)
    return keys


def test_a_folder_and_its_parts(folder):
    whole = sources.folder(str(folder), labels="folders").open()
    for index, key in enumerate(keys_of(whole)):
        assert os.path.samefile(folder / from_text(key), whole.fetch(index).path)
        assert whole.fetch(index).key == key
    assert whole.label_names == {"label": (r"a\nb", r"cl\xe4ss")}
    parts = [sources.folder(str(folder), part=part, share=0.3).open() for part in ("train", "held_out")]
    assert [len(part) for part in parts] == [len(NAMES) - 4, 4]
    assert {part.key(i) for part in parts for i in range(len(part))} == set(keys_of(whole))


def test_class_names_from_a_file(folder, tmp_path):
    (tmp_path / "names.txt").write_text("﻿cl\\xe4ss\na\\nb\n")
    source = sources.folder(str(folder), labels="folders", names=str(tmp_path / "names.txt")).open()
    assert source.label_names == {"label": (r"cl\xe4ss", r"a\nb")}


def test_a_list_that_ls_wrote(folder, tmp_path):
    found = [os.path.join(os.fsencode(folder), inside, name) for inside in os.listdir(os.fsencode(folder))
             for name in os.listdir(os.path.join(os.fsencode(folder), inside))]  # fmt: skip
    found = [path for path in found if b"\n" not in path]  # a line cannot hold it
    (tmp_path / "list.csv").write_bytes(b"\n".join(found) + b"\n")
    source = sources.csv(str(tmp_path / "list.csv")).open()
    assert source.missing.count == 0
    assert sorted(os.fsencode(source.fetch(i).path) for i in range(len(source))) == sorted(found)
    assert all(source.key(i).isprintable() for i in range(len(source)))


def test_lists_of_other_programs(folder, tmp_path, video_folder):
    path = video_folder / "even/video_0.mp4"
    for number, data in enumerate((f"﻿{path},run\r\n".encode(), f"{path},run\r\n".encode("utf-16"))):
        (tmp_path / f"{number}.csv").write_bytes(data)
        source = sources.csv(str(tmp_path / f"{number}.csv")).open()
        assert source.fetch(0).path == str(path)
        assert source.label_names == {"label": ("run",)}
    (tmp_path / "class.csv").write_bytes(f"{path},".encode() + b"l\xe4uft\n")
    assert sources.csv(str(tmp_path / "class.csv")).open().label_names == {"label": (r"l\xe4uft",)}


def test_archives(folder, tmp_path):
    with tarfile.open(tmp_path / "odd.tar", "w") as archive:
        archive.add(folder, ".")
        link = tarfile.TarInfo(os.fsdecode(b"l\xefnk\n.mp4"))
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    inputs = open_inputs(Origin((str(tmp_path / "odd.tar"),), labels="folders"), scratch=str(tmp_path))
    assert {from_text(key) for key in keys_of(inputs.source)} == {
        os.path.relpath(os.path.join(root, name), folder) for root, _, names in os.walk(folder) for name in names
    }
    assert inputs.refused == [(r"l\xefnk\n.mp4", "broken", "is a link in the archive")]
    assert len(inputs.digest) == 64


def test_names_that_come_twice_are_distinguished_from_those_that_look_like_it(tmp_path, video_folder):
    path = video_folder / "even/video_0.mp4"
    for name in ("a.mp4", "a.mp4~2.mp4"):
        (tmp_path / name).write_bytes(path.read_bytes())
    (tmp_path / "list.csv").write_text("a.mp4\na.mp4\na.mp4~2.mp4\n")
    inputs = open_inputs(Origin((str(tmp_path / "list.csv"),)), scratch=str(tmp_path))
    assert len(set(inputs.keys)) == 3


def test_prepared_and_read_again(folder, tmp_path):
    manifest = prepare(folder, tmp_path / "out", runner=in_this_process, shard_count=1, origin={"labels": "folders"})
    assert (manifest["videos"], manifest["rejected"]) == (len(NAMES), [])
    records_ = sources.folder(str(tmp_path / "out")).open()
    expected = set(keys_of(sources.folder(str(folder)).open()))
    assert {records_.fetch(i).key.removeprefix("videos/") for i in range(len(records_))} == expected
    assert records_.label_names == {"label": (r"a\nb", r"cl\xe4ss")}
    assert (tmp_path / "out/label.labels.txt").read_text() == "a\\nb\ncl\\xe4ss\n"


def test_validated_and_prepared_where_all_are_broken(tmp_path):
    folder = odd_folder(tmp_path / "odd", broken=True)
    result = validate(Origin((str(folder),)), workers=1, progress=False)
    assert {entry["key"] for entry in result["found"]} == set(keys_of(sources.folder(str(folder)).open()))
    assert json.dumps(result, ensure_ascii=False).encode()


def test_names_of_features(folder, tmp_path):
    source, names = named_videos([str(folder)], rate=25.0)
    assert len(source) == len(set(names)) == len(NAMES)
    for name in names:
        assert max(len(part.encode()) for part in name.split("/")) <= 200
        (tmp_path / f"{name}.npz").parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.npz").touch()
        assert (tmp_path / f"{name}.npz").resolve().is_relative_to(tmp_path)
    shards = Shards(str(tmp_path / "shards"), 100)
    os.mkdir(tmp_path / "shards")
    for name in names:
        shards.add(name, {"features": [1.0]})
    shards.flush()
    assert sorted(name for name, _ in read_shards(str(tmp_path / "shards"))) == sorted(names)


def test_quarantine_page_tables_and_metrics(folder, tmp_path):
    keys = keys_of(sources.folder(str(folder)).open())
    quarantine = Quarantine(tmp_path / "quarantine.jsonl")
    raw = os.fsdecode(b"reason with \xe9 and\nbreak")  # of whatever library
    quarantine.add([(key, raw, i, "broken") for i, key in enumerate(keys)])
    assert Quarantine(tmp_path / "quarantine.jsonl").counts() == {"broken": len(NAMES)}
    writer = JsonlWriter(tmp_path / "metrics.jsonl")
    writer.event(1, "videos skipped", first=raw)
    writer.scalars(1, {f"per class/{key}": 1.0 for key in keys})
    writer.close()
    assert read_rows(tmp_path / "metrics.jsonl")[0]["first"] == raw
    board = TensorBoardWriter(tmp_path / "tensorboard")
    board.scalars(1, {f"per class/{key}": 1.0 for key in keys})
    board.close()
    assert [row["path"] for row in records.read(tmp_path).quarantine] == keys
    page = report.write(tmp_path).read_text()
    assert "<img src=x" not in page
    assert r"caf\xe9.mp4" in page
    table = io.StringIO()
    csv.writer(table, lineterminator="\n").writerows([number, key] for number, key in enumerate(keys))
    assert [row[1] for row in csv.reader(io.StringIO(table.getvalue()))] == keys


def test_json_on_standard_output(capsys, tmp_path):
    out = os.fsdecode(os.path.join(os.fsencode(tmp_path), b"n\xf6t there"))
    assert cli.main(["data", "validate", out]) == 2
    assert json.loads(capsys.readouterr().out)["status"] == "error"
    assert cli._finish(0, {"out": out}) == 0
    assert json.loads(capsys.readouterr().out.encode().decode())["out"] == out
