"""The files that the project carries: the embedded model, its CLIP and its detector."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent
ROOT = FOLDER.parent  # of the project
MODEL, CLIP, DETECTOR = FOLDER / "model", FOLDER / "clip", FOLDER / "detector.safetensors"
UPSCALER = FOLDER / "upscaler"
