"""`tfdfd web`: a static site that finds and scores faces in the visitor's browser."""
