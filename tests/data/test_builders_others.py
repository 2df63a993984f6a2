"""The builders of the other data sets, each on a miniature in the layout of its owners' files."""

import pytest
from owners_files import place, write

from vmae_jax.data import sources
from vmae_jax.data.builders import (
    ava,
    diving48,
    epic_kitchens,
    hmdb51,
    moments_in_time,
    something_something,
    ucf101,
    video_folder,
    video_list,
    webvid,
)
from vmae_jax.data.decode import probe
from vmae_jax.spec import ConfigError


def rows(listing, label="label"):
    """By split: (key, label) of every row."""
    return {split: [(row.key, row.labels.get(label)) for row in part.rows] for split, part in listing.splits.items()}


def opened(name, config, data_dir, split="train"):
    return sources.tfds(name=name, data_dir=str(data_dir), config=config, prepare=True, split=split).open()


def refused(config, words):
    with pytest.raises(ConfigError, match=words) as caught:
        config.listing()
    assert "\n" not in str(caught.value)


def ssv2(root):
    labels = {"Holding something": "1", "Approaching something with your camera": "0"}
    write(root, "labels/something-something-v2-labels.json", labels)
    one = {"id": "7", "template": "Holding [something]", "label": "holding a cup", "placeholders": ["a cup"]}
    two = {"id": "8", "template": "Approaching [something] with your camera", "label": "…", "placeholders": ["a"]}
    write(root, "labels/something-something-v2-train.json", [one, {**two, "id": "9"}])
    write(root, "labels/something-something-v2-validation.json", [two])
    write(root, "labels/something-something-v2-test.json", [{"id": "10"}])
    place(root, *(f"20bn-something-something-v2/{number}.webm" for number in (7, 8, 10)))
    return root


def test_something_something_v2(tmp_path):
    config = something_something.config("v2", str(ssv2(tmp_path)))
    listing = config.listing()
    assert listing.names["label"] == ("Approaching something with your camera", "Holding something")
    assert rows(listing) == {"train": [("7", 1)], "validation": [("8", 0)], "test": [("10", -1)]}
    assert [one.key for one in listing.splits["train"].absent] == ["9"]
    (tmp_path / "labels/something-something-v2-test.json").unlink()  # not everybody has it
    assert set(config.listing().splits) == {"train", "validation"}
    write(tmp_path, "labels/something-something-v2-validation.json", [{"id": "8", "template": "Eating [it]"}])
    refused(config, "class 'Eating it', which is not in the list of labels")
    (tmp_path / "labels/something-something-v2-labels.json").write_text("[")
    refused(config, "is no JSON")


def test_something_something_v1_is_folders_of_pictures(tmp_path):
    from PIL import Image

    root = tmp_path / "ssv1"
    write(root, "something-something-v1-labels.csv", ["Holding something", "Putting something, then removing it"])
    write(
        root, "something-something-v1-train.csv", ["100;Putting something, then removing it", "101;Holding something"]
    )
    write(root, "something-something-v1-validation.csv", ["102;Holding something"])
    write(root, "something-something-v1-test.csv", ["103"])
    for video in (100, 102, 103):
        folder = root / "20bn-something-something-v1" / str(video)
        folder.mkdir(parents=True)
        for number in range(1, 4):
            Image.new("RGB", (24, 16), (video, 0, 0)).save(folder / f"{number:05}.jpg")
    config = something_something.config("v1", str(root))
    assert rows(config.listing()) == {"train": [("100", 1)], "validation": [("102", 0)], "test": [("103", -1)]}
    source = opened("something_something", config, tmp_path / "data")
    assert (len(source), source.fetch(0).labels["label"]) == (1, 1)
    info = probe(source.fetch(0))
    assert (info.num_frames, info.height, info.width) == (3, 16, 24)
    test = opened("something_something", config, tmp_path / "data", "test")
    assert test.fetch(0).labels.get("label") in (None, -1)


