"""The demo pair: a problem generator, its training and its measurement; a test instrument, not a product."""
