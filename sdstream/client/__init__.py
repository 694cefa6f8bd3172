"""The client of a RunPod endpoint that runs sdstream: jobs, their events, and sessions. Needs httpx only."""

from sdstream.client.runpod import EndpointHealth, JobView, RunPodClient

__all__ = ["EndpointHealth", "JobView", "RunPodClient"]
