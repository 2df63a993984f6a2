"""`vmae data prepare`: any source to records that plain TFDS opens, the same bytes however it came there."""

import contextlib
import errno
import io
import json
import os
import resource
import subprocess
import sys
import tarfile
import time
from fractions import Fraction

import av
import numpy as np
import pytest
from numbered_videos import copied_cut, numbered_frames, swapped_stamps, write_video
from prepared_sets import checksums, in_this_process, prepare, tar_of

from vmae_jax.commands.errors import exit_status, expected
from vmae_jax.data import sources
from vmae_jax.data.decode import open_encoded, probe, read_frames
from vmae_jax.data.faults import TooManyBadVideos
from vmae_jax.data.prepare.examples import examples
from vmae_jax.data.prepare.produce import produce
from vmae_jax.data.prepare.record import options, serialize
from vmae_jax.data.prepare.shards import deal, default_shards
from vmae_jax.data.video import BadVideo, Encoded, MachineFault
from vmae_jax.spec import ConfigError


def records(out, split="train"):
    source = sources.tfds(directory=str(out), split=split).open()
    return {encoded.key: encoded for encoded in (source.fetch(i) for i in range(len(source)))}


@pytest.fixture(scope="module")
def kept(video_folder, tmp_path_factory):
    """The videos of ten files in two classes, as they are, in three shards."""
    out = tmp_path_factory.mktemp("kept")
    manifest = prepare(
        video_folder, out, origin={"labels": "folders"}, shard_count=3, runner=in_this_process, codec="keep"
    )
    return out, manifest


def test_keep_stores_the_original_bytes_and_labels(video_folder, kept):
    out, manifest = kept
    found = records(out)
    assert len(found) == 10
    for file in video_folder.rglob("*.mp4"):
        encoded = found[f"videos/{file.relative_to(video_folder)}"]
        assert encoded.data == file.read_bytes()
        assert encoded.labels == {"label": int(file.parent.name == "odd")}
    assert sources.tfds(directory=str(out)).open().label_names == {"label": ("even", "odd")}
    assert (manifest["videos"], manifest["frames"], manifest["rejected"]) == (10, 240, [])
    assert sorted(shard["examples"] for shard in manifest["shards"]) == [3, 3, 4]
    for shard in manifest["shards"]:
        assert checksums(out)[shard["file"]] == shard["sha256"]
    assert not (out / ".preparing").exists()


