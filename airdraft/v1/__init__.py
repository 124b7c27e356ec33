"""Stubs of proto/airdraft/v1, made by the build hook; ``airdraft.wire`` alone imports them."""
