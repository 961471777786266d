"""Writes the image files of this directory and what Pillow reads from them, golden.txt: a line per file, mode and values.

    python3 -m venv venv && venv/bin/pip install pillow && venv/bin/python make.py
"""

import pathlib

from PIL import Image

here = pathlib.Path(__file__).parent
rgb = Image.new("RGB", (5, 4))
rgb.putdata([((i * 37) % 256, (i * 11) % 256, 255 - i) for i in range(20)])
grey = Image.new("L", (5, 4))
grey.putdata([(i * 13) % 256 for i in range(20)])
rgb.save(here / "rgb.png")
grey.save(here / "grey.png")
# Smooth, or the decoders' roundings of the transform would show.
Image.new("L", (5, 4), 90).save(here / "grey.jpg", quality=95)
Image.new("RGB", (5, 4), (200, 30, 90)).save(here / "rgb.jpg", quality=95, subsampling=0)
lines = []
for path in sorted([*here.glob("*.png"), *here.glob("*.jpg")]):
    with Image.open(path) as image:
        values = " ".join(str(value) for value in image.tobytes())
        lines.append(f"{path.name} {image.mode} {values}\n")
(here / "golden.txt").write_text("".join(lines))
