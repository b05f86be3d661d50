"""A drawn world, and a small Stable Diffusion that knows it: the model that the project carries with it."""
