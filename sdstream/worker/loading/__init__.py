"""What new params need before they come into force: loaded beside the pictures, on threads, and kept for all."""
