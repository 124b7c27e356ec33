"""Who is who: certificates, keys and tokens, made and checked. Nothing here listens."""
