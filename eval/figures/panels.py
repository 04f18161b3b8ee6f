"""A figure with headings: rows and columns of pictures of any size, with blank cells where there is none."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from eval.samples.grid import FONT_SIZE, GAP, LINE_HEIGHT, wrap

CELL = 112
HEAD = 128  # width of the row's headings


def panel(
    rows: Sequence[Sequence[Image.Image | None]],
    heads: Sequence[str],
    names: Sequence[str] | None = None,
    cell: int = CELL,
) -> Image.Image:
    """Lays out pictures under column headings and behind row headings.

    Args:
        rows: pictures, brought to `cell` pixels a side; None leaves a cell blank.
        heads: a heading for each column.
        names: a heading for each row; none if left out.
        cell: side of a cell.

    Returns:
        An RGB picture on white.

    Raises:
        ValueError: rows of another length than `heads`, or another number of names than rows.
    """
    if any(len(row) != len(heads) for row in rows) or (names is not None and len(names) != len(rows)):
        raise ValueError("every row needs a picture or None for each heading, and a name if there are names")
    font = ImageFont.load_default(FONT_SIZE)
    left = GAP if names is None else HEAD + 2 * GAP
    titles = [wrap(head, cell, font.getlength) for head in heads]
    top = max((len(lines) for lines in titles), default=0) * LINE_HEIGHT + 2 * GAP
    labels = [[] if names is None else wrap(names[k], HEAD, font.getlength) for k in range(len(rows))]
    heights = [max(cell, len(lines) * LINE_HEIGHT) + GAP for lines in labels]
    page = Image.new("RGB", (left + len(heads) * (cell + GAP), top + sum(heights)), "white")
    draw = ImageDraw.Draw(page)
    for column, lines in enumerate(titles):
        draw.multiline_text((left + column * (cell + GAP), GAP), "\n".join(lines), fill="black", font=font)
    for row, lines, height in zip(rows, labels, heights, strict=True):
        for k, line in enumerate(lines):
            draw.text((GAP, top + k * LINE_HEIGHT), line, fill="black", font=font)
        for column, picture in enumerate(row):
            if picture is not None:
                fitted = picture.convert("RGB").resize((cell, cell), Image.Resampling.BICUBIC)
                page.paste(fitted, (left + column * (cell + GAP), top))
        top += height
    return page


def stacked(pages: Sequence[Image.Image]) -> Image.Image:
    """Pictures below one another on white."""
    out = Image.new("RGB", (max(p.width for p in pages), sum(p.height + 2 * GAP for p in pages)), "white")
    top = 0
    for page in pages:
        out.paste(page, (0, top))
        top += page.height + 2 * GAP
    return out


def bars(labels: Sequence[str], shares: Sequence[float], cell: int = CELL) -> Image.Image:
    """A cell with the largest shares as horizontal bars with their labels, largest first.

    Labels are continued on further lines rather than cut off; as many are shown as the cell has room for, 5 at most.
    """
    scale = 2  # drawn larger and reduced with the other pictures
    image = Image.new("RGB", (cell * scale, cell * scale), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(10 * scale)
    line, top = 12 * scale, 0
    for k in sorted(range(len(shares)), key=lambda k: -shares[k])[:5]:
        lines = wrap(f"{shares[k]:.2f} {labels[k]}", cell * scale - 8, font.getlength)
        height = len(lines) * line + 4
        if top and top + height > cell * scale:
            break
        draw.rectangle((0, top, shares[k] * cell * scale, top + height - 1), fill=(150, 190, 235))
        for number, text in enumerate(lines):
            draw.text((4, top + number * line), text, fill="black", font=font)
        top += height + 4
    return image


def line_plot(x: Sequence[float], lines: dict[str, Sequence[float]], x_label: str, y_label: str) -> bytes:
    """A PNG of several lines over one axis."""
    import io

    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axis = figure.subplots()
    for name, values in lines.items():
        axis.plot(x, values, marker=".", label=name, linewidth=1.4)
    axis.set_xlabel(x_label)
    axis.set_ylabel(y_label)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=120)
    return out.getvalue()
