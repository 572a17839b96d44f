"""Three kinds of coupling choose three different strains."""
