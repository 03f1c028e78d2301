"""blockvid: a storyboard of timed captions becomes a coherent, minute-long video."""

__version__ = "0.1.0"