def ucf(root):
    write(root, "ucfTrainTestlist/classInd.txt", ["1 Archery", "2 HandstandPushups"])
    for split in (1, 2, 3):
        train = ["Archery/v_Archery_g08_c01.avi 1", "HandstandPushups/v_HandStandPushups_g08_c01.avi 2"]
        test = [f"Archery/v_Archery_g0{split}_c01.avi"]
        write(root, f"ucfTrainTestlist/trainlist0{split}.txt", train)
        write(root, f"ucfTrainTestlist/testlist0{split}.txt", test)
    place(root / "UCF-101", "Archery/v_Archery_g08_c01.avi", "HandstandPushups/v_HandstandPushups_g08_c01.avi")
    place(root / "UCF-101", *(f"Archery/v_Archery_g0{split}_c01.avi" for split in (1, 2)))
    return root


def test_ucf101(tmp_path):
    listing = ucf101.config(2, str(ucf(tmp_path))).listing()
    assert listing.names["label"] == ("Archery", "HandstandPushups")
    assert rows(listing) == {
        "train": [("v_Archery_g08_c01", 0), ("v_HandStandPushups_g08_c01", 1)],  # found whatever its capitals
        "test": [("v_Archery_g02_c01", 0)],
    }
    assert [one.key for one in ucf101.config(3, str(tmp_path)).listing().splits["test"].absent] == ["v_Archery_g03_c01"]
    with pytest.raises(ConfigError, match="split=4; there are 1, 2 and 3"):
        ucf101.config(4)
    write(tmp_path, "ucfTrainTestlist/classInd.txt", ["1 Archery", "3 HandstandPushups"])
    refused(ucf101.config(1, str(tmp_path)), "is not '1 NAME', '2 NAME'")


def test_hmdb51(tmp_path):
    splits = tmp_path / "testTrainMulti_7030_splits"
    for name in ("brush_hair", "wave"):
        for split in (1, 2, 3):
            lines = [f"{name}_a.avi {1 if split == 1 else 2} ", f"b [odd] name_{name}.avi 2 ", f"{name}_unused.avi 0 "]
            write(splits, f"{name}_test_split{split}.txt", lines)
        place(tmp_path / "hmdb51_org" / name, f"{name}_a.avi", f"b [odd] name_{name}.avi", f"{name}_unused.avi")
    listing = hmdb51.config(1, str(tmp_path)).listing()
    assert listing.names["label"] == ("brush_hair", "wave")
    assert rows(listing) == {
        "train": [("brush_hair_a", 0), ("wave_a", 1)],
        "test": [("b [odd] name_brush_hair", 0), ("b [odd] name_wave", 1)],
    }
    assert not hmdb51.config(3, str(tmp_path)).listing().splits["train"].rows
    write(splits, "wave_test_split2.txt", ["wave_a.avi 7"])
    refused(hmdb51.config(2, str(tmp_path)), "where a name and 0, 1 or 2 are wanted")


def test_diving48(tmp_path):
    write(tmp_path, "Diving48_vocab.json", [["Back", "15som", "05Twis", "FREE"], ["Inward", "Dive", "NoTwis", "PIKE"]])
    for split, label in (("train", 1), ("test", 0)):
        row = {"vid_name": f"{split}_00001", "label": label, "start_frame": 0, "end_frame": 5}
        write(tmp_path, f"annotations/Diving48_V2_{split}.json", [row])
    place(tmp_path, "rgb/train_00001.mp4", "rgb/test_00001.mp4")
    config = diving48.config(str(tmp_path))
    assert config.listing().names["label"] == ("Back 15som 05Twis FREE", "Inward Dive NoTwis PIKE")
    assert rows(config.listing()) == {"train": [("train_00001", 1)], "test": [("test_00001", 0)]}
    write(tmp_path, "Diving48_vocab.json", [["Back"]])
    refused(config, r"the class 1, but Diving48_vocab\.json 1 classes")


