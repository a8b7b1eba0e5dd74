"""Videos: an agent's episodes, picture by picture, as a GIF, an MP4 or in a window."""

from __future__ import annotations

import base64
import functools
import html
import io
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from rlgen.errors import ConfigError

#: What videos are: files, or shown while they are played.
FORMATS = ("gif", "mp4", "window")
GIF_FPS = 25.0  # a GIF of more shows nothing more
GIF_SIDE, MP4_SIDE = 400, 960  # most pixels
LEAST_SIDE = 240  # smaller pictures, of 8-bit games, are enlarged by a whole factor
MOST_PICTURES = 400  # of a GIF: more are thinned out
LAST_S = 1.0  # for which an episode's last picture stays
COLOURS = 256
SAMPLED = 24  # pictures that choose a palette
UNSEEN = ("dummy", "offscreen")  # what SDL falls back to where no screen answers
LINE = 22  # pixels, of the words below


class Shot(NamedTuple):
    """One moment of an episode."""

    picture: np.ndarray  # (height, width, 3) uint8
    episode: int  # from 1
    step: int  # from 0, before the first action
    return_: float  # so far
    last: bool  # of its episode
    cut: bool  # and the episode would have gone on


@dataclass(frozen=True)
class Video:
    """A video that shows itself in a notebook.

    Attributes:
        content: the file.
        format: ``gif`` or ``mp4``; ``window`` if it was only shown.
        returns: of the episodes, so far as they were played.
        lengths: their steps.
        cut: how many of them did not end within the most steps.
    """

    content: bytes = field(repr=False)
    format: str
    returns: list[float]
    lengths: list[int]
    cut: int = 0

    def save(self, path: str | Path) -> None:
        """Write the file."""
        Path(path).write_bytes(self.content)

    def _repr_html_(self) -> str:
        data = base64.b64encode(self.content).decode()
        told = html.escape(f"returns {', '.join(f'{value:.4g}' for value in self.returns)}")
        if self.format == "gif":
            return f'<img src="data:image/gif;base64,{data}" alt="{told}">'
        return f'<video controls loop src="data:video/mp4;base64,{data}" title="{told}"></video>'


def has_screen() -> bool:
    """Whether a window can be opened."""
    if not sys.platform.startswith("linux"):
        return True
    return any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))


