"""The catalogs of the other datasets, each on a miniature in the layout of its owners' files."""

import pytest
from owners_files import place, write
from prepared_sets import prepared_catalog

from vmae_jax.data.catalogs import (
    audioset,
    ava,
    diving48,
    epic_kitchens,
    hmdb51,
    moments_in_time,
    msr_vtt,
    something_something,
    ucf101,
    vggsound,
    webvid,
)
from vmae_jax.data.decode import probe
from vmae_jax.data.faults import TooManyBadVideos
from vmae_jax.spec import ConfigError


def rows(listing, label="label"):
    """By split: (key, label) of every row."""
    return {split: [(row.key, row.labels.get(label)) for row in part.rows] for split, part in listing.splits.items()}


def refused(catalog, words):
    with pytest.raises(ConfigError, match=words) as caught:
        catalog.listing()
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
    catalog = something_something.read(str(ssv2(tmp_path)), "v2")
    listing = catalog.listing()
    assert listing.names["label"] == ("Approaching something with your camera", "Holding something")
    assert rows(listing) == {"train": [("7", 1)], "validation": [("8", 0)], "test": [("10", -1)]}
    assert [one.key for one in listing.splits["train"].absent] == ["9"]
    (tmp_path / "labels/something-something-v2-test.json").unlink()  # not everybody has it
    assert set(catalog.listing().splits) == {"train", "validation"}
    write(tmp_path, "labels/something-something-v2-validation.json", [{"id": "8", "template": "Eating [it]"}])
    refused(catalog, "class 'Eating it', which is not in the list of labels")
    (tmp_path / "labels/something-something-v2-labels.json").write_text("[")
    refused(catalog, "is no JSON")


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
    catalog = something_something.read(str(root), "v1")
    assert rows(catalog.listing()) == {"train": [("100", 1)], "validation": [("102", 0)], "test": [("103", -1)]}
    source, manifest = prepared_catalog("something_something:version=v1", root, tmp_path / "data", codec="jpeg")
    assert (len(source), source.fetch(0).labels["label"]) == (1, 1)
    assert manifest["rejected"] == [["101", "missing", "is not in the folder"]]
    info = probe(source.fetch(0))
    assert (info.num_frames, info.height, info.width) == (3, 16, 24)
    test, _ = prepared_catalog("something_something:version=v1", root, tmp_path / "data", "test", codec="jpeg")
    assert "label" not in test.fetch(0).labels  # a class that is held back


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
    listing = ucf101.read(str(ucf(tmp_path)), 2).listing()
    assert listing.names["label"] == ("Archery", "HandstandPushups")
    assert rows(listing) == {
        "train": [("v_Archery_g08_c01", 0), ("v_HandStandPushups_g08_c01", 1)],  # found whatever its capitals
        "test": [("v_Archery_g02_c01", 0)],
    }
    assert [one.key for one in ucf101.read(str(tmp_path), 3).listing().splits["test"].absent] == ["v_Archery_g03_c01"]
    with pytest.raises(ConfigError, match="split=4; there are 1, 2, 3"):
        ucf101.read("ucf101", 4)
    write(tmp_path, "ucfTrainTestlist/classInd.txt", ["1 Archery", "3 HandstandPushups"])
    refused(ucf101.read(str(tmp_path), 1), "is not '1 NAME', '2 NAME'")


def test_hmdb51(tmp_path):
    splits = tmp_path / "testTrainMulti_7030_splits"
    for name in ("brush_hair", "wave"):
        for split in (1, 2, 3):
            lines = [f"{name}_a.avi {1 if split == 1 else 2} ", f"b [odd] name_{name}.avi 2 ", f"{name}_unused.avi 0 "]
            write(splits, f"{name}_test_split{split}.txt", lines)
        place(tmp_path / "hmdb51_org" / name, f"{name}_a.avi", f"b [odd] name_{name}.avi", f"{name}_unused.avi")
    listing = hmdb51.read(str(tmp_path), 1).listing()
    assert listing.names["label"] == ("brush_hair", "wave")
    assert rows(listing) == {
        "train": [("brush_hair_a", 0), ("wave_a", 1)],
        "test": [("b [odd] name_brush_hair", 0), ("b [odd] name_wave", 1)],
    }
    assert not hmdb51.read(str(tmp_path), 3).listing().splits["train"].rows
    write(splits, "wave_test_split2.txt", ["wave_a.avi 7"])
    refused(hmdb51.read(str(tmp_path), 2), "where a name and 0, 1 or 2 are wanted")