def test_moments_in_time(tmp_path):
    write(tmp_path, "moments_categories.txt", ["adult+female+singing,0", "clapping,1"])
    write(tmp_path, "trainingSet.csv", ["clapping/a-b_1.mp4,clapping,2,3", "clapping/gone.mp4,clapping,1,0"])
    write(tmp_path, "validationSet.csv", ["adult+female+singing/c_2.mp4,adult+female+singing,3,0"])
    place(tmp_path, "training/clapping/a-b_1.mp4", "validation/adult+female+singing/c_2.mp4")
    config = moments_in_time.config("v1", str(tmp_path))
    listing = config.listing()
    assert rows(listing) == {"train": [("clapping/a-b_1", 1)], "validation": [("adult+female+singing/c_2", 0)]}
    assert [one.key for one in listing.splits["train"].absent] == ["clapping/gone"]
    write(tmp_path, "trainingSet.csv", ["clapping/a-b_1.mp4,flying,2,3"])
    refused(config, "whose class is unknown")
    write(tmp_path, "trainingSet.csv", ["../../etc/x.mp4,clapping,2,3"])
    refused(config, "leads out of the folder")


def test_multi_moments_has_several_labels(tmp_path):
    write(tmp_path, "mmit_categories.txt", ["clapping,0", "singing,1", "running,2"])
    write(tmp_path, "trainingSet.csv", ["x/a.mp4,2,0", "x/b.mp4,1"])
    write(tmp_path, "validationSet.csv", ["x/c.mp4,0,1,2"])
    place(tmp_path, *(f"videos/x/{name}.mp4" for name in "abc"))
    config = moments_in_time.config("multi", str(tmp_path))
    assert rows(config.listing(), "labels")["train"] == [("x/a", (0, 2)), ("x/b", (1,))]
    source = opened("moments_in_time", config, tmp_path / "data", "validation")
    assert source.label_names["labels"] == ("clapping", "singing", "running")
    assert tuple(source.fetch(0).labels["labels"]) == (0, 1, 2)


def test_webvid_has_captions_and_any_share(tmp_path):
    head = "videoid,contentUrl,duration,page_dir,name"
    lines = [f'{i},https://x/{i}.mp4,PT00H00M10S,d,"Caption, number {i}"' for i in range(40)]
    write(tmp_path, "results_2M_train.csv", [head, *lines])
    write(tmp_path, "results_2M_val.csv", [head, "99,u,PT,d,Sea"])
    place(tmp_path / "videos" / "d", *(f"{i}.mp4" for i in [*range(40), 99]))
    whole = rows(webvid.config("2M", directory=str(tmp_path)).listing(), "text")
    assert (len(whole["train"]), whole["train"][3]) == (40, ("3", "Caption, number 3"))
    half = webvid.config("2M", share=0.5, directory=str(tmp_path))
    chosen = rows(half.listing(), "text")
    assert 8 < len(chosen["train"]) < 32
    assert set(chosen["train"]) < set(whole["train"])
    assert chosen["validation"] == [("99", "Sea")]
    write(tmp_path, "results_2M_train.csv", [head, lines[0]])
    data = tmp_path / "data"
    assert len(opened("webvid", webvid.config("2M", directory=str(tmp_path)), data)) == 1
    from vmae_jax.data.tf import tensorflow_datasets

    made = tensorflow_datasets().builder_from_directory(next(data.glob("webvid/2M/1.0.0")))
    assert made.as_data_source("train")[0]["text"] == b"Caption, number 0"


