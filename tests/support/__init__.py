"""The tools of the tests. Once they are imported, only test_gpu.py's processes see a card."""

import os

# before Paddle is imported, which looks for cards then; the processes of pytest-xdist inherit both
VISIBLE = os.environ.setdefault("CARDS_OF_THE_TESTS", os.environ.get("CUDA_VISIBLE_DEVICES", "all"))
os.environ["CUDA_VISIBLE_DEVICES"] = ""
