"""What the header of a recording says of its length, beside what is there.

libsndfile reads a recording whose end is missing without an error (FLAC apart), and finds no
samples where a recorder was stopped before it wrote their number. Formats: RIFF WAVE (Microsoft
and IBM, 1991), RF64 (EBU Tech 3306), AIFF-C (Apple, 1991), AU (Sun), CAF (Apple), Wave64 (Sony),
SPHERE (NIST), Ogg (RFC 3533) and the Xing header of MP3.
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

from mrl_jax.data.audio.source import Source

CUT = "the file is truncated: its end is missing"

_CHUNKS = 10_000
"""Read at most: a file of zeros is one of chunks of no length."""

_STREAMED = 0x7FFFF000
"""Programs that stream write a 32-bit length near 2 or 4 GiB."""

_W64 = b"riff\x2e\x91\xcf\x11"
_OGG_PAGE = 65307
"""Bytes of the largest page."""


class Samples(NamedTuple):
    """Where a header has the samples; `length` in bytes is None where it does not say."""

    start: int
    length: int | None


def length_problem(source: Source) -> str | None:
    """Why a recording is not what its header promises; None where it is, or does not say."""
    head = source.read(0, 16)
    if head[:4] == b"OggS":
        return CUT if _ogg_is_cut(source) else None
    samples = _samples(source, head)
    if samples is None or samples.length is None:
        return None
    if samples.start + samples.length > source.size:
        return CUT
    behind = source.size - samples.start
    if samples.length == 0 and behind >= 8 and not _is_chunks(source, samples.start):
        return (
            f"its header says 0 samples, and {behind} bytes follow: the recorder was stopped "
            "before it wrote their number"
        )
    return None


def mp3_counts_frames(source: Source) -> bool:
    """Whether a header counts the frames of an MP3; without one their number is a guess."""
    head = source.read(0, 8192)
    return b"Xing" in head or b"Info" in head


def mp3_start(source: Source) -> int | None:
    """Where the frames of an MP3 begin that has something else before them."""
    head = source.read(0, 65536)
    for place in range(len(head) - 4):
        if head[place] != 0xFF or head[place + 1] < 0xE0:
            continue
        following = place
        for _ in range(3):
            length = _mp3_frame_bytes(head[following : following + 4])
            following += length
            if not length or following + 4 > len(head):
                break
        else:
            return place
    return None


def _samples(source: Source, head: bytes) -> Samples | None:
    kind, form = head[:4], head[8:12]
    if kind in (b"RIFF", b"RF64", b"BW64"):
        return _riff(source, "<")
    if kind == b"RIFX":
        return _riff(source, ">")
    if kind == b"FORM" and form in (b"AIFF", b"AIFC"):
        return _aiff(source)
    if kind in (b".snd", b"dns.") and len(head) >= 12:
        start, length = struct.unpack(">2I" if kind == b".snd" else "<2I", head[4:12])
        return Samples(start, None if length >= _STREAMED else length)
    if kind == b"caff":
        return _caf(source)
    if head.startswith(b"NIST_1A"):
        return _nist(source)
    return _w64(source) if head.startswith(_W64) else None


def _chunks(
    source: Source, place: int, header: str, *, even: bool = False
) -> Iterator[tuple[bytes, int, int]]:
    """Kind, length and first byte behind the header of the chunks from `place` on.

    Args:
        header: kind and length, as `struct` has them.
        even: whether chunks of an odd length are filled up by a byte.
    """
    size = struct.calcsize(header)
    for _ in range(_CHUNKS):
        if len(head := source.read(place, place + size)) < size:
            return
        kind, length = struct.unpack(header, head)
        yield kind, length, place + size
        place += size + max(length, 0) + (length % 2 if even else 0)


def _riff(source: Source, order: str) -> Samples | None:
    whole = None
    for kind, length, start in _chunks(source, 12, f"{order}4sI", even=True):
        if kind == b"ds64" and len(head := source.read(start, start + 16)) == 16:
            (whole,) = struct.unpack(f"{order}Q", head[8:])  # Of RF64: other lengths are 2³² − 1.
            whole = None if whole >= 1 << 63 else whole
        if kind == b"data":
            return Samples(start, whole if length >= _STREAMED else length)
    return None


def _aiff(source: Source) -> Samples | None:
    for kind, length, start in _chunks(source, 12, ">4sI", even=True):
        if kind == b"SSND":  # Begins with 8 bytes about alignment.
            return Samples(start + 8, None if length >= _STREAMED else max(length - 8, 0))
    return None


def _caf(source: Source) -> Samples | None:
    for kind, length, start in _chunks(source, 8, ">4sq"):
        if kind == b"data":  # Begins with 4 bytes that count edits; −1 is up to the end.
            return Samples(start + 4, None if length < 0 else max(length - 4, 0))
    return None


def _w64(source: Source) -> Samples | None:
    place = 40
    for _ in range(_CHUNKS):
        if len(head := source.read(place, place + 24)) < 24:
            break
        kind, length = struct.unpack("<16sQ", head)  # With these 24 bytes.
        if kind.startswith(b"data"):
            return Samples(place + 24, max(length - 24, 0))
        place += max(-(-length // 8) * 8, 24)
    return None


def _nist(source: Source) -> Samples | None:
    """The text before the samples of a SPHERE file: its size, then `key -i number` a line."""
    lines = source.read(0, 4096).split(b"\n")
    fields = {line.split()[0]: line.split()[-1] for line in lines[2:] if line.split()}
    wanted = (b"sample_count", b"channel_count", b"sample_n_bytes")
    numbers = [fields.get(key, b"") for key in wanted]
    if len(lines) < 2 or not all(n.isdigit() and len(n) < 16 for n in (*numbers, lines[1].strip())):
        return None
    if fields.get(b"sample_coding", b"pcm").lower() not in (b"pcm", b"ulaw", b"alaw"):
        return None  # Compressed.
    count, channels, width = map(int, numbers)
    return Samples(int(lines[1]), count * channels * width)


def _is_chunks(source: Source, place: int) -> bool:
    """Whether the rest of a file is chunks, notes behind a recording that is really empty."""
    for _ in range(_CHUNKS):
        if place >= source.size:
            return place <= source.size + 1  # A byte that fills up an odd length may be absent.
        head = source.read(place, place + 8)
        if len(head) < 8 or not all(32 <= byte < 127 for byte in head[:4]):
            return False
        lengths = [int.from_bytes(head[4:], order) for order in ("little", "big")]
        length = min(lengths)
        place += 8 + length + length % 2
    return False


def _ogg_is_cut(source: Source) -> bool:
    tail = source.read(max(0, source.size - _OGG_PAGE), source.size)
    page = tail.rfind(b"OggS")
    if page < 0 or page + 27 > len(tail):
        return True
    segments = tail[page + 27 : page + 27 + tail[page + 26]]
    end = page + 27 + tail[page + 26] + sum(segments)
    rest = tail[end:]  # Of a page that was cut within its first letters.
    return end > len(tail) or (rest != b"" and b"OggS".startswith(rest))


_KBPS = {
    # MPEG 1 and 2, layer III: by the four bits of the header; 0 and 15 are not used.
    True: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 0),
    False: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160, 0),
}
_HERTZ = {3: (44100, 48000, 32000, 0), 2: (22050, 24000, 16000, 0), 0: (11025, 12000, 8000, 0)}


def _mp3_frame_bytes(header: bytes) -> int:
    """Length of a layer III frame by its header, ISO 11172-3 2.4.2.3; 0 for what is none."""
    bits = int.from_bytes(header, "big")
    version, layer = bits >> 19 & 3, bits >> 17 & 3
    if bits >> 21 != 0x7FF or version == 1 or layer != 1:
        return 0
    kbps, hertz = _KBPS[version == 3][bits >> 12 & 15], _HERTZ[version][bits >> 10 & 3]
    if not kbps or not hertz:
        return 0
    return (144 if version == 3 else 72) * 1000 * kbps // hertz + (bits >> 9 & 1)
