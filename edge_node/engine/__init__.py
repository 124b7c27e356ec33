"""The target model behind one verb: spans of positions in, logits of the wanted rows out."""
