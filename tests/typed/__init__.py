"""The types that a user's type checker sees."""
