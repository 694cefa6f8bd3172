"""StreamDiffusion's algorithm on current diffusers: schedules, the frame, its state, prompts, seeds and models.

Torch only: nothing here knows of asyncio, video or HTTP. `frame.Frame` is the picture's way through the networks as one
function of tensors, `state.StreamTable` holds what that function is given for every stream.
"""
