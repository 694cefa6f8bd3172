"""Networks that look at a picture for an image processor: depth, edges, drawings, people, more pixels.

Their weights come from the hub's cache. Nothing here imports transformers until a network of it is loaded.
"""
