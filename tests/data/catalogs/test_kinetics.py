"""Kinetics and the union of its versions, on miniatures in the owners' layout."""

import shutil

import pytest
from owners_files import kinetics, place, write
from prepared_sets import prepared_catalog

from vmae_jax.data import sources
from vmae_jax.data.catalogs import kinetics as catalog
from vmae_jax.data.decode import read_frames
from vmae_jax.data.prepare import summary
from vmae_jax.spec import ConfigError


def labels(listing, split):
    """Class by video id."""
    names = listing.names["label"]
    return {row.key[:-14]: names[row.labels["label"]] for row in listing.splits[split].rows}


def test_from_annotations_to_records(tmp_path):
    root = kinetics(tmp_path / "k400", ["b c/-abc", "a/_d", "a/gone"], ["a/v1", "b c/v2"], absent=("gone",))
    source, manifest = prepared_catalog("kinetics:version=400", root, tmp_path / "data")
    assert source.label_names["label"] == ("a", "b c")
    assert len(source) == 2
    by_key = {source.fetch(i).key: source.fetch(i) for i in range(2)}
    assert {key: encoded.labels["label"] for key, encoded in by_key.items()} == {
        "videos/-abc_000003_000013": 1,
        "videos/_d_000003_000013": 0,
    }
    assert read_frames(source.fetch(0), [5]).shape == (1, 16, 16, 3)
    assert len(prepared_catalog("kinetics:version=400", root, tmp_path / "data", "validation")[0]) == 2
    assert manifest["rejected"] == [["gone_000003_000013", "missing", "is not in the folder"]]
    assert "gone_000003_000013: missing: is not in the folder" in summary.in_words(manifest, "data")


def test_a_part_of_the_classes_in_the_order_of_a_file(tmp_path):
    root = kinetics(tmp_path / "k400", ["b c/-abc", "a/_d", "d/e"], ["a/v1", "d/v2"])
    write(tmp_path, "part.txt", ["d", "b c"])
    listing = catalog.read(str(root), only=str(tmp_path / "part.txt")).listing()
    assert listing.names["label"] == ("d", "b c")
    assert labels(listing, "train") == {"-abc": "b c", "e": "d"}
    assert labels(listing, "validation") == {"v2": "d"}
    for lines, words in ((["d", "x"], "the class 'x', which is not"), (["d", "d"], "or one twice"), ([], "no classes")):
        write(tmp_path, "part.txt", lines)
        with pytest.raises(ConfigError, match=words):
            catalog.read(str(root), only=str(tmp_path / "part.txt")).listing()


def test_prepared_records_need_the_owners_files_no_more(tmp_path):
    root = kinetics(tmp_path / "k", ["a/x"], ["a/y"])
    prepared_catalog("kinetics:version=600", root, tmp_path / "data", "validation")
    shutil.rmtree(root)
    source = sources.tfds(directory=str(tmp_path / "data"), split="validation").open()
    assert (len(source), source.label_names["label"]) == (1, ("a",))


def test_a_broken_video_is_left_out_and_reported(tmp_path):
    root = kinetics(tmp_path / "k", ["a/x", "a/bad"], ["a/y"])
    (root / "train" / "bad_000003_000013.mp4").write_bytes(b"no video")
    source, manifest = prepared_catalog("kinetics:version=700", root, tmp_path / "data")
    assert len(source) == 1
    ((key, kind, reason),) = manifest["rejected"]
    assert (key, kind) == ("bad_000003_000013", "broken")
    assert reason.startswith("is no readable video")


def test_where_files_lie_and_what_they_are_called(tmp_path):
    """Owners and mirrors differ: folders, val.csv, a bare id, repaired copies, a test set without labels."""
    root = tmp_path
    write(root, "train.csv", ["label,youtube_id,time_start,time_end,split,is_cc", "a,one,1.0,11.0,train,0"])
    write(root, "val.csv", ["label,youtube_id,time_start,time_end,split", "a,two,20,30,val"])
    write(root, "test.csv", ["youtube_id,time_start,time_end,split", "three,0,10,test"])
    place(
        root,
        "videos/a/one_000001_000011.mkv",
        "replacement/one_000001_000011.mp4",
        "two.mp4",
        "three_000000_000010.mp4",
    )
    listing = catalog.read(str(root), "400").listing()
    assert listing.splits["train"].rows[0].video == str(root / "replacement/one_000001_000011.mp4")
    assert listing.splits["validation"].rows[0].video == str(root / "two.mp4")
    assert [row.labels for row in listing.splits["test"].rows] == [{"label": -1}]


