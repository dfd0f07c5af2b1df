"""Who we are: sources, what keeps their tokens current, and what becomes known of them."""
