"""From a picture to the pixels that a network sees."""

import numpy as np
from PIL import Image, ImageOps

SQUEEZE_NOTICED = 1.1


def squeezed(pictures, height, width):
    """The pictures whose shape changes by more than a tenth when they are scaled to height x width."""
    changed = []
    for picture in pictures:
        ratio = (picture.size[0] / picture.size[1]) / (width / height)
        if max(ratio, 1 / ratio) > SQUEEZE_NOTICED:
            changed.append(picture)
    return changed


def to_pixels(image, height, width, center_crop):
    """A picture as the network sees it: float32 [3, height, width] in [-1, 1]."""
    if center_crop:
        image = ImageOps.fit(image, (width, height), Image.BILINEAR)
    else:
        image = image.resize((width, height), Image.BILINEAR)
    return (np.asarray(image, dtype=np.float32) / 127.5 - 1).transpose(2, 0, 1)
