"""An emulated world for tests, demo, bench and simulator. ``edge_node serve`` never imports it."""
