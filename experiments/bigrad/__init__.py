"""What bilevel layers learn that two steps do not."""