def test_a_process_without_this_project_opens_it(kept):
    out, _ = kept
    code = f"""
import sys
import tensorflow_datasets as tfds
builder = tfds.builder_from_directory({str(out)!r})
source = builder.as_data_source(split="train")
example = source[7]
assert not [name for name in sys.modules if name.startswith("vmae")]
print(len(source), example["num_frames"], example["times_us"][:3].tolist(), example["height"], example["key"].decode(),
      builder.info.features["label"].int2str(example["label"]), round(float(example["rate"]), 3))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True,
        cwd=os.path.dirname(out), env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
    )  # fmt: skip
    count, frames, *times, height, key, label, rate = done.stdout.replace("[", "").replace("]", "").split()
    assert (count, frames, height, rate) == ("10", "24", "32", "25.0")
    assert times == ["0,", "40000,", "80000"]
    assert key.startswith(label)


def test_the_loader_reads_all_codecs(video_folder, kept, tmp_path):
    """The same frames, within what encoding costs, through the ordinary way of reading."""
    first = read_frames(Encoded(path=str(video_folder / "even" / "video_0.mp4")), [0, 13]).astype(int)
    for codec, quality in (("h264", 10), ("jpeg", 95)):
        prepare(video_folder, tmp_path / codec, runner=in_this_process, codec=codec, quality=quality)
        encoded = records(tmp_path / codec)["videos/even/video_0.mp4"]
        assert (encoded.frames is None) == (codec == "h264")
        info = probe(encoded)
        assert (info.num_frames, info.rate) == (24, 25.0)
        assert np.abs(read_frames(encoded, [0, 13]).astype(int) - first).mean() < 4
    assert records(kept[0])["videos/even/video_0.mp4"].data is not None


def test_folder_opens_what_is_prepared(video_folder, kept, tmp_path):
    out, _ = kept
    everything = sources.folder(str(out)).open()
    parts = [sources.folder(str(out), part=part, share=0.3).open() for part in ("train", "held_out")]
    keys = [{part.fetch(i).key for i in range(len(part))} for part in parts]
    assert [len(part) for part in parts] == [7, 3]
    assert keys[0] | keys[1] == {everything.fetch(i).key for i in range(10)}
    with pytest.raises(ConfigError, match="leave names= out"):
        sources.folder(str(out), labels="folders", names="x.txt").open()
    both = tmp_path / "both"
    prepare(video_folder / "even", both, runner=in_this_process)
    prepare(video_folder / "odd", both, split="validation", runner=in_this_process)
    assert len(sources.folder(str(both), part="held_out").open()) == 5
    assert records(both, "validation").keys() == {f"videos/video_{i}.mp4" for i in (1, 3, 5, 7, 9)}
    with pytest.raises(ConfigError, match="kind of labels"):
        prepare(video_folder, both, split="test", origin={"labels": "folders"}, runner=in_this_process)


def test_real_processes_make_the_same_bytes_in_any_number(video_folder, kept, tmp_path):
    out, _ = kept
    prepare(video_folder, tmp_path / "two", origin={"labels": "folders"}, shard_count=3, workers=2)
    assert checksums(tmp_path / "two") == checksums(out)


def test_it_goes_on_where_it_was_stopped(video_folder, kept, tmp_path):
    out, _ = kept

    def stopped(jobs):
        in_this_process(jobs[:1])
        (jobs[0].layout.work / "shard-00001.dead.tmp").write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(video_folder, tmp_path, origin={"labels": "folders"}, shard_count=3, runner=stopped)
    with pytest.raises(ConfigError, match="another preparation already: shards was 3, is 2"):
        prepare(video_folder, tmp_path, origin={"labels": "folders"}, shard_count=2, runner=in_this_process)
    made = []

    def counted(jobs):
        made.extend(job.number for job in jobs)
        in_this_process(jobs)

    again = [prepare(video_folder, tmp_path, origin={"labels": "folders"}, shard_count=3, runner=counted) for _ in "ab"]
    assert made == [1, 2]
    assert again[0] == again[1]
    assert checksums(tmp_path) == checksums(out)
    with pytest.raises(ConfigError, match="the videos are others"):
        prepare(video_folder / "even", tmp_path, shard_count=3, runner=in_this_process)


def test_one_preparation_at_a_time(video_folder, tmp_path):
    def meanwhile(jobs):
        with pytest.raises(ConfigError, match="another process"):
            prepare(video_folder, tmp_path, runner=in_this_process)
        in_this_process(jobs)

    prepare(video_folder, tmp_path, runner=meanwhile)


def test_archives_are_read_where_they_lie(video_folder, kept, tmp_path):
    link = tarfile.TarInfo("even/link.mp4")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    outside = tarfile.TarInfo("../outside.mp4")
    outside.size = 4
    text = tarfile.TarInfo("notes.txt")
    extra = [(link, b""), (outside, b"data"), (text, b"")]
    for name in ("videos.tar", "videos.tar.gz"):
        archive = tar_of(video_folder, tmp_path / name, extra)
        out = tmp_path / f"out-{name}"
        manifest = prepare(archive, out, origin={"labels": "folders"}, shard_count=3, runner=in_this_process)
        assert [entry["sha256"] for entry in manifest["shards"]] == [entry["sha256"] for entry in kept[1]["shards"]]
        assert manifest["rejected"] == [
            ["../outside.mp4", "broken", "has a name that leads out of the archive"],
            ["even/link.mp4", "broken", "is a link in the archive"],
        ]
        assert not (out / ".preparing").exists()
    (tmp_path / "no.tar").write_bytes(b"no archive at all" * 100)
    with pytest.raises(ConfigError, match="cannot be read as a tar"):
        prepare(tmp_path / "no.tar", tmp_path / "no", runner=in_this_process)


def test_tfds_datasets_and_lists(video_folder, kept, tmp_path):
    again = prepare(kept[0], tmp_path / "again", shard_count=2, runner=in_this_process, codec="jpeg", rate=5)
    assert (again["videos"], again["label_names"]) == (10, {"label": ["even", "odd"]})
    assert records(tmp_path / "again")["videos/odd/video_3.mp4"].labels == {"label": 1}
    rows = ["even/video_0.mp4 3", "odd/video_1.mp4 -1", "even/video_0.mp4 4", "gone.mp4 5"]
    (video_folder.parent / "list.csv").write_text("\n".join(rows))
    manifest = prepare(
        video_folder.parent / "list.csv", tmp_path / "list", origin={"root": str(video_folder)}, runner=in_this_process
    )
    assert manifest["rejected"] == [["gone.mp4", "missing", "does not exist"]]
    labels = {key: encoded.labels for key, encoded in records(tmp_path / "list").items()}
    assert labels == {
        "videos/even/video_0.mp4": {"label": 3},
        "videos/odd/video_1.mp4": {},
        "videos/even/video_0.mp4~2": {"label": 4},
    }


def test_tfrecords_and_shards_without_a_record(video_folder, tmp_path):
    bad = tmp_path / "videos"
    bad.mkdir()
    for number in range(3):
        (bad / f"{number}.mp4").write_bytes(b"" if number else (video_folder / "even/video_0.mp4").read_bytes())
    for file_format in ("tfrecord", "array_record"):
        out = tmp_path / file_format
        manifest = prepare(bad, out, shard_count=3, runner=in_this_process, file_format=file_format)
        assert sorted(shard["examples"] for shard in manifest["shards"]) == [0, 0, 1]
        assert list(records(out)) == ["videos/0.mp4"]
    (bad / "0.mp4").unlink()
    with pytest.raises(TooManyBadVideos, match="none of the 2 videos"):
        prepare(bad, tmp_path / "none", runner=in_this_process)


def stored(data, **chosen):
    return list(examples(Encoded(data=data), options(**chosen), key="clip"))


def test_frames_by_their_real_time_stamps():
    frames = numbered_frames(50)
    video = write_video(frames)
    cut = copied_cut(write_video(frames, group=25), 0.5, 1.2)
    (kept,) = stored(cut)
    with contextlib.closing(open_encoded(Encoded(data=cut))) as reader:
        assert kept["num_frames"] == len(list(reader.frames())) == len(kept["times_us"])
    (slow,) = stored(video, codec="h264", rate=10, quality=8)
    assert (slow["num_frames"], slow["rate"], slow["times_us"][:3]) == (20, 10.0, [0, 100000, 200000])
    shown = read_frames(Encoded(data=slow["video"]), range(20))[:, 8, 4, 0].astype(int)
    begun = [int(k / 10 * 25 + 1e-6) for k in range(20)]  # what a player shows at that moment
    assert np.abs(shown - frames[begun, 8, 4, 0]).max() <= 3
    (fast,) = stored(video, codec="jpeg", rate=50)
    assert fast["num_frames"] == 99


def test_long_videos_are_cut_into_equal_parts(monkeypatch):
    video = write_video(numbered_frames(50))
    parts = stored(video, codec="h264", seconds=0.75)
    assert [part["key"] for part in parts] == ["clip#0", "clip#1", "clip#2"]
    assert [part["num_frames"] for part in parts] == [17, 17, 16]
    assert [part["start_us"] for part in parts] == [0, 680000, 1360000]
    monkeypatch.setattr("vmae_jax.data.prepare.examples.RECORD_BYTES", 5000)
    pieces = stored(video, codec="jpeg")
    assert len(pieces) > 1
    assert pieces[0]["key"] == "clip"
    assert pieces[1]["key"] == "clip#1"
    assert sum(piece["num_frames"] for piece in pieces) == 50
    monkeypatch.setattr("vmae_jax.data.prepare.examples.KEEP_BYTES", 100)
    with pytest.raises(BadVideo, match="codec=keep stores files of up to"):
        stored(video)


@pytest.mark.parametrize("rotation", [None, 90])
def test_sizes(rotation):
    frames = np.ascontiguousarray(numbered_frames(4, size=64)[:, :, :46])
    video = write_video(frames, rotation=rotation)
    upright = (64, 46) if rotation is None else (46, 64)
    for codec in ("keep", "h264", "jpeg"):
        (clip,) = stored(video, codec=codec)
        assert (clip["height"], clip["width"]) == upright
    (small,) = stored(video, codec="h264", short_side=20)
    assert (min(small["height"], small["width"]), max(small["height"], small["width"])) == (20, 28)
    shown = read_frames(Encoded(data=small["video"]), [0])
    assert shown.shape[1:3] == (small["height"], small["width"])
    truth = read_frames(Encoded(data=video), [0])
    assert np.abs(shown[0].mean(axis=(0, 1)) - truth[0].mean(axis=(0, 1))).max() < 4


def test_options_are_checked():
    for wrong in ({"codec": "gif"}, {"short_side": 64}, {"codec": "h264", "quality": 99}, {"codec": "jpeg", "rate": 0}):
        with pytest.raises(ConfigError) as caught:
            options(**wrong)
        assert "\n" not in str(caught.value)


def test_records_are_what_tensorflow_writes():
    from vmae_jax.data.tf import tensorflow

    train = tensorflow().train
    fields = {
        "b": b"\0\xff",
        "k": "häuser",
        "n": -3,
        "r": 0.5,
        "t": [0, 1 << 40, -1],
        "v": (b"a", b""),
        "e": (),
        "f": (1.0, 2.0),
    }
    parsed = train.Example.FromString(serialize(fields)).features.feature
    assert list(parsed["t"].int64_list.value) == fields["t"]
    assert list(parsed["v"].bytes_list.value) == [b"a", b""]
    assert parsed["k"].bytes_list.value[0].decode() == "häuser"
    assert (parsed["n"].int64_list.value[0], parsed["r"].float_list.value[0]) == (-3, 0.5)
    assert list(parsed["f"].float_list.value) == [1.0, 2.0]
    assert len(parsed) == len(fields)


def test_the_deal_depends_on_names_alone():
    keys = [f"{i}.mp4" for i in range(23)]
    dealt = [{keys[i] for i in part} for part in deal(keys, 5)]
    assert [{keys[::-1][i] for i in part} for part in deal(keys[::-1], 5)] == dealt
    assert sorted(map(len, dealt)) == [4, 4, 5, 5, 5]
    assert default_shards([10] * 3) == 1
    assert default_shards([1 << 30] * 3) == 3
    assert default_shards([-1] * 1000) == 16


class _Hostile:
    """A job whose second video does to its process what a broken decoder would."""

    number, part, timeout = 0, (0, 1, 2), 1.0

    def __init__(self, how, path):
        self.how, self.path = how, path

    def run(self, crashed, send):
        import signal
        import time

        for index in range(3):
            send(at=index)
            if index == 1 and index not in crashed:
                if self.how == "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                if self.how == "disk":
                    raise OSError("no space left")
                signal.setitimer(signal.ITIMER_REAL, self.timeout)
                time.sleep(60)
            send(done=index)
        with open(self.path, "w") as file:
            json.dump(crashed, file)


@pytest.mark.parametrize(("how", "words"), [("kill", "SIGKILL"), ("hang", "longer than 1 s")])
def test_a_decoder_that_dies_costs_its_video(tmp_path, how, words):
    produce(_Hostile(how, str(tmp_path / "crashed")))
    (given_up,) = json.loads((tmp_path / "crashed").read_text()).items()
    assert given_up[0] == "1"
    assert words in given_up[1]


def test_a_full_disk_is_no_videos_fault(tmp_path):
    with pytest.raises(MachineFault, match="no space left; the same command resumes") as caught:
        produce(_Hostile("disk", str(tmp_path / "crashed")))
    assert (exit_status(caught.value), expected(caught.value)) == (75, True)


@pytest.mark.parametrize("file_format", ["array_record", "tfrecord"])
def test_a_limit_on_the_size_of_files_is_no_videos_fault(video_folder, tmp_path, file_format):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, limits[1]))
    try:
        with pytest.raises(MachineFault, match=r"cannot be written: .*File too large"):
            prepare(video_folder, tmp_path, runner=in_this_process, file_format=file_format)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    manifest = prepare(video_folder, tmp_path, runner=in_this_process, file_format=file_format)
    assert (manifest["videos"], manifest["rejected"]) == (10, [])


def test_damaged_time_stamps_do_not_end_a_preparation():
    (clip,) = stored(swapped_stamps(write_video(numbered_frames(25), codec="mpeg4")), codec="h264", quality=8)
    assert (clip["num_frames"], clip["times_us"]) == (25, [40_000 * k for k in range(25)])
    assert probe(Encoded(data=clip["video"])).num_frames == 25


def test_whatever_fails_while_a_video_is_encoded_is_its_finding(monkeypatch):
    video = write_video(numbered_frames(4))
    for error, kind in (
        (av.error.ArgumentError(22, "Invalid argument"), BadVideo),
        (MemoryError(), BadVideo),
        (OSError(errno.ENOSPC, "No space left on device"), MachineFault),
    ):

        def add(self, frame, stamp, error=error):
            raise error

        monkeypatch.setattr("vmae_jax.data.encode.H264.add", add)
        with pytest.raises(kind) as caught:
            stored(video, codec="h264")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("rotation", [None, 90])
@pytest.mark.parametrize("codec", ["h264", "jpeg"])
def test_what_is_stored_has_square_pixels(codec, rotation):
    frames = np.ascontiguousarray(numbered_frames(4, size=96)[:, :72])
    video = write_video(frames, aspect=Fraction(4, 3), rotation=rotation)
    (kept,) = stored(video, codec="keep")
    assert (kept["height"], kept["width"]) == ((72, 128) if rotation is None else (128, 72))
    for more, shown in (({}, (72, 128)), ({"short_side": 36}, (36, 64))):
        (clip,) = stored(video, codec=codec, **more)
        data = {"data": clip["video"]} if codec == "h264" else {"frames": clip["video"]}
        info = probe(Encoded(**data))
        assert info.pixel_aspect == 1
        assert (clip["height"], clip["width"]) == (info.height, info.width)
        assert (info.height, info.width) == (shown if rotation is None else shown[::-1])
        picture = read_frames(Encoded(**data), [3])[0].astype(int)
        truth = read_frames(Encoded(data=video), [3])[0].astype(int)
        assert np.abs(picture.mean((0, 1)) - truth.mean((0, 1))).max() < 4


class _Endless:
    """A job that never ends."""

    number, part, timeout = 0, (0,), 60.0

    def run(self, crashed, report):
        import time

        report(at=os.getpid())
        time.sleep(600)


def test_the_process_ends_with_its_parent():
    code = f"""
