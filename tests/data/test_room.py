"""Tests of the bound on memory: pictures that are dear to decode take turns, others do not wait."""

from __future__ import annotations

import io
import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hostile import encode, samples
from PIL import Image

from pipeline.data import images, levels
from pipeline.data.images import decode
from pipeline.data.room import Room

ROOT = Path(__file__).parent.parent.parent


def test_as_much_is_let_in_as_fits():
    room, inside, most, lock = Room(10), 0, 0, threading.Lock()
    together = threading.Barrier(5, timeout=10)

    def work(amount: int, meet: bool = False) -> None:
        nonlocal inside, most
        with room.taking(amount):
            with lock:
                inside += amount
                most = max(most, inside)
            if meet:
                together.wait()
            with lock:
                inside -= amount

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: work(2, meet=True), range(5)))  # five of two fit at once
        list(pool.map(work, [3, 9, 1, 10, 2, 4, 7] * 20))
    assert most == 10


def test_what_needs_more_than_there_is_is_alone():
    room, alone = Room(10), threading.Lock()

    def work(amount: int) -> None:
        with room.taking(amount):
            assert alone.acquire(blocking=False)
            alone.release()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, [11, 99, 10] * 50))


def test_room_is_given_back_after_an_error():
    room = Room(10)
    for _ in range(3):
        with pytest.raises(KeyError), room.taking(10):
            raise KeyError


def test_large_pictures_are_decoded_one_after_the_other(monkeypatch):
    seen, waiting = [], threading.Barrier(2)
    real = images.load_whole

    def load(image: Image.Image, data: bytes) -> None:
        seen.append(images._ROOM._free)
        if image.width < 1000:  # two small ones are decoded at once
            waiting.wait(timeout=10)
        real(image, data)

    monkeypatch.setattr(images, "load_whole", load)
    monkeypatch.setattr(images, "_ROOM", Room(8 * 1000 * 1000))
    small = encode(Image.new("RGB", (300, 300)), "PNG")
    large = encode(Image.new("RGB", (1000, 1000)), "PNG")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda data: decode(data, 8), [small] * 2))
        seen.clear()
        list(pool.map(lambda data: decode(data, 8), [large] * 12))
    assert seen == [0] * 12


def test_hostile_pictures_do_not_take_more_memory_at_once_than_one_of_them(tmp_path):
    if not Path("/proc/self/status").exists():
        pytest.skip("peak memory is read from /proc")
    files = {
        "palette.png": encode(Image.new("P", (6000, 6000)), "PNG", transparency=0),
        "opacity.png": encode(Image.new("RGBA", (6000, 6000)), "PNG"),
        "deep.png": encode(np.zeros((6000, 6000), np.uint16), "PNG"),
        "opacity.webp": encode(Image.new("RGBA", (4000, 4000)), "WEBP", lossless=True),
        "scans.jpg": encode(Image.new("RGB", (8000, 8000)), "JPEG", progressive=True),
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        assert len(data) < 400_000
    code = """
import re, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from pipeline.data import images
from pipeline.data.room import Room
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) / 1024
size = 8 * 6000 * 6000
images._ROOM = Room(size)
files = [path.read_bytes() for path in Path(sys.argv[2]).iterdir()] * 3
before = peak()
with ThreadPoolExecutor(8) as pool:
    list(pool.map(lambda data: images.decode(data, 64), files))
print((peak() - before) / (size / 2**20))
"""
    result = subprocess.run(
        [sys.executable, "-c", code, str(ROOT), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert float(result.stdout) < 2.5  # it was 6, in a process of its own


def test_a_webp_that_would_take_more_memory_than_any_other_picture_is_refused():
    data = bytearray(encode(Image.new("RGB", (4, 4)), "WEBP", lossless=True))
    data[21:25] = (9_999 | 9_000 << 14).to_bytes(4, "little")  # width and height, less one
    with pytest.raises(images.ImageError, match="91 megapixels: more than the limit of 89"):
        decode(bytes(data), 8)


@pytest.mark.parametrize("name", samples())
def test_a_picture_that_is_converted_in_parts_is_the_same(name, monkeypatch):
    whole = decode(samples()[name], 24)
    monkeypatch.setattr(levels, "_PIXELS_AT_ONCE", 130)
    assert np.array_equal(decode(samples()[name], 24), whole)


@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("LA", {}),
        ("P", {"transparency": 3}),
        ("P", {"transparency": bytes(range(0, 256, 9))}),
        ("RGB", {"transparency": (9, 9, 9)}),
        ("L", {"transparency": 100}),
        ("I;16", {"transparency": 25700}),
        ("I;16", {}),
    ],
)
def test_transparency_and_16_bits_are_the_same_in_parts(mode, options, monkeypatch):
    values = np.random.default_rng(0).integers(0, 256, (90, 70, 3), np.uint8)
    values[10:80:3] = 9
    image = Image.fromarray(values)
    if mode == "I;16":
        image = Image.fromarray(values[..., 0].astype(np.uint16) * 257)
    elif mode == "P":
        image = image.quantize(32)
    else:
        image = image.convert(mode)
    data = encode(image, "PNG", **options)
    whole = decode(data, 64)
    monkeypatch.setattr(levels, "_PIXELS_AT_ONCE", 1000)
    assert np.array_equal(decode(data, 64), whole)


def test_a_value_that_is_out_of_range_is_found_in_any_part(monkeypatch):
    monkeypatch.setattr(levels, "_PIXELS_AT_ONCE", 100)
    for value, found in ((np.nan, "nan"), (812, "0 to 812"), (-3, "-3 to 0")):
        floats = np.zeros((40, 40), np.float32)
        floats[33, 7] = value
        file = io.BytesIO()
        Image.fromarray(floats).save(file, "TIFF")
        with pytest.raises(images.ImageError, match=re.escape(found)):
            decode(file.getvalue(), 8)
