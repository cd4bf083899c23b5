"""Keras 3: what we observe of fit, and the techniques that act on it."""

from __future__ import annotations

# A technique is a module of this folder; the order is that of the listings.
TECHNIQUES = (
    "mixed_precision",
    "fused_optimizer",
    "compilation",
    "steps_per_execution",
    "workers",
    "backend",
    "gradient_accumulation",
    "brakes",
)
