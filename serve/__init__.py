"""The ingress and the denoiser, which run on Ray Serve, and the command line `pixtools`."""
