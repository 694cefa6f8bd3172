"""Bakes engines before they are needed: `python -m builder`, or `builder.baking.bake` from a program.

A profile says which model at which sizes for which GPUs; baking makes what the cache lacks of it. All that is made here
goes through `sdstream.engines`, so what is baked is found by the worker under the same keys.
"""
