"""Denoising: the network and its weights, the engines that run the network, and how pictures are cut into tiles."""
