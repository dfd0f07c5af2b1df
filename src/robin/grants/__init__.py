"""From an identity token to a credential an origin accepts."""
