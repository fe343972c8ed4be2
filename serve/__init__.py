"""The HTTP service on Ray Serve: ingress, denoiser deployment, and the command line `pixtools`."""
