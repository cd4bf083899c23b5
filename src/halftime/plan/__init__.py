"""What should the user do? The plan: chosen, written, applied."""
