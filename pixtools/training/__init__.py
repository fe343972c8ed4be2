"""Training of the denoiser: `python -m pixtools.training --help`."""
