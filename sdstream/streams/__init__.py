"""What a stream is: its record, its parameters in force, its state, its outputs, and the room that it needs.

`service` is what the API talks to. `live` joins a stream's media with its lane in the worker while somebody publishes
or watches; `state` computes the state from times, `capacity` says who fits, `store` keeps the records. No torch here.
"""
