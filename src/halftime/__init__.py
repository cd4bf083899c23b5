"""halftime: cut deep-learning training time on the hardware one has."""

__version__ = "0.1.0"
