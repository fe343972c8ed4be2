"""Training of the denoiser. `python -m pixtools.training --help` shows how to run it."""
