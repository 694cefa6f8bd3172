"""Jobs of a RunPod serverless worker: their inputs, their actions, and the way to the worker that has a session.

A `start` job is the session itself; the others are short. Nothing here knows RunPod's SDK: `sdstream.serverless` does.
"""
