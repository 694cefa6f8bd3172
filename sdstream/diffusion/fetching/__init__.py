"""Files of models: where they are, from where they are fetched, and what they are held to. No torch."""