def test_diving48(tmp_path):
    write(tmp_path, "Diving48_vocab.json", [["Back", "15som", "05Twis", "FREE"], ["Inward", "Dive", "NoTwis", "PIKE"]])
    for split, label in (("train", 1), ("test", 0)):
        row = {"vid_name": f"{split}_00001", "label": label, "start_frame": 0, "end_frame": 5}
        write(tmp_path, f"annotations/Diving48_V2_{split}.json", [row])
    place(tmp_path, "rgb/train_00001.mp4", "rgb/test_00001.mp4")
    catalog = diving48.read(str(tmp_path))
    assert catalog.listing().names["label"] == ("Back 15som 05Twis FREE", "Inward Dive NoTwis PIKE")
    assert rows(catalog.listing()) == {"train": [("train_00001", 1)], "test": [("test_00001", 0)]}
    write(tmp_path, "Diving48_vocab.json", [["Back"]])
    refused(catalog, r"the class 1, but Diving48_vocab\.json 1 classes")


def test_moments_in_time(tmp_path):
    write(tmp_path, "moments_categories.txt", ["adult+female+singing,0", "clapping,1"])
    write(tmp_path, "trainingSet.csv", ["clapping/a-b_1.mp4,clapping,2,3", "clapping/gone.mp4,clapping,1,0"])
    write(tmp_path, "validationSet.csv", ["adult+female+singing/c_2.mp4,adult+female+singing,3,0"])
    place(tmp_path, "training/clapping/a-b_1.mp4", "validation/adult+female+singing/c_2.mp4")
    catalog = moments_in_time.read(str(tmp_path), "v1")
    listing = catalog.listing()
    assert rows(listing) == {"train": [("clapping/a-b_1", 1)], "validation": [("adult+female+singing/c_2", 0)]}
    assert [one.key for one in listing.splits["train"].absent] == ["clapping/gone"]
    write(tmp_path, "trainingSet.csv", ["clapping/a-b_1.mp4,flying,2,3"])
    refused(catalog, "whose class is unknown")
    write(tmp_path, "trainingSet.csv", ["../../etc/x.mp4,clapping,2,3"])
    refused(catalog, "leads out of the folder")


def test_multi_moments_has_several_labels(tmp_path):
    write(tmp_path, "mmit_categories.txt", ["clapping,0", "singing,1", "running,2"])
    write(tmp_path, "trainingSet.csv", ["x/a.mp4,2,0", "x/b.mp4,1"])
    write(tmp_path, "validationSet.csv", ["x/c.mp4,0,1,2"])
    place(tmp_path, *(f"videos/x/{name}.mp4" for name in "abc"))
    catalog = moments_in_time.read(str(tmp_path), "multi")
    assert rows(catalog.listing(), "labels")["train"] == [("x/a", (0, 2)), ("x/b", (1,))]
    source, _ = prepared_catalog("moments_in_time:version=multi", tmp_path, tmp_path.parent / "multi", "validation")
    assert source.label_names["labels"] == ("clapping", "singing", "running")
    assert tuple(source.fetch(0).labels["labels"]) == (0, 1, 2)


