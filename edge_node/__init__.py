"""The edge node: one large target model, many devices."""
