"""Heads for semantic acceptance: labels without people, training, and the risk table. Offline tools; nothing serves."""
