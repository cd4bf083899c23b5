"""TensorFlow: its pipelines of tf.data, and the techniques that act on them."""

from __future__ import annotations

# A technique is a module of this folder; the order is that of the listings.
OF_PIPELINES = ("store", "prefetch", "parallel_map", "batched_map", "autotune")
"""Those that act on a pipeline of tf.data, whatever trains on what it gives."""
TECHNIQUES = (*OF_PIPELINES, "length_bucketing", "threads")
