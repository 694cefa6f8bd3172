"""The worker: the one process that owns the GPU and makes pictures, and the server's handle of it.

In the server, without torch: `client`, with `server_end` behind it. In the worker's process: `main` and what it
imports. `messages` over the `channel` and pictures through the `ring` of shared memory connect the two. A stream has
a *lane* here; `scheduling` says what is made next, `loading` brings what new params need, `processors` are the image
processors.
"""
