"""Labelled data that we draw ourselves: text with Pillow's own font, as the PP-OCR models see it.

Every function is deterministic for a seed. Pillow (the `samples` extra) is imported on use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

# fmt: off
WORDS = """
able above account address after again agency allow amount animal answer apple april arrive autumn
balance bank basket before behind bottle branch bread bridge bright brother budget building butter
cabinet camera captain carbon castle center change chapter cheese chicken church circle client coast
coffee college company copper corner cotton country course credit crystal current customer damage
dance danger daughter december decide degree deliver design dinner direct doctor dollar double dozen
driver early east editor effort eight engine english enough entry evening every example exit expert
factory family farmer father february field figure finger finish flower follow forest forward
fourteen fresh friday friend fruit future garden general glass gold grade grand green ground group
guest guide half hammer harbor health heavy height history holiday honest hospital hotel hundred
image impact income index industry inside invoice island january journey july junction june kitchen
knowledge label language large leader leather lemon letter level library light limit liquid listen
local london machine major manager march market material meadow measure medical meeting member metal
middle minute mirror modern monday money morning mother motor mountain museum music narrow nature
network never night north notice november number object october office open orange order other
outside packet page palace paper parcel parent park partner pattern payment pencil people pepper
phone picture planet plastic please pocket police postal potato power present price print product
public purple quality quarter queen question quick quiet radio railway rapid reader receipt record
region report return ribbon river rocket roman royal salad sample saturday school science season
second secret seven shadow shipping silver simple single sister sixty smooth social special spring
square station street student sugar summer sunday supply system table target teacher tennis theatre
thirty thousand thursday ticket timber today together tomorrow total tower traffic train travel
tuesday twelve twenty unit update valley value vehicle village visitor voice volume wagon water
weather wednesday welcome west window winter wonder worker yellow yesterday young zebra
""".split()  # noqa: SIM905
# fmt: on


def phrase(random: np.random.Generator, longest: int = 18) -> str:
    """Words, prices, dates, codes: what is printed on labels, forms and receipts."""
    word = lambda: str(random.choice(WORDS))  # noqa: E731
    kind = random.integers(0, 8)
    if kind == 0:
        text = f"{word().capitalize()} {random.integers(2, 9999)}"
    elif kind == 1:
        text = f"{word()} {random.integers(1, 300)}.{random.integers(0, 100):02}"
    elif kind == 2:
        text = f"{random.integers(1, 29)} {word()[:3].capitalize()} {random.integers(1970, 2031)}"
    elif kind == 3:
        text = f"{word().upper()}-{random.integers(10, 1000)}"
    elif kind == 4:
        text = word().upper()
    elif kind == 5:
        text = f"{word().capitalize()}, {word()}"
    else:
        text = f"{word()} {word()}"
    return text if len(text) <= longest else text[:longest].rstrip(" ,.-")


def _line(text: str, random: np.random.Generator, size: int) -> Image.Image:
    """One tight line of text on its own background, u8 RGB, with a little slant, blur and noise."""
    from PIL import Image, ImageDraw, ImageFilter, ImageFont

    font = ImageFont.load_default(size)
    left, top, right, bottom = font.getbbox(text)
    margin = random.uniform(0.08, 0.3, 4) * size
    width = int(right - left + margin[0] + margin[1])
    height = int(bottom - top + margin[2] + margin[3])
    paper, ink = _colours(random)
    image = Image.new("RGB", (width, height), paper)
    ImageDraw.Draw(image).text((margin[0] - left, margin[2] - top), text, font=font, fill=ink)
    if random.random() < 0.3:
        image = image.rotate(random.uniform(-2, 2), Image.Resampling.BICUBIC, fillcolor=paper)
    if random.random() < 0.3:
        image = image.filter(ImageFilter.GaussianBlur(random.uniform(0.2, 0.03 * size)))
    noise = random.normal(0, random.uniform(0, 8), (height, width, 1))
    return Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8))


def _colours(random: np.random.Generator) -> tuple[tuple[int, ...], ...]:
    """Paper and ink, at least 110 levels apart in each channel; one time in five light on dark."""
    paper = random.integers(170, 256, 3)
    ink = np.clip(paper - random.integers(110, 256, 3), 0, 255)
    pair = tuple(map(int, paper)), tuple(map(int, ink))
    return pair if random.random() < 0.8 else pair[::-1]


def _normalised(image: Image.Image, width: int) -> np.ndarray:
    """f32[3,48,width]: BGR, height 48 in proportion, (x/255 - 0.5) / 0.5, zeros to the right."""
    from PIL import Image

    fitted = min(width, max(1, -(-48 * image.width // image.height)))
    pixels = np.asarray(image.resize((fitted, 48), Image.Resampling.BILINEAR), np.float32)
    result = np.zeros((3, 48, width), np.float32)
    result[:, :, :fitted] = (pixels[:, :, ::-1].transpose(2, 0, 1) / 255 - 0.5) / 0.5
    return result


def orientation_lines(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Text lines f32[n,3,48,192] for PP-OCR's orientation classifier, and their labels i64[n].

    Label 1 means turned by 180 degrees: half of the lines are, in random order.
    """
    random = np.random.default_rng([seed, 1])
    labels = random.permutation(np.arange(n) % 2)
    lines = np.empty((n, 3, 48, 192), np.float32)
    for k in range(n):
        image = _line(phrase(random), random, int(random.integers(24, 64)))
        lines[k] = _normalised(image.rotate(180) if labels[k] else image, 192)
    return lines, labels


