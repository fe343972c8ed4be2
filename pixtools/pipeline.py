"""The library face of PixTools: runs the steps of a job on pictures in memory, for example in your own Ray tasks."""

from dag.pipeline import File, Pipeline

__all__ = ["File", "Pipeline"]
