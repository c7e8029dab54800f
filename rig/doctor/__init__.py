"""Knowing a power source before trusting it: a known load, what the source made of it, and what the device is like.

load      which load the device can be given, and the pattern of its steps
readings  one trace by itself: update period, quantum, noise
response  the trace against the load's edges: averaging window, lag, active power
source    one source characterized, in as many passes as its slowness needs
levels    two sources at several load levels: what a calibration is fitted to
device    everything else: clock, governor, heat, disk, libraries
"""
