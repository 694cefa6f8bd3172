"""Matrix products in eight bits, for GPUs that have them, where an operator asks for it."""