def test_ava_is_moments_with_all_their_actions(tmp_path):
    actions = ['label {\n  name: "stand"\n  label_id: 12\n}', 'label {\n  name: "bend"\n  label_id: 1\n}']
    write(tmp_path, "annotations/ava_action_list_v2.2_for_activitynet_2019.pbtxt", actions)
    box = "0.1,0.2,0.3,0.4"
    train = [f"-5KQ,0902,{box},12,0", f"-5KQ,0902,{box},1,1", f"-5KQ,0903,{box},80,0", f"gone,0910,{box},1,0"]
    write(tmp_path, "annotations/ava_train_v2.2.csv", [*train, f"-5KQ,0950,{box},1,0"])
    write(tmp_path, "annotations/ava_val_v2.2.csv", [f"val,0902,{box},12,0", "val,0904,,,,,,"])
    write(tmp_path, "annotations/ava_train_excluded_timestamps_v2.2.csv", ["-5KQ,0950"])
    place(tmp_path, "trainval/-5KQ.mp4", "trainval/val.mp4")
    listing = ava.config(seconds=4, begins=900, directory=str(tmp_path)).listing()
    assert listing.names["labels"] == ("bend", "stand")  # in the order of their numbers
    assert rows(listing, "labels") == {  # 80 is none of the listed actions: a moment of no class
        "train": [("-5KQ_000902", (0, 1)), ("-5KQ_000903", ())],
        "validation": [("val_000902", (1,)), ("val_000904", ())],
    }
    assert [row.span for row in listing.splits["train"].rows] == [(0.0, 4.0), (1.0, 5.0)]
    assert [one.key for one in listing.splits["train"].absent] == ["gone_000910"]
    whole = ava.config(seconds=10, clips="consecutive", directory=str(tmp_path)).listing().splits["train"]
    assert len(whole.rows) == 90  # a quarter of an hour
    assert len({row.key for row in whole.rows}) == 90
    assert [whole.rows[0].span, whole.rows[0].labels] == [(900.0, 910.0), {"labels": (0, 1)}]
    assert [whole.rows[89].span, whole.rows[89].labels] == [(1790.0, 1800.0), {"labels": ()}]
    write(tmp_path, "annotations/ava_val_v2.2.csv", [f"val,soon,{box},12,0"])
    refused(ava.config(directory=str(tmp_path)), "which is no annotation")


def epic(root):
    write(root, "EPIC_100_verb_classes.csv", ["id,key,instances,category", "0,take,\"['take', 'get']\",x", "1,put,,y"])
    write(root, "EPIC_100_noun_classes.csv", ["id,key,instances,category", "0,tap,,x", "1,plate,,x", "2,cup,,x"])
    head = "narration_id,participant_id,video_id,start_timestamp,stop_timestamp,verb_class,noun_class"
    train = ["P01_01_0,P01,P01_01,00:00:00.04,00:00:00.14,1,2", "P01_01_1,P01,P01_01,01:01:02.50,01:01:03,0,0"]
    write(root, "EPIC_100_train.csv", [head, *train])
    write(root, "EPIC_100_validation.csv", [head, "P01_11_0,P01,P01_11,00:00:00.10,00:00:00.20,0,1"])
    write(root, "EPIC_100_test_timestamps.csv", [head[:-22], "P02_01_0,P02,P02_01,00:00:00,00:00:01.5"])
    place(root, "P01/videos/P01_01.MP4", "P01/videos/P01_11.MP4", "P02/videos/P02_01.MP4")
    return root


def test_epic_kitchens_has_verbs_and_nouns(tmp_path):
    config = epic_kitchens.config(directory=str(epic(tmp_path)))
    listing = config.listing()
    assert listing.names == {"verb": ("take", "put"), "noun": ("tap", "plate", "cup")}
    assert rows(listing, "verb") == {
        "train": [("P01_01_0", 1), ("P01_01_1", 0)], "validation": [("P01_11_0", 0)], "test": [("P02_01_0", -1)]
    }  # fmt: skip
    assert rows(listing, "noun")["validation"] == [("P01_11_0", 1)]
    assert listing.splits["train"].rows[1].span == (3662.5, 3663.0)
    write(tmp_path, "EPIC_100_verb_classes.csv", ["id,key", "0,take"])
    refused(config, "has the verb 1, and there are 1")