def test_webvid_has_captions_and_any_share(tmp_path):
    head = "videoid,contentUrl,duration,page_dir,name"
    lines = [f'{i},https://x/{i}.mp4,PT00H00M10S,d,"Caption, number {i}"' for i in range(40)]
    write(tmp_path, "results_2M_train.csv", [head, *lines])
    write(tmp_path, "results_2M_val.csv", [head, "99,u,PT,d,Sea"])
    place(tmp_path / "videos" / "d", *(f"{i}.mp4" for i in [*range(40), 99]))
    whole = rows(webvid.read(str(tmp_path), "2M").listing(), "text")
    assert (len(whole["train"]), whole["train"][3]) == (40, ("3", "Caption, number 3"))
    half = webvid.read(str(tmp_path), "2M", share=0.5)
    chosen = rows(half.listing(), "text")
    assert 8 < len(chosen["train"]) < 32
    assert set(chosen["train"]) < set(whole["train"])
    assert chosen["validation"] == [("99", "Sea")]
    write(tmp_path, "results_2M_train.csv", [head, lines[0]])
    refused(webvid.read(str(tmp_path), share=0.0), "share must be above 0")
    data = tmp_path.parent / "webvid"
    assert len(prepared_catalog("webvid:version=2M", tmp_path, data)[0]) == 1
    from vmae_jax.data.tf import tensorflow_datasets

    made = tensorflow_datasets().builder_from_directory(data)
    assert made.as_data_source("train")[0]["text"] == b"Caption, number 0"


def test_audioset_is_segments_with_all_their_sounds(tmp_path):
    classes = [
        "index,mid,display_name",
        '0,/m/09x0r,"Speech"',
        '1,/m/05zppz,"Male speech, man speaking"',
        "2,/t/dd4,Hum",
    ]
    write(tmp_path, "metadata/class_labels_indices.csv", classes)
    head = ["# Segments csv created Sun Mar  5 10:54:25 2017", "# YTID, start_seconds, end_seconds, positive_labels"]
    lists = {
        "balanced_train": ['--PJH, 30.000, 40.000, "/m/05zppz,/m/09x0r"', 'gone, 0.000, 10.000, "/t/dd4"'],
        "unbalanced_train": ['abc, 0.000, 9.500, "/t/dd4"', '--PJH, 5.000, 15.000, "/t/dd4"'],
        "eval": ['z_y, 120.000, 130.000, "/m/09x0r"'],
    }
    for name, lines in lists.items():
        write(tmp_path, f"metadata/{name}_segments.csv", [*head, *lines])
    place(tmp_path, "a/--PJH_30000_40000.mp4", "b/Yabc_0.mp4", "z_y_000120.mp4", "b/--PJH_5_15.mp4")
    listing = audioset.read(str(tmp_path)).listing()
    assert listing.names == {"labels": ("Speech", "Male speech, man speaking", "Hum")}
    assert rows(listing, "labels") == {
        "train": [("abc_000000", (2,)), ("--PJH_005000", (2,)), ("--PJH_030000", (0, 1))],
        "validation": [("z_y_120000", (0,))],
    }
    assert [one.key for one in listing.splits["train"].absent] == ["gone_000000"]
    assert [str(row.video).rpartition("/")[2] for row in listing.splits["train"].rows] == [
        "Yabc_0.mp4",
        "--PJH_5_15.mp4",
        "--PJH_30000_40000.mp4",
    ]
    balanced = audioset.read(str(tmp_path), version="balanced").listing()
    assert [row.key for row in balanced.splits["train"].rows] == ["--PJH_030000"]
    place(tmp_path, "--PJH.mp4")
    parts = audioset.read(str(tmp_path), version="balanced", whole=True).listing().splits["train"]
    assert [(row.key, row.span) for row in parts.rows] == [("--PJH_030000", (30.0, 40.0))]
    write(tmp_path, "metadata/eval_segments.csv", ["z_y, 120.000, /m/09x0r"])
    refused(audioset.read(str(tmp_path)), "not an id, two times and classes")
    write(tmp_path, "metadata/eval_segments.csv", ['z_y, 120.000, 130.000, "/m/0"'])
    refused(audioset.read(str(tmp_path)), "has the class /m/0, which is not in the list")


