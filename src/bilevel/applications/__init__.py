"""Problems from practice, built from their data; nothing here solves a bilevel problem."""
