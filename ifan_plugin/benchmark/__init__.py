"""``basicsr benchmark``: models x test sets -> one report."""
