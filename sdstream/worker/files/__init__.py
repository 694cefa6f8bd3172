"""Files of models and networks: where they are published, which are here, how they are fetched. No torch."""
