"""Curation (section 3.2): from footage to clean segments, in the paper's four stages."""
