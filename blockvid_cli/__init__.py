"""blockvid: a storyboard of timed captions becomes a coherent, minute-long video."""

import logging

__version__ = "0.1.0"

logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)  # it tells of accelerators nobody asked for
