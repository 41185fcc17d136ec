"""Words for files that carry the name of a recording and are something else."""

import re

from mrl_jax.data.audio.source import Source

_KINDS = {
    b"PK\x03\x04": "a ZIP archive, to be unpacked first",
    b"\x1f\x8b": "compressed with gzip, to be unpacked first",
    b"BZh": "compressed with bzip2, to be unpacked first",
    b"\xfd7zXZ": "compressed with xz, to be unpacked first",
    b"\x28\xb5\x2f\xfd": "compressed with Zstandard, to be unpacked first",
    b"7z\xbc\xaf": "a 7z archive, to be unpacked first",
    b"Rar!": "a RAR archive, to be unpacked first",
    b"\x89PNG": "a picture (PNG)",
    b"\xff\xd8\xff": "a picture (JPEG)",
    b"GIF8": "a picture (GIF)",
    b"%PDF": "a PDF document",
    b"PAR1": "a Parquet table",
    b"\x93NUMPY": "a NumPy array",
}
_UNSUPPORTED = {
    b"\x1aE\xdf\xa3": "Matroska or WebM audio",
    b"0&\xb2u\x8ef\xcf\x11": "Windows Media audio, wma,",
    b"#!AMR": "AMR audio",
    b"MAC ": "Monkey's Audio, ape,",
    b"wvpk": "WavPack audio",
    b"\xff\xf1": "AAC audio",
    b"\xff\xf9": "AAC audio",
    b".RMF": "RealAudio",
}
_AUDIO = (b"RIFF", b"RIFX", b"RF64", b"FORM", b"fLaC", b"OggS", b"caff", b".snd", b"NIST")
"""The first letters of recordings, which a damaged one has as well."""

_LFS = re.compile(rb"version https://git-lfs\.github\.com/spec/.*?size (\d+)", re.DOTALL)
_PAGE = re.compile(rb"\s*(<!doctype html|<html|<head|<body)", re.IGNORECASE)
_XML = re.compile(rb"\s*<\?xml|\s*<Error>")


def describe_other(source: Source) -> str | None:
    """What a file is that libsndfile does not read; None where that is not known."""
    head = source.read(0, 4096)
    if not head:
        return "the file is empty"
    if head[4:8] == b"ftyp":
        return "MPEG-4 audio, m4a, is not supported"
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return "AVI video is not supported"
    for start, kind in _UNSUPPORTED.items():
        if head.startswith(start):
            return f"{kind} is not supported"
    for start, kind in _KINDS.items():
        if head.startswith(start):
            return f"the file is {kind}"
    if not head.strip(b"\0"):
        return f"all of its first {len(head)} bytes are zero: it was not copied to its end"
    return None if head[:4] in _AUDIO else _text(head.removeprefix(b"\xef\xbb\xbf"))


def _text(head: bytes) -> str | None:
    if match := _LFS.match(head):
        size = int(match[1][:15])
        return f"the file is a Git LFS pointer to {size} bytes, which `git lfs pull` fetches"
    if b"annex/objects/" in head[:512]:
        return "the file is a git-annex pointer: `git annex get` fetches the recording"
    if _PAGE.match(head):
        return "the file is an HTML page: the download failed"
    if _XML.match(head):
        return "the file is an XML document: the download failed"
    try:
        text = head[:200].decode("utf-8", "strict" if len(head) < 200 else "ignore")
    except UnicodeDecodeError:
        return None
    words = " ".join(text.split())
    if not words.isprintable() or not words:
        return None
    return f"the file is text, it begins {words[:40]!r}"
