"""JAX: what we observe of scripts with a jitted step, and the techniques that act on them."""

from __future__ import annotations

# A technique is a module of this folder; the order is that of the listings.
TECHNIQUES = ("compilation_cache", "matmul_precision")
