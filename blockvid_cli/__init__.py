"""blockvid: a storyboard of timed captions becomes a coherent, minute-long video."""

import logging

__version__ = "0.1.0"

for _name in ("bitsandbytes.backends.cpu.ops", "bitsandbytes.autograd._functions"):
    logging.getLogger(_name).setLevel(logging.ERROR)  # they tell of every cast, and of accelerators nobody asked for
