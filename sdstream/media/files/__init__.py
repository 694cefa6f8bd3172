"""Video files: read picture by picture, written whole or not at all."""
