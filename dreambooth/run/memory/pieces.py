"""The sizes of networks, counted from their config.json: weights, and the numbers that a backward pass reads."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

from dreambooth.system.types import override

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from dreambooth.config.learning_sections import LayerKind
    from dreambooth.system.types import Size

    Settings = Mapping[str, Any]  # of a config.json
    Adapted = Mapping[LayerKind, int]

_KERNEL = 9  # places of a convolution of 3 x 3
_T5_TOKENS = 256  # of Stable Diffusion 3, beside CLIP's
_LIVING = 6  # tensors of a VAE


class Piece(NamedTuple):
    """A part of a network, in the order of its forward pass. All are numbers, not bytes."""

    weights: int
    saved: int  # what its backward pass reads beside weights and scores; its own input included
    scores: tuple[int, ...] = ()  # of each attention in it, its own first; some kernels keep none
    input: int | None = None  # what gradient checkpointing keeps of it; None: all of it
    busy: int = 0  # what its backward pass needs at once beside that: gradients, the copies of a convolution
    adapted: Mapping[LayerKind, int] = {}  # the weights of a LoRA of rank 1, by the kind of the layers

    def kept_scores(self, most: float) -> int:
        """Return the scores that are kept, where an attention with more than `most` keeps none."""
        return sum(each for each in self.scores if each <= most)

    def busy_scores(self, most: float) -> int:
        """Return the gradients of scores, where softmax makes them from those of its result."""
        return 2 * sum(each for each in self.scores[:1] if each <= most)


class Shape(NamedTuple):
    """The shape of what goes through a network."""

    rows: int  # examples
    size: Size  # of the latents
    tokens: int  # of a prompt


def _convolution(into: int, out: int, kernel: int = 3) -> int:
    return into * out * kernel * kernel + out


def _linear(into: int, out: int) -> int:
    return into * out + out


def _each(value: Any, count: int) -> list[Any]:  # noqa: ANN401  a setting is one for all blocks, or a list
    return list(value) if isinstance(value, (list, tuple)) else [value] * count


class _UNet:
    """The pieces of PPDiffusers' UNet2DConditionModel, as its forward pass makes them."""

    of_time = 1  # numbers that a block takes of the timestep for each of its channels

    def __init__(self, settings: Settings, shape: Shape) -> None:
        self.settings, self.rows, self.tokens = settings, shape.rows, shape.tokens
        self.channels = list(settings["block_out_channels"])
        count = len(self.channels)
        self.heads = _each(settings.get("num_attention_heads") or settings["attention_head_dim"], count)
        self.layers = _each(settings["layers_per_block"], count)
        self.depths = _each(settings.get("transformer_layers_per_block", 1), count)
        self.cross = _each(settings["cross_attention_dim"], count)
        self.time = settings.get("time_embedding_dim") or 4 * self.channels[0]

        def half(side: int) -> int:
            return -(-side // 2)

        height, width = shape.size
        self.places = []
        for _ in self.channels:
            self.places.append(self.rows * height * width)
            height, width = half(height), half(width)

    def pieces(self) -> Iterator[Piece]:
        first, last = self.channels[0], len(self.channels) - 1
        into = self.settings["in_channels"]
        embedding = _linear(first, self.time) + _linear(self.time, self.time)
        if others := self.settings.get("projection_class_embeddings_input_dim"):  # of sizes, and of the whole prompt
            embedding += _linear(others, self.time) + _linear(self.time, self.time)
        adapted: Adapted = {"time": first + 3 * self.time}
        yield Piece(embedding + _convolution(into, first), into * self.places[0], adapted=adapted)
        channels, skips = first, [first]
        for level, kind in enumerate(self.settings["down_block_types"]):
            for _ in range(self.layers[level]):
                yield self._resnet(channels, self.channels[level], level)
                channels = self.channels[level]
                if "CrossAttn" in kind:
                    yield from self._attention(level)
                skips.append(channels)
            if level < last:
                yield self._resample(channels, self.places[level], self.places[level + 1])
                skips.append(channels)
        yield self._resnet(channels, channels, last, kept=True)
        yield from self._attention(last)
        yield self._resnet(channels, channels, last)
        for level, kind in zip(range(last, -1, -1), self.settings["up_block_types"]):
            for _ in range(self.layers[level] + 1):
                yield self._resnet(channels + skips.pop(), self.channels[level], level)
                channels = self.channels[level]
                if "CrossAttn" in kind:
                    yield from self._attention(level)
            if level:
                yield self._resample(channels, self.places[level - 1], self.places[level - 1])
        out, places = self.settings["out_channels"], self.places[0]
        yield Piece(2 * first + _convolution(first, out), 3 * first * places, busy=first * places)

    def _resnet(self, into: int, out: int, level: int, kept: bool = False) -> Piece:
        places = self.places[level]
        of_time = self.of_time * out
        weights = 2 * into + _convolution(into, out) + _linear(self.time, of_time) + 2 * out + _convolution(out, out)
        weights += _convolution(into, out, 1) if into != out else 0
        # of both halves: what the norm takes, the norm, and its activation, which the convolution takes
        saved = (3 * (into + out) + (self.of_time - 1) * out) * places
        busy = _KERNEL * max(into, out) * places // self.rows + (into + out) * places
        shortcut = into + out if into != out else 0
        adapted: Adapted = {"convolution": _KERNEL * (into + out) + 2 * out + shortcut, "time": self.time + of_time}
        return Piece(weights, saved, input=None if kept else into * places, busy=busy, adapted=adapted)

    def _attention(self, level: int) -> Iterator[Piece]:
        yield from self._transformer(level)

    def _resample(self, channels: int, places: int, after: int) -> Piece:
        busy = _KERNEL * channels * after // self.rows + channels * places
        adapted: Adapted = {"convolution": (_KERNEL + 1) * channels}
        return Piece(_convolution(channels, channels), channels * places, busy=busy, adapted=adapted)

    def _transformer(self, level: int) -> Iterator[Piece]:
        channels, places = self.channels[level], self.places[level]
        # a convolution of 1 x 1 has as many weights as a linear layer
        weights = 2 * channels + 2 * _linear(channels, channels)
        adapted: Adapted = {"feed_forward": 4 * channels}
        yield Piece(weights, 3 * channels * places, adapted=adapted)
        for _ in range(self.depths[level]):
            yield block(channels, self.heads[level], places, self.rows, (self.cross[level], self.tokens), gated=True)


class _UNetOfPixels(_UNet):
    """The pieces of such a UNet whose attentions see places and prompt at once, without a hidden layer behind them."""

    of_time = 2  # a scale and a shift

    @override
    def _attention(self, level: int) -> Iterator[Piece]:
        channels, places, other = self.channels[level], self.places[level], self.cross[level]
        weights = 2 * channels + 2 * other + 4 * _linear(channels, channels) + 2 * _linear(other, channels)
        saved = 7 * channels * places + (3 * other + 2 * channels) * self.rows * self.tokens
        scores = channels // self.heads[level] * places * (places // self.rows + self.tokens)
        adapted: Adapted = {"attention": 8 * channels + 2 * (channels + other)}
        yield Piece(weights, saved, (scores, scores), channels * places, adapted=adapted)

    @override
    def _resample(self, channels: int, places: int, after: int) -> Piece:
        found = self._resnet(channels, channels, self.channels.index(channels))
        # half of it has the larger number of places, the other half the smaller one
        return found._replace(saved=11 * channels * places // 2, input=channels * places)


def block(
    width: int, heads: int, places: int, rows: int, context: tuple[int, int] | None = None, gated: bool = False
) -> Piece:
    """Return the piece of a transformer's block; `context` is (width, tokens) of what a second attention reads."""
    of_norms = 2 * 2 * width
    weights, saved, scores = 4 * width * width + width, 6, [heads * places * (places // rows)]
    adapted: dict[LayerKind, int] = {"attention": 8 * width, "feed_forward": (14 if gated else 10) * width}
    if context:
        other, tokens = context
        weights += 2 * width * width + 2 * other * width + width
        of_norms += 2 * width
        saved += 4
        scores.append(heads * places * tokens)
        adapted["attention"] += 6 * width + 2 * other
    # the hidden layer of four widths: its gate, the gate's activation, the other half, and the product
    hidden = 16 if gated else 8
    weights += _linear(width, (8 if gated else 4) * width) + _linear(4 * width, width) + of_norms
    saved, busy = (saved + 2 + hidden) * width * places, hidden // 2 * width * places
    return Piece(weights, saved, tuple(scores), width * places, busy, adapted)


def unet(settings: Settings, shape: Shape) -> list[Piece]:
    """Return the pieces of a UNet2DConditionModel."""
    return list(_UNet(settings, shape).pieces())


def unet_of_pixels(settings: Settings, shape: Shape) -> list[Piece]:
    """Return the pieces of a UNet2DConditionModel of DeepFloyd IF."""
    return list(_UNetOfPixels(settings, shape).pieces())


def unidiffuser(settings: Settings, shape: Shape) -> list[Piece]:
    """Return the pieces of a UniDiffuserModel, whose blocks all see text, picture and embedding at once."""
    heads, depth, patch = (settings[name] for name in ("num_attention_heads", "num_layers", "patch_size"))
    width = heads * settings["attention_head_dim"]
    height, width_of_latents = shape.size
    others = 4 if settings.get("use_data_type_embedding") else 3  # two timesteps, the picture's embedding, the data
    tokens = others + settings["num_text_tokens"] + (height // patch) * (width_of_latents // patch)
    places = shape.rows * tokens
    each = block(width, heads, places, shape.rows)
    skip = Piece(_linear(2 * width, width) + 2 * width, 3 * width * places)
    return [*[each] * (depth // 2 + 1), *[skip, each] * (depth // 2)]


def multimodal(settings: Settings, shape: Shape) -> list[Piece]:
    """Return the pieces of an SD3Transformer2DModel, whose blocks have weights for the picture and for the prompt."""
    heads, depth, patch = (settings[name] for name in ("num_attention_heads", "num_layers", "patch_size"))
    width = heads * settings["attention_head_dim"]
    height, width_of_latents = shape.size
    rows, of_prompt = shape.rows, shape.rows * (shape.tokens + _T5_TOKENS)
    of_picture = rows * (height // patch) * (width_of_latents // patch)
    both = of_picture + of_prompt

    def each(is_last: bool) -> Piece:
        # attention of both, and for each the shifts and scales of its norms, and a hidden layer of four widths
        weights = 8 * _linear(width, width) - is_last * _linear(width, width)
        weights += _linear(width, 6 * width) + _linear(width, (2 if is_last else 6) * width)
        weights += (1 if is_last else 2) * (_linear(width, 4 * width) + _linear(4 * width, width))
        hidden = of_picture if is_last else both
        saved = (9 * both + 12 * hidden) * width
        adapted: Adapted = {
            "attention": (12 if is_last else 16) * width,
            "feed_forward": (10 if is_last else 20) * width,
        }
        return Piece(weights, saved, (heads * both * (both // rows),), both * width, 4 * hidden * width, adapted)

    pooled, first = settings["pooled_projection_dim"], settings["joint_attention_dim"]
    time = _linear(256, width) + _linear(width, width) + _linear(pooled, width) + _linear(width, width)
    values = patch * patch * settings["in_channels"]
    begin = Piece(
        time + _linear(first, width) + values * width + width,
        values * of_picture + first * of_prompt,
        adapted={"time": 256 + 6 * width + pooled},
    )
    end: Adapted = {"feed_forward": width + values}
    out = Piece(_linear(width, 2 * width) + _linear(width, values), 3 * width * of_picture, adapted=end)
    return [begin, *[each(False)] * (depth - 1), each(True), out]


def text_encoder(settings: Settings, shape: Shape) -> list[Piece]:
    """Return the pieces of the encoders of prompts: CLIP, BERT, XLM-RoBERTa."""
    places = shape.rows * shape.tokens
    width, heads = settings["hidden_size"], settings["num_attention_heads"]
    return [block(width, heads, places, shape.rows)] * settings["num_hidden_layers"]


# kind of a network that may train, as the families have it -> its pieces
COUNTS: dict[str, Callable[[Settings, Shape], list[Piece]]] = {
    "convolutional": unet,
    "pixels": unet_of_pixels,
    "joint": unidiffuser,
    "multimodal": multimodal,
    "encoder": text_encoder,
}


def adapted_weights(pieces: list[Piece]) -> Mapping[LayerKind, int]:
    """Return the weights of a LoRA of rank 1, by the kind of the layers."""
    found: Counter[LayerKind] = Counter()
    for piece in pieces:
        found.update(piece.adapted)
    return found


def whole(pieces: list[Piece], weights: int) -> list[Piece]:
    """Return pieces with all weights of a network: those of its embeddings are in none, and go to the first."""
    rest = weights - sum(piece.weights for piece in pieces)
    return [Piece(rest, 0), *pieces]


def autoencoder(settings: Settings, size: Size) -> int:
    """Return how many numbers the VAE has at work for one picture of a size in pixels.

    Its widest layers are those at the picture's own size. How many tensors of them live at once was measured.
    """
    channels = settings["block_out_channels"]
    return _LIVING * int(max(channels[:2])) * size[0] * size[1]


def drawing(pieces: list[Piece]) -> int:
    """Return how many numbers a forward pass has at once that keeps nothing for a backward pass."""
    skips = sum(piece.input or 0 for piece in pieces) // 2
    return skips + max(piece.saved + piece.busy for piece in pieces)
