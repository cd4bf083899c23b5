"""One record, several readers."""
