"""Denoising: the network and its weights, the engines that run it, and how pictures are cut into tiles."""
