"""Who calls: tokens of an OpenID Connect issuer, or of the embedded identity."""
