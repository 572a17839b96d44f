"""The first import of every room that needs torch: without it, it says what to install."""

from bilevel.extras import require

require("torch", "This part of bilevel (layers, adjoints, learning, smooth problems)")
