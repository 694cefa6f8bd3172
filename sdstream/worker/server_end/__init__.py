"""The server's end of the worker process, behind `worker.client`: starts it, watches it, outlives it. No torch."""
