"""Decisions from the channel (``coordinator.policy``, embedded in both ends) and, later, the fleet service."""
