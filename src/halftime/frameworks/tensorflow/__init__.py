"""TensorFlow: its pipelines of tf.data, and the techniques that act on them."""

from __future__ import annotations

# A technique is a module of this folder; the order is that of the listings.
TECHNIQUES = ("store", "prefetch", "parallel_map", "batched_map", "autotune", "threads")
