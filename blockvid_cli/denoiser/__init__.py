"""Networks brought to one contract."""
