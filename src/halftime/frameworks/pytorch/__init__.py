"""PyTorch: what we observe of it, and the techniques that act on it."""

from __future__ import annotations

# A technique is a module of this folder; the order is that of the listings.
TECHNIQUES = (
    "store",
    "device_data",
    "workers",
    "prefetch",
    "mixed_precision",
    "channels_last",
    "fused_optimizer",
    "compilation",
    "matmul_precision",
    "cudnn_autotune",
    "pinned_memory",
    "threads",
    "gradient_accumulation",
    "micro_batches",
    "activation_checkpointing",
    "brakes",
)
OF_LOADERS = ("store", "workers", "prefetch")
"""Those that act on a DataLoader, whatever trains on what it gives."""
OF_A_BACKEND = ("matmul_precision",)
"""Those that act where Keras computes with PyTorch."""
