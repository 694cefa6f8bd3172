"""Convolutions with what stands around them in one step, each computed the way that was the fastest on the card."""
