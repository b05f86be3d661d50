"""A DINO as a measuring instrument, which tells one dog from another: CLIP is content with a dog.

The network is the vision transformer of Caron et al. 2021 (arXiv 2104.14294), read from the files of Hugging Face's
`facebook/dino-vits16` and its like. No library of Paddle has it.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from dreambooth.files import weight_files
from dreambooth.models import hub
from dreambooth.system.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from paddle import Tensor

    from dreambooth.system.types import Array

_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_PATCHES, _PLACES = "embeddings.patch_embeddings.projection", "embeddings.position_embeddings"
_NORMS = ("before", "after")
_LONGEST_REASON = 160  # characters of a library's message
_CONFIG, _PROCESSOR = "config.json", "preprocessor_config.json"
# newer names of a layer's weights -> those of the files on the hub
_OLD_NAMES = {
    r"^vit\.": "",
    r"^(encoder\.)?layers?\.(\d+)\.": r"encoder.layer.\2.",
    r"attention\.([qkv])_proj": lambda match: f"attention.attention.{dict(q='query', k='key', v='value')[match[1]]}",
    r"attention\.o_proj": "attention.output.dense",
    r"mlp\.fc1|mlp\.up_proj": "intermediate.dense",
    r"mlp\.fc2|mlp\.down_proj": "output.dense",
}
_MEAN, _STD, _SIDE = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 224  # of ImageNet, where a file has none


class Dino:
    """A DINO, loaded from a folder or a name on the hub: it encodes pictures as unit vectors to compare by cosine."""

    def __init__(self, model: str, flag: str = "--dino_model_path") -> None:
        folder = Path(model) if Path(model).is_dir() else hub.find_files(model, (_CONFIG, _PROCESSOR, *_WEIGHTS), flag)
        try:
            facts = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
            for name, expected in (("model_type", "vit"), ("hidden_act", "gelu")):
                if facts.get(name, expected if name == "hidden_act" else None) != expected:
                    raise ValueError(f"its {name} is {facts.get(name)!r}, and not {expected!r}")
            self._processor = _Processor(folder)
            self._patch, self._heads, self._count = (
                _whole(facts, name) for name in ("patch_size", "num_attention_heads", "num_hidden_layers")
            )
            self._epsilon = float(facts.get("layer_norm_eps", 1e-12))
            path = next((folder / file for file in _WEIGHTS if (folder / file).is_file()), None)
            if path is None:
                raise ValueError(f"it has neither {' nor '.join(_WEIGHTS)}")
            self._weights = _tensors(weight_files.read(path)[0], facts)
            # what its files have wrong else shows itself with any picture
            if not np.isfinite(self.encode_pictures([Image.new("RGB", (32, 32), "grey")])).all():
                raise ValueError("its vectors are no numbers")
        except Exception as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]  # the library's last line has the reason
            reason = f"{error} is missing" if isinstance(error, KeyError) else lines[-1].strip()
            raise BadInput(f"{flag} {model}: it can't be loaded as a DINO ({reason[:_LONGEST_REASON]})") from error

    def encode_pictures(self, pictures: Sequence[Image.Image], batch_size: int = 32) -> Array:
        """Return one unit vector for each picture: float32 [pictures, width]."""
        import paddle

        rows = []
        with paddle.no_grad():
            for first in range(0, len(pictures), batch_size):
                pixels = np.stack([self._processor.to_pixels(each) for each in pictures[first : first + batch_size]])
                rows.append(self.forward(paddle.to_tensor(pixels)).numpy())
        found = np.concatenate(rows)
        return found / np.linalg.norm(found, axis=1, keepdims=True)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the class token [n, width] behind the last norm, for pixels [n, 3, height, width]."""
        import paddle
        from paddle.nn import functional as F

        weights = self._weights
        patches = F.conv2d(pixels, *self._named(_PATCHES), stride=self._patch)
        height, width = patches.shape[2:]
        hidden = patches.flatten(2).transpose([0, 2, 1])
        token = weights["embeddings.cls_token"].expand([len(hidden), 1, -1])
        hidden = paddle.concat([token, hidden], axis=1) + self._positions(height, width)
        for number in range(self._count):
            layer = f"encoder.layer.{number}"
            normed = self._norm(hidden, f"{layer}.layernorm_before")
            query, key, value = (
                F.linear(normed, *self._named(f"{layer}.attention.attention.{each}"))
                .reshape([len(hidden), -1, self._heads, hidden.shape[2] // self._heads])
                .transpose([0, 2, 1, 3])
                for each in ("query", "key", "value")
            )
            scores = paddle.matmul(query, key, transpose_y=True) / query.shape[3] ** 0.5
            mixed = paddle.matmul(F.softmax(scores, axis=-1), value).transpose([0, 2, 1, 3]).reshape(hidden.shape)
            hidden = hidden + F.linear(mixed, *self._named(f"{layer}.attention.output.dense"))
            inner = F.linear(
                self._norm(hidden, f"{layer}.layernorm_after"), *self._named(f"{layer}.intermediate.dense")
            )
            hidden = hidden + F.linear(F.gelu(inner), *self._named(f"{layer}.output.dense"))
        return self._norm(hidden[:, 0], "layernorm")

    def _named(self, name: str) -> tuple[Tensor, Tensor | None]:
        return self._weights[f"{name}.weight"], self._weights.get(f"{name}.bias")

    def _norm(self, hidden: Tensor, name: str) -> Tensor:
        from paddle.nn import functional as F

        return F.layer_norm(hidden, hidden.shape[-1:], *self._named(name), epsilon=self._epsilon)

    def _positions(self, height: int, width: int) -> Tensor:
        """Return the embeddings of the places, scaled to a picture of so many patches."""
        import paddle
        from paddle.nn import functional as F

        own = self._weights[_PLACES]
        side = round((own.shape[1] - 1) ** 0.5)
        if (height, width) == (side, side):
            return own
        places = own[:, 1:].reshape([1, side, side, -1]).transpose([0, 3, 1, 2])
        places = F.interpolate(places, size=[height, width], mode="bicubic", align_corners=False)
        return paddle.concat([own[:, :1], places.flatten(2).transpose([0, 2, 1])], axis=1)


def _tensors(weights: Mapping[str, Array], facts: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the weights under their names on the hub, with products in Paddle's layout; refuse what misses some."""
    import paddle

    renamed = {}
    for name, value in weights.items():
        for new, old in _OLD_NAMES.items():
            name = re.sub(new, old, name)  # type: ignore[call-overload]
        renamed[name] = value
    width, inside, count = (int(facts[each]) for each in ("hidden_size", "intermediate_size", "num_hidden_layers"))
    products = {
        **{f"attention.attention.{each}": (width, width) for each in ("query", "key", "value")},
        "attention.output.dense": (width, width),
        "intermediate.dense": (inside, width),
        "output.dense": (width, inside),
    }
    shapes: dict[str, tuple[int, ...]] = {"embeddings.cls_token": (1, 1, width)}
    has_biases = facts.get("qkv_bias", True)
    for number in range(count):
        layer = f"encoder.layer.{number}"
        for name, of_product in products.items():
            shapes[f"{layer}.{name}.weight"] = of_product
            if has_biases or not name.startswith("attention.attention"):
                shapes[f"{layer}.{name}.bias"] = of_product[:1]
        shapes |= {f"{layer}.layernorm_{which}.{kind}": (width,) for which in _NORMS for kind in ("weight", "bias")}
    shapes |= {"layernorm.weight": (width,), "layernorm.bias": (width,)}
    patch = int(facts["patch_size"])
    shapes |= {f"{_PATCHES}.weight": (width, 3, patch, patch), f"{_PATCHES}.bias": (width,)}
    places = renamed[_PLACES].shape[1] if renamed[_PLACES].ndim == 3 else 0
    shapes[_PLACES] = (1, places, width)
    if places < 2 or round((places - 1) ** 0.5) ** 2 != places - 1:
        raise ValueError(f"{_PLACES} is not that of a square")
    for name, shape in shapes.items():
        if renamed[name].shape != shape:
            raise ValueError(f"{name} has the shape {list(renamed[name].shape)} in place of {list(shape)}")
    kept = {name: value for name, value in renamed.items() if not name.startswith(("pooler", "classifier"))}
    is_product = {name for name, shape in shapes.items() if len(shape) == 2}
    return {
        name: paddle.to_tensor((value.T if name in is_product else value).astype(np.float32))
        for name, value in kept.items()
    }


class _Processor:
    """The way of a picture to the network, as its preprocessor_config.json has it."""

    def __init__(self, folder: Path) -> None:
        path = folder / _PROCESSOR
        settings = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        self._size = settings.get("size", _SIDE) if settings.get("do_resize", True) else None
        self._crop = settings.get("crop_size") if settings.get("do_center_crop") else None
        self._filter = Image.Resampling(settings.get("resample", Image.Resampling.BILINEAR))
        self._mean, self._std = (
            np.array(settings.get(name, default), np.float32).reshape(3, 1, 1)
            for name, default in (("image_mean", _MEAN), ("image_std", _STD))
        )

    def to_pixels(self, picture: Image.Image) -> Array:
        """Return the pixels [3, height, width] of a picture, scaled and normalized."""
        picture = picture.convert("RGB")
        if isinstance(self._size, dict) and "shortest_edge" in self._size:
            factor = int(self._size["shortest_edge"]) / min(picture.size)
            width, height = (max(1, int(side * factor)) for side in picture.size)
            picture = picture.resize((width, height), self._filter)
        elif self._size is not None:
            height, width = _height_and_width(self._size)
            picture = picture.resize((width, height), self._filter)
        if self._crop is not None:
            height, width = _height_and_width(self._crop)
            left, top = (picture.width - width) // 2, (picture.height - height) // 2
            picture = picture.crop((left, top, left + width, top + height))
        pixels = np.asarray(picture, np.float32).transpose(2, 0, 1) / 255
        return ((pixels - self._mean) / self._std).astype(np.float32)


def _whole(facts: Mapping[str, Any], name: str) -> int:
    """Return a whole number above 0 of a config.json."""
    value = facts[name]
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"its {name} is {value!r}")
    return value


def _height_and_width(size: Any) -> tuple[int, int]:  # noqa: ANN401  a number, or both
    return (int(size["height"]), int(size["width"])) if isinstance(size, dict) else (int(size), int(size))