def ocr_strings(n: int, seed: int = 0, width: int = 320) -> tuple[np.ndarray, list[str]]:
    """Text lines f32[n,3,48,width] for PP-OCR's recogniser, and the strings they show."""
    random = np.random.default_rng([seed, 2])
    texts = [phrase(random, 16) for _ in range(n)]
    # The font's space is narrow, the recogniser tends to miss it: draw it as wide as in print.
    drawn = [text.replace(" ", "  ") for text in texts]
    lines = [_line(text, random, int(random.integers(28, 64))) for text in drawn]
    return np.stack([_normalised(line, width) for line in lines]), texts


def ocr_pages(n: int, seed: int = 0, side: int = 640) -> tuple[np.ndarray, np.ndarray]:
    """Pages f32[n,3,side,side] for PP-OCR's detector, and where their lines are, bool[n,side,side].

    Each page has lines of several sizes on a shaded background; the mask covers each line's box.
    """
    from PIL import Image

    random = np.random.default_rng([seed, 3])
    pages = np.empty((n, 3, side, side), np.float32)
    masks = np.zeros((n, side, side), bool)
    for k in range(n):
        slope = np.linspace(0, random.uniform(-40, 40), side)[:, None, None]
        page = Image.fromarray(
            np.clip(random.integers(120, 256, 3) + np.broadcast_to(slope, (side, side, 3)), 0, 255)
            .astype(np.uint8)
        )  # fmt: skip
        top = int(random.integers(5, side // 8))
        while True:
            line = _line(phrase(random, 28), random, int(random.integers(14, 56)))
            if top + line.height > side:
                break
            left = int(random.integers(0, max(1, side - line.width)))
            page.paste(line, (left, top))
            masks[k, top : top + line.height, left : left + line.width] = True
            top += line.height + int(random.integers(4, side // 10))
        pixels = np.asarray(page, np.float32)[:, :, ::-1].transpose(2, 0, 1)
        pages[k] = (pixels / 255 - 0.5) / 0.5
    return pages, masks


def decode(logits: np.ndarray, characters: list[str]) -> list[str]:
    """Greedy CTC reading of [n,time,classes]: drop repeats, blanks (class 0) and outer spaces."""
    texts = []
    for classes in logits.argmax(axis=2):
        first = np.append(True, classes[1:] != classes[:-1])
        texts.append("".join(characters[c] for c in classes[first & (classes != 0)]).strip())
    return texts