import sys
sys.path[:0] = [{os.path.dirname(__file__)!r}, {os.path.dirname(os.path.dirname(__file__))!r}]
from test_prepare import _Endless
from vmae_jax.data.prepare.produce import produce
produce(_Endless(), on_message=lambda message: print(message["at"], flush=True))
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        child = int(parent.stdout.readline())
        os.kill(child, 0)  # it is there
        parent.kill()
    end = time.monotonic() + 30
    while _exists(child):
        assert time.monotonic() < end
        time.sleep(0.1)


def _exists(pid):
    """Whether a process runs; one that ended may wait for someone to read its status."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_sound_is_copied(clips, tmp_path):
    data = (clips / "turned.mp4").read_bytes()
    parts = stored(data, codec="h264", seconds=5, short_side=64)
    assert len(parts) == 2
    for part in parts:
        with av.open(io.BytesIO(part["audio"])) as sound:
            stream = sound.streams.audio[0]
            seconds = [float(packet.pts * stream.time_base) for packet in sound.demux(stream) if packet.pts is not None]
        assert stream.codec_context.name == "aac"
        assert seconds[0] < 0.1
        assert 4.8 < seconds[-1] < 5.1
    (quiet,) = stored(data, codec="h264", short_side=64, sound=False)
    assert "audio" not in quiet
