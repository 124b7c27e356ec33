"""The conformance kit: made from the spelled-out rules and from recorded sessions, and replayed against the code."""
