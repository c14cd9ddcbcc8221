"""Running: the service loop, slots, the worker in each slot, log capture, liveness.

This package imports nothing by itself: a worker imports only its own side.
"""
