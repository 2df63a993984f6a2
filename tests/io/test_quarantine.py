"""A broken video is listed once, for any number of hosts and restarts."""

import json

from vmae_jax.io.quarantine import Quarantine


def test_each_video_once_also_across_restarts(tmp_path):
    path = tmp_path / "quarantine.jsonl"
    first = Quarantine(path)
    first.add(
        [("a.mp4", "is empty", 3, "broken"), ("b.mp4", "is text", 5, "broken"), ("a.mp4", "is empty", 3, "broken")]
    )
    first.add([("b.mp4", "is text", 5, "broken")])
    with open(path, "a") as file:
        file.write('{"path": "torn')  # the run was killed while it wrote
    again = Quarantine(path)
    again.add([("a.mp4", "is empty", 3, "broken"), ("c.mp4", "hangs", 7, "broken")])
    again.add([("a.mp4", "another a.mp4 of the list", 9, "broken")])
    listed = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(entry["path"], entry["index"]) for entry in listed] == [
        ("a.mp4", 3),
        ("b.mp4", 5),
        ("c.mp4", 7),
        ("a.mp4", 9),
    ]


def test_videos_of_other_data_are_rows_of_their_own(tmp_path):
    path = tmp_path / "quarantine.jsonl"
    for _ in range(2):
        listed = Quarantine(path)
        listed.add([("a.mp4", "is empty", 3, "broken")])
        listed.add([("a.mp4", "is empty", 3, "broken")], "config.eval.data")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row.get("data") for row in rows] == [None, "config.eval.data"]


def test_no_fault_no_file(tmp_path):
    Quarantine(tmp_path / "quarantine.jsonl").add([])
    assert list(tmp_path.iterdir()) == []


def test_each_time_the_disk_is_full_is_one_warning(tmp_path, caplog, monkeypatch):
    listed = Quarantine(tmp_path / "quarantine.jsonl")
    flush, full = listed._log.flush, [True]

    def flushed():
        if full[0]:
            raise OSError(28, "No space left on device")
        flush()

    monkeypatch.setattr(listed._log, "flush", flushed)
    for number, full[0] in enumerate([True, True, False, True, True]):
        listed.add([(f"{number}.mp4", "is empty", number, "broken")])
    warned = [record.getMessage() for record in caplog.records]
    assert len(warned) == 2
    assert all("its rows are kept in memory: [Errno 28]" in message for message in warned)
