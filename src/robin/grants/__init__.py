"""From an identity token to a credential that an origin accepts."""
