"""Models out of files: diffusers directories and single files of safetensors, checked and made networks of."""