def test_any_folder(tmp_path):
    root = tmp_path / "mine"
    place(root, "train/b/1.mp4", "train/a/1.mp4", "val/a/2.mp4")
    listing = video_folder.config(str(root), labels="folders").listing()
    assert listing.names["label"] == ("a", "b")
    assert rows(listing) == {"train": [("a/1.mp4", 0), ("b/1.mp4", 1)], "validation": [("a/2.mp4", 0)]}
    assert rows(video_folder.config(str(root / "train")).listing()) == {"train": [("a/1.mp4", None), ("b/1.mp4", None)]}
    place(root, "train/loose.mp4")
    refused(video_folder.config(str(root), labels="folders"), r"loose\.mp4 lies in no folder of a class")
    assert video_folder.config(str(root)).name != video_folder.config(str(root / "train")).name
    source = opened("video_folder", video_folder.config(str(root)), tmp_path / "data")
    assert len(source) == 3


def test_lists_of_videos_of_ones_own(tmp_path):
    place(tmp_path / "videos", "a b.mp4", "c.mp4")
    write(tmp_path, "train.csv", ["a b.mp4 0 -1", "c.mp4 0 -1", "gone.mp4 0 -1"])
    config = video_list.config(str(tmp_path / "train.csv"), root=str(tmp_path / "videos"))
    listing = config.listing()
    assert rows(listing) == {"train": [("a b.mp4", None), ("c.mp4", None)]}
    assert [one.key for one in listing.splits["train"].absent] == ["gone.mp4"]
    write(tmp_path, "train.csv", ["a b.mp4 3", "c.mp4 1"])
    write(tmp_path, "test.csv", ["c.mp4 0"])
    config = video_list.config(
        str(tmp_path / "train.csv"), test=str(tmp_path / "test.csv"), root=str(tmp_path / "videos")
    )
    assert rows(config.listing()) == {"train": [("a b.mp4", 3), ("c.mp4", 1)], "test": [("c.mp4", 0)]}
    assert config.listing().names["label"] == ("0", "1", "2", "3")
    write(tmp_path, "test.csv", ["c.mp4 0.5"])
    refused(config, "vmae data prepare stores others")


def test_a_config_of_another_set_is_told(tmp_path):
    config = ucf101.config(1, str(tmp_path))
    with pytest.raises(ConfigError, match=r"hmdb51 takes config=data\.builders\.hmdb51\.config"):
        opened("hmdb51", config, tmp_path)


def test_moments_are_cut_out_of_their_files(tmp_path, capfd):
    root = epic(tmp_path / "epic")
    config = epic_kitchens.config(short_side=16, directory=str(root))
    source = opened("epic_kitchens", config, tmp_path / "data")
    assert source.label_names == {"verb": ("take", "put"), "noun": ("tap", "plate", "cup")}
    assert [(source.fetch(i).labels["verb"], source.fetch(i).labels["noun"]) for i in range(len(source))] == [(1, 2)]
    assert probe(source.fetch(0)).num_frames == 3  # 0.04, 0.08 and 0.12 s
    told = "epic_kitchens, train: 1 of 2 videos are left out, such as P01_01_1 (has no frame from second 3662.5"
    assert told in capfd.readouterr().err
    for path in root.rglob("*.MP4"):
        path.write_bytes(b"no video")
    with pytest.raises(ConfigError, match=r"no video of 'train' can be read, such as P01_01_\d"):
        opened("epic_kitchens", config, tmp_path / "other")


def test_moments_without_any_class_are_examples_too(tmp_path):
    write(tmp_path, "mmit_categories.txt", ["clapping,0", "singing,1"])
    write(tmp_path, "trainingSet.csv", ["a.mp4"])
    write(tmp_path, "validationSet.csv", ["a.mp4,1"])
    place(tmp_path, "videos/a.mp4")
    source = opened("moments_in_time", moments_in_time.config("multi", str(tmp_path)), tmp_path / "data")
    assert tuple(source.fetch(0).labels["labels"]) == ()