def steps_a_picture(format_: str, fps: float) -> int:
    """How many steps lie between two pictures of a video of so many steps a second."""
    return max(1, -int(-fps // GIF_FPS)) if format_ == "gif" else 1


def make_video(shots: Iterable[Shot], format_: str, fps: float) -> Video:
    """The video of episodes.

    Args:
        shots: the moments, one episode after another.
        format_: ``gif`` or ``mp4``; ``window`` shows them at once and writes nothing.
        fps: steps in a second of the video.

    Raises:
        ConfigError: what writes the format is not installed, or there is no screen.
    """
    ends: list[Shot] = []

    def noted() -> Iterator[Shot]:
        for shot in shots:
            if shot.last:
                ends.append(shot._replace(picture=np.empty(0, np.uint8)))
            yield shot

    content = _WRITERS[format_](noted(), fps)
    returns, lengths = [end.return_ for end in ends], [end.step for end in ends]
    return Video(content, format_, returns, lengths, sum(end.cut for end in ends))


@functools.cache
def _font() -> Any:
    return ImageFont.load_default(13)


def drawn(shot: Shot, side: int) -> Image.Image:
    """The picture in a size to be seen, with a line below that says where in its episode it is."""
    image = Image.fromarray(shot.picture)
    longest = max(image.size)
    if longest > side:
        share = side / longest
        size = (max(1, round(image.width * share)), max(1, round(image.height * share)))
        image = image.resize(size, Image.Resampling.HAMMING)
    elif longest < LEAST_SIDE:
        factor = LEAST_SIDE // longest + 1
        size = (image.width * factor, image.height * factor)
        image = image.resize(size, Image.Resampling.NEAREST)
    page = Image.new("RGB", (image.width, image.height + LINE), "white")
    page.paste(image)
    draw, font = ImageDraw.Draw(page), _font()
    middle = image.height + LINE / 2
    draw.text((6, middle), f"episode {shot.episode}", "#444444", font, anchor="lm")
    draw.text((image.width / 2, middle), f"step {shot.step}", "#444444", font, anchor="mm")
    told = f"return {shot.return_:.4g}"
    draw.text((image.width - 6, middle), told, "#444444", font, anchor="rm")
    return page


# --- GIF ----------------------------------------------------------------------------------------


class _Still(NamedTuple):
    image: Image.Image
    number: int  # in the video, before any were left out
    seconds: float
    kept: bool  # the first and the last picture of an episode always are


def _gif(shots: Iterable[Shot], fps: float) -> bytes:
    stills: list[_Still] = []
    stride = 1  # of so many pictures one is kept
    for number, (shot, seconds) in enumerate(_timed(shots, fps)):
        kept = shot.last or shot.step == 0
        if not kept and number % stride:
            stills[-1] = stills[-1]._replace(seconds=stills[-1].seconds + seconds)
            continue
        stills.append(_Still(drawn(shot, GIF_SIDE), number, seconds, kept))
        if len(stills) > MOST_PICTURES:
            stride *= 2
            stills = _thinned(stills, stride)
    images = _in_one_palette([still.image for still in stills])
    file = io.BytesIO()
    images[0].save(
        file,
        "GIF",
        save_all=True,
        append_images=images[1:],
        duration=_durations([still.seconds for still in stills]),
        loop=0,
    )
    return file.getvalue()


def _timed(shots: Iterable[Shot], fps: float) -> Iterator[tuple[Shot, float]]:
    """Every shot, and how long it is seen: until the next one."""
    before: Shot | None = None
    for shot in shots:
        if before is not None:
            yield before, LAST_S if before.last else (shot.step - before.step) / fps
        before = shot
    if before is not None:
        yield before, LAST_S


def _thinned(stills: list[_Still], stride: int) -> list[_Still]:
    """One of so many only; the one before stays as long as those that are left out."""
    thin: list[_Still] = []
    for still in stills:
        if still.kept or still.number % stride == 0:
            thin.append(still)
        else:
            thin[-1] = thin[-1]._replace(seconds=thin[-1].seconds + still.seconds)
    return thin


def _in_one_palette(images: list[Image.Image]) -> list[Image.Image]:
    """The images in the same colours, so that only what moves is stored of most of them."""
    found: set[Any] = set()
    for image in images:
        colours = image.getcolors(COLOURS)
        found |= {colour for _, colour in colours or ()}
        if colours is None or len(found) > COLOURS:
            break
    else:  # all of them have room
        palette = Image.new("P", (1, 1))
        palette.putpalette([part for colour in sorted(found) for part in colour])
        return [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images]
    chosen = images[:: max(1, len(images) // SAMPLED)]
    width, height = chosen[0].size
    montage = Image.new("RGB", (width, height * len(chosen)))
    for i, image in enumerate(chosen):
        montage.paste(image, (0, i * height))
    palette = montage.quantize(COLOURS, Image.Quantize.MAXCOVERAGE)
    return [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images]


def _durations(seconds: list[float]) -> list[int]:
    """Milliseconds in the hundredths of a second that a GIF counts, without a drift."""
    ends = np.rint(100 * np.cumsum(seconds)).astype(int)
    return [10 * int(max(2, gap)) for gap in np.diff(ends, prepend=0)]


# --- MP4 and a window ---------------------------------------------------------------------------


def _mp4(shots: Iterable[Shot], fps: float) -> bytes:
    try:
        import imageio_ffmpeg
    except ImportError as error:
        raise ConfigError(
            "an MP4 needs a package that is not installed; "
            'pip install "rlgen[video]", or write a GIF'
        ) from error
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "video.mp4")
        writer: Any = None
        for shot, seconds in _timed(shots, fps):
            image = drawn(shot, MP4_SIDE)
            even = image.crop(
                (0, 0, image.width + image.width % 2, image.height + image.height % 2)
            )
            if writer is None:
                rate = Fraction(fps).limit_denominator(1000)
                writer = imageio_ffmpeg.write_frames(
                    str(path), even.size, fps=float(rate), macro_block_size=2, quality=7
                )
                writer.send(None)
            for _ in range(max(1, round(seconds * fps))):
                writer.send(even.tobytes())
        writer.close()
        return path.read_bytes()


def _window(shots: Iterable[Shot], fps: float) -> bytes:
    """Show episodes in a window until they end or it is closed."""
    if not has_screen():
        raise ConfigError(
            "there is no screen for a window here; write a file instead (-o NAME.gif)"
        )
    try:
        import pygame
    except ImportError as error:
        raise ConfigError(
            'a window needs a package that is not installed; pip install "rlgen[video]"'
        ) from error
    window: Any = None
    clock = pygame.time.Clock()
    try:
        for shot in shots:
            image = drawn(shot, MP4_SIDE)
            if window is None:
                pygame.display.init()
                driver = pygame.display.get_driver()
                if driver in UNSEEN and os.environ.get("SDL_VIDEODRIVER") != driver:
                    raise pygame.error("the screen that DISPLAY names does not answer")
                window = pygame.display.set_mode(image.size)
                pygame.display.set_caption("rlgen play")
            window.blit(pygame.image.frombuffer(image.tobytes(), image.size, "RGB"), (0, 0))
            pygame.display.flip()
            clock.tick(fps)
            if shot.last:
                pygame.time.wait(round(1000 * LAST_S))
            if any(event.type == pygame.QUIT for event in pygame.event.get()):
                break
    except pygame.error as error:
        raise ConfigError(f"no window can be opened here: {error}") from error
    finally:
        pygame.display.quit()
    return b""


_WRITERS = {"gif": _gif, "mp4": _mp4, "window": _window}
