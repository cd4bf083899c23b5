"""Everything that knows a framework; the framework is handed in, never imported."""
