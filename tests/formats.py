"""Pictures in every format and depth that the kit reads, each with the pixels that it must give."""

import io
import struct
import zlib
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import skimage
import tifffile
from PIL import Image

HEIGHT, WIDTH = 20, 28


class Written(NamedTuple):
    """A file, the pixels (H, W, 3) uint8 that it must give, and by how much they may differ: rounding, or losses."""

    name: str
    data: bytes
    pixels: np.ndarray
    within: float = 0


def photograph() -> np.ndarray:
    """A window of a photograph in colour, (HEIGHT, WIDTH, 3) uint8."""
    return np.ascontiguousarray(skimage.data.chelsea()[100:300:10, 100:380:10])


def saved(image: Image.Image | np.ndarray, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    picture.save(file, kind, **options)
    return file.getvalue()


def png(rows: np.ndarray, depth: int, colour: int, transparent: bytes = b"", palette: bytes = b"") -> bytes:
    """A PNG file by the letter of its standard: rows (H, bytes), as they are stored."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    width = rows.shape[1] * 8 // (depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour])
    head = struct.pack(">IIBBBBB", width, len(rows), depth, colour, 0, 0, 0)
    body = b"".join(b"\0" + row.tobytes() for row in rows)
    parts = [chunk(b"IHDR", head)]
    parts += [chunk(b"PLTE", palette)] if palette else []
    parts += [chunk(b"tRNS", transparent)] if transparent else []
    return b"\x89PNG\r\n\x1a\n" + b"".join([*parts, chunk(b"IDAT", zlib.compress(body)), chunk(b"IEND", b"")])


def tiff(pixels: np.ndarray, **options: Any) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, **options)
    return file.getvalue()


def bytes_of(levels: np.ndarray) -> np.ndarray:
    """Levels (H, W) or (H, W, C) of 16 bits as rows of PNG."""
    return levels.astype(">u2").reshape(len(levels), -1).view(np.uint8)


def on_white(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    share = alpha[..., None].astype(float) / 255
    return np.round(share * rgb + (1 - share) * 255).astype(np.uint8)


def grey(levels: np.ndarray) -> np.ndarray:
    return np.repeat(levels[..., None], 3, axis=2)


@cache
def pictures() -> tuple[Written, ...]:
    """One of each kind."""
    rgb = photograph()
    level, red = rgb[..., 1], rgb[..., 0]
    alpha = np.linspace(0, 255, WIDTH).astype(np.uint8)[None].repeat(HEIGHT, 0)
    rgba = np.dstack([rgb, alpha])
    deep = level.astype(np.uint16) * 256 + red  # the lower byte is another picture
    deep_rgb = rgb.astype(np.uint16) * 256 + rgb[..., ::-1]
    bits = level > 127
    packed = np.packbits(bits, axis=1)  # 28 columns in 32 bits: the width of the file is 32
    black = np.zeros((HEIGHT, 32), np.uint8)
    black[:, :WIDTH] = bits * np.uint8(255)
    indexed = Image.fromarray(rgb).quantize(64)
    colours = np.asarray(indexed.convert("RGB"))
    holes = np.asarray(indexed) == 5
    nibbles = (level >> 4).astype(np.uint8)
    keyed = np.where(nibbles == 6, 255, nibbles * 17).astype(np.uint8)
    cmyk = Image.fromarray(rgb).convert("CMYK")
    losses = Image.fromarray(rgb)
    frames = [Image.fromarray(rgb), Image.fromarray(255 - rgb)]
    turned = Image.Exif()
    turned[274] = 6
    return (
        Written("rgb.png", saved(rgb, "PNG"), rgb),
        Written("rgb.bmp", saved(rgb, "BMP"), rgb),
        Written("rgb.tif", saved(rgb, "TIFF"), rgb),
        Written("lzw.tiff", saved(rgb, "TIFF", compression="tiff_lzw"), rgb),
        Written("big_endian.tif", tiff(rgb, byteorder=">", photometric="rgb"), rgb),
        Written("lossless.webp", saved(rgb, "WEBP", lossless=True), rgb),
        Written("rgb.jpg", saved(losses, "JPEG", quality=95, subsampling=0), rgb, 24),
        Written("progressive.jpeg", saved(losses, "JPEG", quality=95, subsampling=0, progressive=True), rgb, 24),
        Written("turned.jpg", saved(losses, "JPEG", quality=95, subsampling=0, exif=turned), rgb, 24),
        Written("lossy.webp", saved(losses, "WEBP", quality=95), rgb, 40),
        Written("grey.jpg", saved(level, "JPEG", quality=98), grey(level), 10),
        Written("cmyk.jpg", saved(cmyk, "JPEG", quality=98), rgb, 12),
        Written("cmyk.tif", saved(cmyk, "TIFF"), rgb),
        Written("ycbcr.tif", saved(Image.fromarray(rgb).convert("YCbCr"), "TIFF"), rgb, 5),
        Written("grey.png", saved(level, "PNG"), grey(level)),
        Written("grey.bmp", saved(level, "BMP"), grey(level)),
        Written("bits.png", png(packed, 1, 0), grey(black)),
        Written("bits.bmp", saved(Image.fromarray(bits), "BMP"), grey(bits * np.uint8(255))),
        Written("nibbles_key.png", png(nibbles[:, ::2] << 4 | nibbles[:, 1::2], 4, 0, b"\0\6"), grey(keyed)),
        Written("grey_alpha.png", saved(np.dstack([level, alpha]), "PNG"), on_white(grey(level), alpha), 1),
        Written("palette.png", saved(indexed, "PNG"), colours),
        Written("palette.gif", saved(indexed, "GIF"), colours),
        Written("hole.png", saved(indexed, "PNG", transparency=5), np.where(holes[..., None], np.uint8(255), colours)),
        Written("hole.gif", saved(indexed, "GIF", transparency=5), np.where(holes[..., None], np.uint8(255), colours)),
        Written(
            "palette_alpha.png",
            saved(indexed, "PNG", transparency=bytes(range(0, 256, 4))),
            on_white(colours, np.asarray(indexed) * np.uint8(4)),
            1,
        ),
        Written("rgba.png", saved(rgba, "PNG"), on_white(rgb, alpha), 1),
        Written("rgba.tif", saved(rgba, "TIFF"), on_white(rgb, alpha), 1),
        Written("rgba.webp", saved(rgba, "WEBP", lossless=True, exact=True), on_white(rgb, alpha), 1),
        Written("rgb_key.png", saved(rgb, "PNG", transparency=tuple(map(int, rgb[3, 4]))), keyed_out(rgb, rgb[3, 4])),
        Written("deep.png", png(bytes_of(deep), 16, 0), grey(level)),
        Written("deep_key.png", png(bytes_of(deep), 16, 0, bytes_of(deep[7:8, 9:10]).tobytes()), hole(level, deep)),
        Written("deep_rgb.png", png(bytes_of(deep_rgb), 16, 2), rgb),
        Written(
            "deep_alpha.png",
            png(bytes_of(np.dstack([deep, alpha * np.uint16(257)])), 16, 4),
            on_white(grey(level), alpha),
            1,
        ),
        Written(
            "deep_rgba.png",
            png(bytes_of(np.dstack([deep_rgb, alpha * np.uint16(257)])), 16, 6),
            on_white(rgb, alpha),
            1,
        ),
        Written("deep.tif", tiff(deep, photometric="minisblack"), grey(level)),
        Written("deep_big_endian.tif", tiff(deep, photometric="minisblack", byteorder=">"), grey(level)),
        Written("deep_inverted.tif", tiff(deep, photometric="miniswhite"), grey(255 - level)),
        Written("deep_rgb.tif", tiff(deep_rgb, photometric="rgb"), rgb),
        Written("tiles.tif", tiff(rgb, photometric="rgb", tile=(16, 16)), rgb),
        Written("pages.tif", saved(frames[0], "TIFF", save_all=True, append_images=frames[1:]), rgb),
        Written("frames.gif", saved(indexed, "GIF", save_all=True, append_images=[indexed.rotate(180)]), colours),
        Written("frames.png", saved(frames[0], "PNG", save_all=True, append_images=frames[1:]), rgb),
        Written("frames.webp", saved(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True), rgb),
    )


def keyed_out(rgb: np.ndarray, key: np.ndarray) -> np.ndarray:
    return np.where((rgb == key).all(-1, keepdims=True), np.uint8(255), rgb)


def hole(level: np.ndarray, deep: np.ndarray) -> np.ndarray:
    return grey(np.where(deep == deep[7, 9], np.uint8(255), level))


def without_white() -> dict[str, bytes]:
    """Files whose numbers do not say which value is white."""
    level = photograph()[..., 1]
    return {
        "float.tif": tiff(level.astype(np.float32) / 255),
        "signed.tif": tiff(level.astype(np.int16)),
        "long.tif": tiff(level.astype(np.uint32)),
    }