def test_vggsound(tmp_path):
    lines = ['a-b,12,"playing bongo, drum",train', "c,3,airplane,test", "gone,0,airplane,train"]
    write(tmp_path, "vggsound.csv", lines)
    place(tmp_path, "video/a-b_000012.mp4", "video/c_000003.mp4")
    listing = vggsound.read(str(tmp_path)).listing()
    assert listing.names == {"label": ("airplane", "playing bongo, drum")}
    assert rows(listing) == {"train": [("a-b_000012", 1)], "validation": [("c_000003", 0)]}
    assert [one.key for one in listing.splits["train"].absent] == ["gone_000000"]
    for line, words in (("d,x,airplane,train", "start 'x'"), ("d,1,airplane,val", "the split 'val'")):
        write(tmp_path, "vggsound.csv", [*lines, line])
        refused(vggsound.read(str(tmp_path)), words)


def test_msr_vtt_has_captions_and_categories(tmp_path):
    splits = {"video0": "train", "video1": "train", "video2": "validate", "video3": "test"}
    videos = [{"video_id": video, "split": split, "category": 9} for video, split in splits.items()]
    number, sentences = iter(range(9, -1, -1)), []
    for video in splits:
        sentences += [{"video_id": video, "sen_id": next(number), "caption": f"{video}, {word}"} for word in "ba"]
    write(tmp_path, "annotation/MSRVTT_data.json", {"videos": videos, "sentences": sentences})
    place(tmp_path / "videos" / "all", *(f"{video}.mp4" for video in splits))
    whole = msr_vtt.read(str(tmp_path)).listing()
    assert rows(whole, "text") == {
        "train": [
            ("video0_0", "video0, a"),
            ("video0_1", "video0, b"),
            ("video1_0", "video1, a"),
            ("video1_1", "video1, b"),
        ],
        "validation": [("video2_0", "video2, a"), ("video2_1", "video2, b")],
        "test": [("video3_0", "video3, a"), ("video3_1", "video3, b")],
    }
    assert whole.names["label"][whole.splits["test"].rows[0].labels["label"]] == "vehicles/autos"
    write(tmp_path, "MSRVTT_train.9k.csv", ["video_id", "video0", "video2"])
    write(tmp_path, "MSRVTT_JSFUSION_test.csv", ["key,vid_key,video_id,sentence", 'ret0,msr9770,video3,"A car, red"'])
    retrieval = msr_vtt.read(str(tmp_path), version="1k-A", captions="first").listing()
    assert rows(retrieval, "text") == {
        "train": [("video0", "video0, a"), ("video2", "video2, a")],
        "test": [("video3", "A car, red")],
    }
    made = prepared_catalog("msr_vtt:version=1k-A,captions=first", tmp_path, tmp_path.parent / "msr_vtt")
    assert len(made[0]) == 2
    write(tmp_path, "MSRVTT_train.9k.csv", ["video_id", "video7"])
    refused(msr_vtt.read(str(tmp_path), version="1k-A"), "video7 of train has no annotation")
    write(tmp_path, "annotation/MSRVTT_data.json", {"videos": videos})
    refused(msr_vtt.read(str(tmp_path)), "is malformed .*sentences")