def union(tmp_path):
    root = tmp_path / "k710"
    kinetics(root / "k400", ["hugging/h4", "both/s1", "only four/o4", "both/shared"], ["both/v4", "both/seen"])
    kinetics(root / "kinetics600", ["hugging/h6", "both/s1", "drinking/d6", "both/shared"], ["both/v6", "hugging/seen"])
    kinetics(
        root / "k700-2020",
        ["hugging (not baby)/h7", "both/v4", "both/v6", "sipping cup/p7", "zoo/shared"],
        ["both/v7", "zoo/z7"],
    )
    return root


def test_710_is_the_union(tmp_path):
    listing = catalog.read(str(union(tmp_path)), "710").listing()
    # 700's names, sorted, then what only older versions have; renamed ones are no classes of their own.
    assert listing.names["label"] == ("both", "hugging (not baby)", "sipping cup", "zoo", "only four")
    assert labels(listing, "train") == {
        "h7": "hugging (not baby)",
        "p7": "sipping cup",
        "shared": "zoo",  # three versions have the video: the newest one's word counts
        "h6": "hugging (not baby)",
        "s1": "both",
        "d6": "sipping cup",
        "h4": "hugging (not baby)",
        "o4": "only four",
    }
    assert set(labels(listing, "validation")) == {"v4", "v6", "v7", "z7", "seen"}


def test_710_never_trains_on_what_a_version_validates_on(tmp_path):
    listing = catalog.read(str(union(tmp_path)), "710").listing()
    assert not set(labels(listing, "train")) & set(labels(listing, "validation"))
    # also when the validation video itself is not in the folder
    root = union(tmp_path / "again")
    (root / "k400" / "validate" / "v4_000003_000013.mp4").unlink()
    (root / "k400" / "validate" / "seen_000003_000013.mp4").unlink()
    listing = catalog.read(str(root), "710").listing()
    assert "v4" not in labels(listing, "train")
    assert [one.key for one in listing.splits["validation"].absent] == ["v4_000003_000013"]
    assert labels(listing, "validation")["seen"] == "hugging (not baby)"  # 600 has it, too


def test_every_rename_leads_from_an_old_name_to_a_new_one():
    assert len(catalog.RENAMES) == 15
    assert not set(catalog.RENAMES) & set(catalog.RENAMES.values())
    assert len(set(catalog.RENAMES.values())) == 15


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda root: (root / "annotations/train.csv").unlink(), "there is no train.csv"),
        (lambda root: write(root, "annotations/train.csv", ["label,id", "a,b"]), "has no column 'youtube_id'"),
        (lambda root: write(root, "annotations/train.csv", ["label,youtube_id,time_start,time_end", "a,b"]), "line 2"),
        (
            lambda root: write(root, "annotations/train.csv", ["label,youtube_id,time_start,time_end", "a,b,c,d"]),
            "times of b that are no numbers",
        ),
        (
            lambda root: write(root, "annotations/train.csv", ["label,youtube_id,time_start,time_end", "z,b,1,2"]),
            "class 'a' of validation is not among those",
        ),
        (lambda root: [path.unlink() for path in root.rglob("*.mp4")], "there is no video"),
    ],
)
def test_mistakes_in_the_folder_are_reported_in_one_line(tmp_path, change, message):
    root = kinetics(tmp_path, ["a/x"], ["a/y"])
    change(root)
    with pytest.raises(ConfigError, match=message) as caught:
        catalog.read(str(root), "400").listing()
    assert "\n" not in str(caught.value)
    assert "it should hold train.csv and validate.csv" in str(caught.value)


def test_mistakes_before_any_folder(tmp_path):
    with pytest.raises(ConfigError, match="version='500'; there are 400, 600, 700, 710"):
        catalog.read("k400", "500")
    cases = [
        (catalog.read(str(tmp_path / "none")), "there is no folder"),
        (catalog.read(str(tmp_path), "710"), "there is no k700 or k700-2020"),
    ]
    for one, words in cases:
        with pytest.raises(ConfigError, match=words):
            sources.catalog(one).open()


def test_no_video_of_the_lists_at_all(tmp_path):
    root = kinetics(tmp_path / "k", ["a/x"], ["a/y"], absent=("x", "y"))
    place(root, "else.mp4")
    with pytest.raises(ConfigError, match="no video of 'train' is there, such as x_000003_000013, which is not in"):
        prepared_catalog("kinetics:version=400", root, tmp_path / "data")
