"""Helpers of the tests of `vmae data prepare`: small sources, and what is in a result."""

import hashlib
import io
import tarfile

from vmae_jax.data import sources
from vmae_jax.data.prepare import record, run, runners, shards
from vmae_jax.data.prepare.inputs import Origin


def prepare(source, out, *, split="train", origin=None, shard_count=None, workers=1, runner=None, **chosen):
    """Runs a preparation; returns its manifest."""
    settings = record.options(**chosen)
    layout = shards.layout(str(out), name="videos", split=split, file_format=settings.file_format)
    where = Origin((str(source),), **(origin or {}))
    return run.prepare(
        lambda: run.Plan.of(where, layout, settings, shards=shard_count),
        layout,
        runner or runners.local_runner(workers, progress=False),
    )


def prepared_catalog(dataset, folder, out, split="train", **chosen):
    """Records of a split of a catalog, opened, and the manifest."""
    origin = {"dataset": dataset, "source_split": split}
    manifest = prepare(folder, out, split=split, origin=origin, runner=in_this_process, **chosen)
    return sources.tfds(directory=str(out), split=split).open(), manifest


def checksums(folder):
    """Of every file below a folder, by its name."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def tar_of(folder, path, extra=()):
    """A tar file of the files of a folder, and members that are made by hand."""
    mode = "w:gz" if str(path).endswith("gz") else "w"
    with tarfile.open(path, mode) as archive:
        for file in sorted(folder.rglob("*.mp4")):
            archive.add(file, str(file.relative_to(folder)))
        for info, data in extra:
            archive.addfile(info, io.BytesIO(data))
    return path


def in_this_process(jobs):
    """A runner that starts no process, for tests of what is written."""
    for job in jobs:
        job.run({}, lambda **line: None)