def test_ava_is_moments_with_all_their_actions(tmp_path):
    actions = ['label {\n  name: "stand"\n  label_id: 12\n}', 'label {\n  name: "bend"\n  label_id: 1\n}']
    write(tmp_path, "annotations/ava_action_list_v2.2_for_activitynet_2019.pbtxt", actions)
    box = "0.1,0.2,0.3,0.4"
    train = [f"-5KQ,0902,{box},12,0", f"-5KQ,0902,{box},1,1", f"-5KQ,0903,{box},80,0", f"gone,0910,{box},1,0"]
    write(tmp_path, "annotations/ava_train_v2.2.csv", [*train, f"-5KQ,0950,{box},1,0"])
    write(tmp_path, "annotations/ava_val_v2.2.csv", [f"val,0902,{box},12,0", "val,0904,,,,,,"])
    write(tmp_path, "annotations/ava_train_excluded_timestamps_v2.2.csv", ["-5KQ,0950"])
    place(tmp_path, "trainval/-5KQ.mp4", "trainval/val.mp4")
    listing = ava.read(str(tmp_path), seconds=4, begins=900).listing()
    assert listing.names["labels"] == ("bend", "stand")  # in the order of their numbers
    assert rows(listing, "labels") == {  # 80 is none of the listed actions: a moment of no class
        "train": [("-5KQ_000902", (0, 1)), ("-5KQ_000903", ())],
        "validation": [("val_000902", (1,)), ("val_000904", ())],
    }
    assert [row.span for row in listing.splits["train"].rows] == [(0.0, 4.0), (1.0, 5.0)]
    assert [one.key for one in listing.splits["train"].absent] == ["gone_000910"]
    whole = ava.read(str(tmp_path), seconds=10, clips="consecutive").listing().splits["train"]
    assert len(whole.rows) == 90  # a quarter of an hour
    assert len({row.key for row in whole.rows}) == 90
    assert [whole.rows[0].span, whole.rows[0].labels] == [(900.0, 910.0), {"labels": (0, 1)}]
    assert [whole.rows[89].span, whole.rows[89].labels] == [(1790.0, 1800.0), {"labels": ()}]
    write(tmp_path, "annotations/ava_val_v2.2.csv", [f"val,soon,{box},12,0"])
    refused(ava.read(str(tmp_path)), "which is no annotation")


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
    catalog = epic_kitchens.read(str(epic(tmp_path)))
    listing = catalog.listing()
    assert listing.names == {"verb": ("take", "put"), "noun": ("tap", "plate", "cup")}
    assert rows(listing, "verb") == {
        "train": [("P01_01_0", 1), ("P01_01_1", 0)], "validation": [("P01_11_0", 0)], "test": [("P02_01_0", -1)]
    }  # fmt: skip
    assert rows(listing, "noun")["validation"] == [("P01_11_0", 1)]
    assert listing.splits["train"].rows[1].span == (3662.5, 3663.0)
    write(tmp_path, "EPIC_100_verb_classes.csv", ["id,key", "0,take"])
    refused(catalog, "has the verb 1, and there are 1")


def test_moments_are_cut_out_of_their_files(tmp_path):
    root = epic(tmp_path / "epic")
    source, manifest = prepared_catalog("epic_kitchens:short_side=16", root, tmp_path / "data")
    assert source.label_names == {"verb": ("take", "put"), "noun": ("tap", "plate", "cup")}
    assert [(source.fetch(i).labels["verb"], source.fetch(i).labels["noun"]) for i in range(len(source))] == [(1, 2)]
    assert probe(source.fetch(0)).num_frames == 3  # 0.04, 0.08 and 0.12 s
    ((key, _, reason),) = manifest["rejected"]
    assert key == "P01_01_1"
    assert reason.startswith("has no frame from second 3662.5")
    held_back, _ = prepared_catalog("epic_kitchens:short_side=16", root, tmp_path / "data", "test")
    assert held_back.fetch(0).labels == {}
    for path in root.rglob("*.MP4"):
        path.write_bytes(b"no video")
    with pytest.raises(TooManyBadVideos, match=r"none of the 2 videos can be read: P01_01_\d"):
        prepared_catalog("epic_kitchens:short_side=16", root, tmp_path / "other")


def test_moments_without_any_class_are_examples_too(tmp_path):
    root = tmp_path / "mit"
    write(root, "mmit_categories.txt", ["clapping,0", "singing,1"])
    write(root, "trainingSet.csv", ["a.mp4"])
    write(root, "validationSet.csv", ["a.mp4,1"])
    place(root, "videos/a.mp4")
    source, _ = prepared_catalog("moments_in_time:version=multi", root, tmp_path / "data")
    assert tuple(source.fetch(0).labels["labels"]) == ()


def test_choices_are_checked_before_anything_is_read():
    for read, words in (
        (lambda: something_something.read("x", "v3"), "something_something: version='v3'; there are v1, v2"),
        (lambda: hmdb51.read("x", 0), "hmdb51: split=0; there are 1, 2, 3"),
        (lambda: ava.read("x", clips="all"), "ava: clips='all'; there are annotated, consecutive"),
        (lambda: webvid.read("x", "3M"), "webvid: version='3M'; there are 2M, 10M"),
    ):
        with pytest.raises(ConfigError, match=words):
            read()
