"""What the worker does next, and who rides together: choices over values, and the loop that carries them out."""
