"""The device client: drafts with a small model, shows text at once, owns what is committed."""
