"""LMDBs of pictures: reading, planning, creating, checking."""
