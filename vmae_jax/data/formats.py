"""The kinds of files that are opened at all. They come from strangers: what is not named here is refused."""

import os

__all__ = [
    "AUDIO_CODECS",
    "CODECS",
    "CONTAINERS",
    "PICTURE_SUFFIXES",
    "SOUND_CONTAINERS",
    "VIDEO_SUFFIXES",
    "unsupported",
]

# Demuxers and decoders that may be opened, in FFmpeg's names. Playlists, pictures, text and
# devices are not among them: those can make FFmpeg read other files or invent frames.
CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,ogg,flv,asf"
CODECS = (
    "h264,hevc,mpeg4,msmpeg4v1,msmpeg4v2,msmpeg4,msmpeg4v3,mpeg1video,mpeg2video,h263,flv,flv1,vp8,vp9,"
    "libvpx,libvpx-vp9,av1,libdav1d,libaom-av1,theora,mjpeg,wmv1,wmv2,wmv3,vc1,prores"
)
# fmt: off
VIDEO_SUFFIXES = (
    ".mp4", ".m4v", ".mov", ".3gp", ".mkv", ".webm", ".avi", ".ts", ".mts", ".m2ts", ".mpg", ".mpeg", ".vob",
    ".ogv", ".ogg", ".flv", ".wmv", ".asf",
)
# fmt: on
PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
AUDIO_CODECS = (
    "aac,mp1,mp1float,mp2,mp2float,mp3,mp3float,opus,libopus,vorbis,flac,alac,ac3,eac3,wmav1,wmav2,amrnb,amrwb,"
    "pcm_s16le,pcm_s16be,pcm_s24le,pcm_u8,pcm_f32le,pcm_mulaw,pcm_alaw"
)
SOUND_CONTAINERS = "wav,flac,mp3,aac"  # of sound alone, beside the containers of videos
_MOVING = (
    ".gif", ".apng", ".mxf", ".rm", ".rmvb", ".swf", ".dv", ".y4m", ".yuv", ".ivf", ".nut", ".wtv", ".m1v", ".m2v",
    ".h264", ".264", ".hevc", ".265", ".av1", ".obu", ".r3d", ".braw", ".bik", ".fli", ".flc", ".amv", ".nsv",
)  # fmt: skip
_SOUND = (".mp3", ".wav", ".m4a", ".aac", ".flac", ".opus", ".oga", ".wma", ".aiff", ".aif", ".ac3", ".amr", ".mka")


def unsupported(name: str) -> str | None:
    """Return why a file of this name is not read as a video, where its suffix is one of moving pictures or sound.

    Returns:
      A reason for a `BadVideo` of kind "unsupported"; None for videos that are read and for all other files.
    """
    suffix = os.path.splitext(name)[1].lower()
    if suffix in _MOVING:
        return f"is a {suffix} file, a format that is not decoded"
    return f"is a {suffix} file: sound without pictures" if suffix in _SOUND else None
