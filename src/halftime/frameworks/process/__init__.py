"""What acts on the process, whatever the framework."""

from __future__ import annotations

# A technique is a module of this folder; the order is that of the listings.
TECHNIQUES = ("allocator", "garbage_collection")
