"""DreamBooth for PaddlePaddle: the parts of the story that train_dreambooth.py tells."""
