"""A drawn world, and a small Stable Diffusion that knows it: the model that the project carries with it."""

from pathlib import Path

HERE = Path(__file__).parent
MODEL, CLIP, DETECTOR = HERE / "model", HERE / "clip", HERE / "detector.safetensors"
