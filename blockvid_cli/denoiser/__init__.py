"""Networks brought to one contract; importing this quiets what their libraries say of accelerators nobody asked for."""

import logging

logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
