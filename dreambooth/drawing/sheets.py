"""Many pictures on one sheet."""

from PIL import Image, ImageDraw, ImageFont

TEXT_HEIGHT = 16
SMALLEST = 96  # side of a picture on the sheet


def make_grid(pictures, columns):
    """All pictures on one sheet, `columns` in a row."""
    width, height = pictures[0].size
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * width, rows * height), "white")
    for index, picture in enumerate(pictures):
        sheet.paste(picture, (index % columns * width, index // columns * height))
    return sheet


def make_contact_sheet(prompts, columns, count):
    """A row for each prompt, under its text: up to `count` pictures of the subject, the base, the fine-tuned model."""
    first = next(iter(columns.values()))[0][0]
    side = max(SMALLEST, min(first.width, 256))
    gap = TEXT_HEIGHT // 2
    width = len(columns) * (count * side + 2 * gap)
    sheet = Image.new("RGB", (width, TEXT_HEIGHT + len(prompts) * (TEXT_HEIGHT + side + gap)), "white")
    pen = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(TEXT_HEIGHT * 3 // 4)
    for column, (name, rows) in enumerate(columns.items()):
        left = column * (count * side + 2 * gap) + gap
        pen.text((left, 0), name, "black", font)
        for row, (prompt, pictures) in enumerate(zip(prompts, rows)):
            top = TEXT_HEIGHT + row * (TEXT_HEIGHT + side + gap)
            if not column:
                pen.text((left, top), prompt, "dimgrey", font)
            for number, picture in enumerate(pictures[:count]):
                sheet.paste(picture.resize((side, side), Image.LANCZOS), (left + number * side, top + TEXT_HEIGHT))
    return sheet
