"""Miniatures of the datasets that catalogs read, as their owners hand them out, by `--dataset` and file."""

import json
from collections.abc import Mapping

__all__ = ["DATASETS", "Content"]

Content = str | None  # None: a small video
_VIDEO = _PICTURE = None
_K_HEAD = "label,youtube_id,time_start,time_end,split\n"
_EPIC_HEAD = "narration_id,participant_id,video_id,start_timestamp,stop_timestamp,verb_class,noun_class\n"
_ACTIONS = 'label {\n  name: "stand"\n  label_id: 12\n}\nlabel {\n  name: "bend"\n  label_id: 1\n}\n'
_BOX = "0.1,0.2,0.3,0.4"


def _kinetics(folder: str = "") -> dict[str, Content]:
    return {
        f"{folder}train.csv": _K_HEAD + '"a b",x1,3,13,train\nb,x2,0,10,train\n',
        f"{folder}validate.csv": _K_HEAD + "b,y1,3,13,val\n",
        f"{folder}test.csv": "youtube_id,time_start,time_end\nz1,3,13\n",
        **{f"{folder}v/{name}.mp4": _VIDEO for name in ("x1_000003_000013", "x2_000000_000010", "y1", "z1")},
    }


def _hmdb() -> dict[str, Content]:
    lists = {
        f"testTrainMulti_7030_splits/{name}_test_split1.txt": f"{name}_a.avi 1 \n{name}_b.avi 2 \n{name}_c.avi 0 \n"
        for name in ("brush_hair", "wave")
    }
    videos = {f"hmdb51_org/{name}/{name}_{one}.avi": _VIDEO for name in ("brush_hair", "wave") for one in "abc"}
    return {**lists, **videos}


DATASETS: dict[str, Mapping[str, Content]] = {
    "kinetics:version=400": _kinetics(),
    "kinetics:version=710": {**_kinetics("k400/"), **_kinetics("k600/"), **_kinetics("k700/")},
    "something_something:version=v2": {
        "labels/labels.json": json.dumps({"Holding something": "1", "Approaching something": "0"}),
        "labels/train.json": json.dumps([{"id": "7", "template": "Holding [something]", "placeholders": ["a cup"]}]),
        "labels/validation.json": json.dumps([{"id": "8", "template": "Approaching [something]", "label": "…"}]),
        "labels/test.json": json.dumps([{"id": "9"}]),
        **{f"v/{name}.webm": _VIDEO for name in "789"},
    },
    "something_something:version=v1": {
        "something-something-v1-labels.csv": "Holding something\nPutting something, then removing it\n",
        "something-something-v1-train.csv": "100;Putting something, then removing it\n101;Holding something\n",
        "something-something-v1-validation.csv": "102;Holding something\n",
        **{f"20bn-something-something-v1/{name}/00001.jpg": _PICTURE for name in (100, 101, 102)},
    },
    "ucf101:split=1": {
        "ucfTrainTestlist/classInd.txt": "1 Archery\n2 HandstandPushups\n",
        "ucfTrainTestlist/trainlist01.txt": "Archery/v_Archery_g08_c01.avi 1\nHandstandPushups/v_H_g08_c01.avi 2\n",
        "ucfTrainTestlist/testlist01.txt": "Archery/v_Archery_g01_c01.avi\n",
        **{f"UCF-101/{name}.avi": _VIDEO for name in ("Archery/v_Archery_g08_c01", "Archery/v_Archery_g01_c01")},
    },
    "hmdb51:split=1": _hmdb(),
    "diving48": {
        "Diving48_vocab.json": json.dumps([["Back", "15som"], ["Inward", "Dive"]]),
        **{f"Diving48_V2_{one}.json": json.dumps([{"vid_name": one, "label": 1}]) for one in ("train", "test")},
        **{f"rgb/{one}.mp4": _VIDEO for one in ("train", "test")},
    },
    "moments_in_time:version=v1": {
        "moments_categories.txt": "singing,0\nclapping,1\n",
        "trainingSet.csv": "clapping/a-b_1.mp4,clapping,2,3\nclapping/gone.mp4,clapping,1,0\n",
        "validationSet.csv": "singing/c_2.mp4,singing,3,0\n",
        "training/clapping/a-b_1.mp4": _VIDEO,
        "validation/singing/c_2.mp4": _VIDEO,
    },
    "moments_in_time:version=multi": {
        "mmit_categories.txt": "clapping,0\nsinging,1\n",
        "trainingSet.csv": "x/a.mp4,1,0\nx/b.mp4,1\n",
        "validationSet.csv": "x/c.mp4,0,1\n",
        **{f"videos/x/{one}.mp4": _VIDEO for one in "abc"},
    },
    "webvid:version=2M": {
        "results_2M_train.csv": 'videoid,contentUrl,page_dir,name\n1,https://x/1.mp4,d,"Caption, one"\n2,u,d,two\n',
        "results_2M_val.csv": "videoid,contentUrl,page_dir,name\n3,u,d,Sea\n",
        **{f"videos/d/{one}.mp4": _VIDEO for one in "123"},
    },
    "ava": {
        "ava_action_list_v2.2_for_activitynet_2019.pbtxt": _ACTIONS,
        "ava_train_v2.2.csv": f"m,0902,{_BOX},12,0\nm,0902,{_BOX},1,1\nm,0903,{_BOX},80,0\n",
        "ava_val_v2.2.csv": f"n,0902,{_BOX},12,0\nn,0904,,,,,,\n",
        "ava_train_excluded_timestamps_v2.2.csv": "m,0950\n",
        **{f"movies/{one}.mp4": _VIDEO for one in "mn"},
    },
    "ava:clips=consecutive,seconds=60": {
        "ava_action_list_v2.2.pbtxt": _ACTIONS,
        "ava_train_v2.2.csv": f"m,0902,{_BOX},12,0\n",
        "ava_val_v2.2.csv": f"n,0902,{_BOX},12,0\n",
        **{f"movies/{one}.mp4": _VIDEO for one in "mn"},
    },
    "epic_kitchens": {
        "EPIC_100_verb_classes.csv": "id,key,instances,category\n0,take,\"['take', 'get']\",x\n1,put,,y\n",
        "EPIC_100_noun_classes.csv": "id,key,instances,category\n0,tap,,x\n1,plate,,x\n",
        "EPIC_100_train.csv": _EPIC_HEAD
        + "P1_0,P,P1,00:00:00.04,00:00:00.14,1,1\nP1_1,P,P1,01:01:02.50,01:01:03,0,0\n",
        "EPIC_100_validation.csv": _EPIC_HEAD + "P2_0,P,P2,00:00:00.10,00:00:00.20,0,1\n",
        "EPIC_100_test_timestamps.csv": _EPIC_HEAD[:-23] + "\nP2_1,P,P2,00:00:00,00:00:01.5\n",
        **{f"P/videos/{one}.MP4": _VIDEO for one in ("P1", "P2")},
    },
}
