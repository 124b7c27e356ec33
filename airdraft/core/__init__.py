"""Pure parts: types, path hashes, drafting, acceptance, the session cores. No I/O, no clock, no hidden chance."""
